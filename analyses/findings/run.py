"""What was found: the table of the repository's README.md, from the records and results that the questions ship.

    python analyses/findings/run.py

Every row says what it holds for (the shipped weights, or training seeds), with intervals and n. `rows.py` lists them,
a function for each; where a record no longer says what a sentence says, it is refused rather than written.
"""

from __future__ import annotations

import sys
from pathlib import Path

from analyses.findings import rows
from diffmamba_interp.analysis.page import table, write_page
from diffmamba_interp.analysis.question import run_command

ROOT = Path(__file__).parents[2]
BLOCK = "analyses/findings"
HEADS = ("question", "answer", "holds for", "n", "page")


def main(out: Path = ROOT) -> None:
    """Write the block into README.md.

    out: folder for README.md; the repository's is the template.
    """
    write_page(ROOT, out, {BLOCK: lines()})


def lines() -> list[str]:
    """The table's lines, row by row in the order of `rows.ROWS`."""
    told = [one for one in (row() for row in rows.ROWS) if one is not None]
    return table(HEADS, [(one.question, one.answer, one.holds_for, one.n, f"`analyses/{one.page}`") for one in told])


if __name__ == "__main__":
    sys.exit(run_command(main))
