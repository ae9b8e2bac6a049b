"""What the records of held-out text say, in results.json, figures and README.md: bits per byte of both models and their
difference, with intervals over documents.

    bits per byte = sum over documents of bits / sum over documents of bytes

    python analyses/held_out_text/report.py      figures and README.md alone, from results.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis.page import ALL, RECORDS, Page, Results, made_with, points, table, text
from diffmamba_interp.analysis.results import N_RESAMPLES, Records, estimate_from, read_records
from diffmamba_interp.drawing.panels import Drawing, minus
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.statistics import bootstrap_of, ratio_of

FIRST, SECOND = "mamba2", "diff-mamba2"
TITLES = {"paper": "Held-out documents of The Pile", "builtin": "Generated documents"}


def summarise(folder: Path, results: Results) -> dict[str, Any]:
    """A cell for all documents together and, where there are several, for each source."""
    records = read_records(folder / RECORDS)
    sources = sorted(set(records["source"].tolist()))
    return {"cells": [cell(records, source) for source in [ALL, *(sources if len(sources) > 1 else [])]]}


def cell(records: Records, source: str) -> dict[str, Any]:
    """n: documents. n_bytes: of them. Bits per byte of either model and the difference, by name.

    Raises ValueError where the models read different documents.
    """
    of_model = {}
    for name in (FIRST, SECOND):
        chosen = (records["model"] == name) & ((records["source"] == source) | (source == ALL))
        of_model[name] = {key: column[chosen] for key, column in records.items()}
    if not np.array_equal(of_model[FIRST]["document"], of_model[SECOND]["document"]):
        raise ValueError("the models did not read the same documents: run both again.")
    first, second = (of_model[name]["bits"] for name in (FIRST, SECOND))
    n_bytes = of_model[FIRST]["n_bytes"]
    bits = np.stack([first, second, second - first], axis=1)
    estimates = bootstrap_of(ratio_of(bits, n_bytes[:, None]), len(bits), n_resamples=N_RESAMPLES).estimates
    named = dict(zip((FIRST, SECOND, "difference"), estimates, strict=True))
    return {"source": source, "n": len(bits), "n_bytes": int(n_bytes.sum()), **named}


def figures(results: Results, title: str) -> dict[str, Drawing]:
    cells = results["cells"]
    difference = {minus(SECOND, FIRST): points(one["difference"] for one in cells)}
    panel = Curves(title="difference by source", ticks=[one["source"] for one in cells], points=difference)
    return {"difference": curves_drawing([panel], title=title, x_axis="source", y_axis="bits per byte")}


def finding(results: Results, title: str) -> list[str]:
    whole = results["cells"][0]
    sign = estimate_from(whole["difference"]).sign(whole["n"])
    words = {-1: f"**`{SECOND}` needs fewer bits**", 1: f"**`{FIRST}` needs fewer bits**", 0: "**not told apart**"}[
        sign
    ]
    rows = [
        [
            *(one["source"], one["n"], f"{one['n_bytes']:,}"),
            *(text(one[name]) for name in (FIRST, SECOND)),
            text(one["difference"], signed=True),
        ]
        for one in results["cells"]
    ]
    return [
        f"{title} ({whole['n']} documents, {whole['n_bytes']:,} bytes): {words}, {whole[SECOND][0]:.3f} against "
        f"{whole[FIRST][0]:.3f} per byte, {text(whole['difference'], signed=True)}.",
        "",
        *table(["source", "n", "bytes", FIRST, SECOND, "difference"], rows),
        "",
    ]


def section(results: Results) -> list[str]:
    return [made_with(results), ""]


PAGE = Page(
    folder=Path(__file__).parent,
    summarise=summarise,
    figures=figures,
    finding=finding,
    section=section,
    titles=TITLES,
)


if __name__ == "__main__":
    PAGE.write()
