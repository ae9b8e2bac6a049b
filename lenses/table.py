"""Bring the table in lenses/README.md up to date with the lenses beside it: `python lenses/table.py`."""

from pathlib import Path

from diffmamba_interp.lens.card import catalogue

HERE = Path(__file__).parent
BEGIN, END = "<!-- table: made by lenses/table.py -->\n", "<!-- end of table -->\n"


def with_table(text: str) -> str:
    """`text` with a fresh table between its two marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + "\n".join(catalogue(HERE)) + "\n" + END + after


if __name__ == "__main__":
    readme = HERE / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
