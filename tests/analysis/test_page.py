"""A page is its template with what was found between markers."""

from pathlib import Path

import pytest

from diffmamba_interp.analysis.page import made_with, points, table, write_page

TEMPLATE = "# Why\n\n<!-- findings: written by run.py -->\nold\n<!-- end of findings -->\n\nMethod.\n"


def test_only_what_stands_between_the_markers_is_written(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(TEMPLATE, encoding="utf-8")
    write_page(tmp_path, tmp_path / "out", {"findings": [r"new \1 {x}", "", "two", ""]})
    written = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert written == TEMPLATE.replace("old", "new \\1 {x}\n\ntwo")
    write_page(tmp_path / "out", tmp_path / "out", {"findings": [r"new \1 {x}", "", "two"]})
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == written


@pytest.mark.parametrize("template", ["# Why\n", TEMPLATE + TEMPLATE])
def test_a_block_without_a_place_of_its_own_is_named_with_its_markers(template: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(template, encoding="utf-8")
    with pytest.raises(ValueError, match=r"README.md has [02] places for the block 'findings'.*<!-- findings: "):
        write_page(tmp_path, tmp_path, {"findings": ["new"]})


def test_a_table_has_a_cell_for_each_head_and_leaves_empty_ones_empty() -> None:
    assert table(["a", "b"], [[1, ""], ["x", 0]]) == ["| a | b |", "| --- | --- |", "| 1 | |", "| x | 0 |"]


def test_what_has_no_value_is_a_gap_in_a_curve() -> None:
    (known, unknown) = points([[1.0, 0.5, 2.0], [None, None, None]])
    assert known == (1.0, 0.5, 2.0)
    assert str(unknown) == "(nan, nan, nan)"


@pytest.mark.parametrize(
    ("lenses", "end"),
    [(None, "Weights: m `1`."), ({}, "`1`. Read with the logit lens."), ({"m": "2"}, "`1`. Tuned lenses: m `2`.")],
)
def test_a_section_says_what_it_was_made_with(lenses: dict[str, str] | None, end: str) -> None:
    made = {"seed": 7, "device": "cpu", "versions": {"torch": "2"}, "models": {"m": "1"}}
    made |= {} if lenses is None else {"lenses": lenses}
    line = made_with({"provenance": made})
    assert line.startswith("Seed 7, on cpu, torch 2. Weights: m `1`.")
    assert line.endswith(end)
