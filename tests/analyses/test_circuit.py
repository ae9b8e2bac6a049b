"""What the circuit analysis computes and says, on cases worked by hand."""

from typing import Any

import numpy as np
import pytest

from analyses.circuit import report

ROWS = ("0 minuend", "0 subtrahend", "3 minuend", "3 subtrahend")


def records_of(changes: dict[str, dict[str, list[tuple[float, float]]]], distances: list[float]) -> dict[str, Any]:
    """changes: by kind and where (exact, estimate) of every pair."""
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("model", "kind", "where", "task", "length", "story", "exact", "estimate", "clean", "corrupted")
    }
    for kind, of_kind in changes.items():
        for where, pairs in of_kind.items():
            for number, ((exact, estimate), distance) in enumerate(zip(pairs, distances, strict=True)):
                line = ("diff-mamba2", kind, where, "qa1", 0.0, f"story {number}", exact, estimate, distance / 2)
                for name, value in zip(columns, (*line, -distance / 2), strict=True):
                    columns[name].append(value)
    return {name: np.array(values) for name, values in columns.items()}


def cell_of(distances: list[float]) -> dict[str, Any]:
    n = len(distances)
    grid = {
        f"{row} | {place}": [
            (distance * (place == carried), distance / 4 * (place == carried)) for distance in distances
        ]
        for row, carried in zip(ROWS, (report.PLACES[0], "", report.PLACES[2], ""), strict=True)
        for place in report.PLACES
    }
    whole = {
        f"{row} | {report.EVERYWHERE}": [(d * (0.8 if "minuend" in row else 0.1), np.nan) for d in distances]
        for row in ROWS
    }
    both = {f"{block} | {report.EVERYWHERE}": [(d * 0.9, np.nan) for d in distances] for block in (0, 3)}
    heads = {
        f"3 minuend, head {head} | {report.EVERYWHERE}": [(d * head / 4, d / 8) for d in distances] for head in range(3)
    }
    read = {row: [(1.0 + number, np.nan) for number in range(n)] for row in ROWS}
    of_heads = {f"3 minuend, head {head}": [(float(head), np.nan)] * n for head in range(3)}
    changes = {
        "branch": grid, "block whole": both, "block lost": both, "branch whole": whole, "branch lost": whole,
        "head": heads, "contribution": read, "head contribution": of_heads,
    }  # fmt: skip
    return report.of_cell(records_of(changes, distances))


def test_shares_are_ratios_of_sums_over_the_pairs_that_are_told_rightly() -> None:
    cell = cell_of([2.0, 6.0, -4.0])
    assert (cell["n"], cell["n_asked"]) == (2, 3)
    assert cell["grid"][f"0 minuend | {report.PLACES[0]}"].value == pytest.approx(1.0)
    assert cell["grid"][f"0 minuend | {report.PLACES[1]}"].value == 0.0
    assert cell["whole"]["3 subtrahend"].value == pytest.approx(0.1)
    assert cell["lost"]["3"].value == pytest.approx(0.9)
    assert cell["heads"]["3 minuend, head 2"].value == pytest.approx(0.5)
    assert cell["heads_estimated"]["3 minuend, head 2"].value == pytest.approx(0.125)
    assert cell["contribution"]["0 minuend"].value == pytest.approx(1.5)
    # A quarter of every change is estimated: in the right order, three quarters of the size missed.
    assert cell["rank_correlation"].value == pytest.approx(1.0)
    assert cell["missed"].value == pytest.approx(0.75)


def test_a_pair_of_little_distance_does_not_decide() -> None:
    changes = np.array([0.0, 9.0])
    assert report.share(changes, np.array([0.001, 10.0])).value == pytest.approx(9 / 10.001)


def test_the_page_names_writer_reader_and_head_and_says_what_the_subtrahend_carries() -> None:
    cell = {
        name: {key: list(vars(value).values()) for key, value in values.items()} if isinstance(values, dict) else values
        for name, values in cell_of([2.0, 6.0]).items()
    }
    for name in ("rank_correlation", "missed"):
        cell[name] = list(vars(cell[name]).values())
    results = {
        "cells": [{"model": "diff-mamba2", "task": "all", "length": 0, **cell}],
        "seconds": {"diff-mamba2": {"sweep_s": 2.0, "backward_s": 0.1}},
    }
    lines = "\n".join(report.finding(results, "Here"))
    assert "what block 0 minuend writes at the label's own token carries 1.00 [1.00, 1.00]" in lines
    assert "what block 3 minuend writes behind the facts 1.00 [1.00, 1.00]; of its heads head 2 most, 0.50" in lines
    assert "Block 3's subtrahend carries little of the label: with it alone 0.10" in lines
    assert "0.1 s in place of 2 s a pair" in lines
    carries = {**cell, "whole": {**cell["whole"], "3 subtrahend": [0.6, 0.5, 0.7]}}
    assert "Block 3's subtrahend carries some of the label" in "\n".join(report.subtrahend_lines(carries))
    drawing = report.figures(results, "Here")["carriers"]
    assert [panel.title for panel in drawing.panels] == ["diff-mamba2, minuend", "diff-mamba2, subtrahend"]
    assert np.allclose(drawing.panels[0].marks[0].values, [[1, 0, 0], [0, 0, 1]])
    heads = report.figures(results, "Here")["heads"].panels[0]
    assert heads.title == "diff-mamba2, block 3 minuend"
    assert [(line.name, list(line.x)) for line in heads.marks[:2]] == [
        ("patched", ["0", "1", "2"]),
        ("estimated by one backward pass", ["0", "1", "2"]),
    ]
    assert np.allclose(heads.marks[0].y, [0.0, 0.25, 0.5])
