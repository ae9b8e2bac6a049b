"""The notebooks as pages: their text, code and outputs, with their figures as files beside the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def notebooks() -> dict[str, Path]:
    """Every notebook by the name of its page, those of `docs/notebooks` first."""
    own = {path.stem: path for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))}
    return own | {path.parent.name: path for path in sorted((ROOT / "analyses").glob("*/notebook.ipynb"))}


def page(path: Path, name: str) -> tuple[str, dict[str, str]]:
    """The page of a notebook, and its figures: SVG by the name of the file that the page shows."""
    figures: dict[str, str] = {}
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [part for cell in cells for part in _parts(cell, name, figures)]
    return "\n\n".join([*parts, f"[This page as a notebook]({name}.ipynb)"]) + "\n", figures


def _parts(cell: dict[str, Any], name: str, figures: dict[str, str]) -> Iterator[str]:
    """A cell and its outputs, as Markdown."""
    source = "".join(cell["source"]).strip()
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield _fenced("python", source)
    for output in cell["outputs"]:
        data = output.get("data", {})
        if output["output_type"] == "stream":
            yield _fenced("text", "".join(output["text"]))
        elif "image/svg+xml" in data:
            file = f"{name}-{len(figures)}.svg"
            figures[file] = "".join(data["image/svg+xml"])
            yield f"![figure {len(figures)} of this page]({file})"
        elif "text/markdown" in data:
            yield "".join(data["text/markdown"])
        elif "text/plain" in data:
            yield _fenced("text", "".join(data["text/plain"]))
        else:
            yield "*A figure that moves: run the notebook to see it.*"


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"
