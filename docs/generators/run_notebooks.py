"""Run the notebooks in docs/notebooks in fresh kernels: `make notebooks` does, and CI.

    python docs/generators/run_notebooks.py [--keep] [NAME ...]

A cell that fails, warns or takes the notebook past a minute is an error. `--keep` writes the outputs into the
notebooks: SVG, text and tables, nothing interactive, without what differs from machine to machine.
"""

from __future__ import annotations

import os
import re
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
MOST_S = 60.0
"""Of a processor, the kernel's start included, so that a busy machine makes no notebook slow."""
MAX_BYTES = 60_000
"""Of a notebook with its outputs."""


def main(args: Sequence[str]) -> int:
    """Run the notebooks that are named, or all of them; 0 if every cell runs and none takes too long."""
    names = [name for name in args if name != "--keep"] or [file.stem for file in sorted(FOLDER.glob("*.ipynb"))]
    slow = []
    for name in names:
        began = _kernels_s()
        notebook = executed(FOLDER / f"{name}.ipynb")
        seconds = _kernels_s() - began
        # Without the indentation, a tenth of its size.
        content = re.sub(r"^ +", "", nbformat.writes(notebook), flags=re.MULTILINE) + "\n"
        print(f"{name}: {seconds:.0f} s, {len(content.encode()):,} bytes", flush=True)
        if len(content.encode()) > MAX_BYTES:
            raise ValueError(f"{name} is larger than {MAX_BYTES:,} bytes with its outputs: draw less.")
        if seconds > MOST_S:
            slow.append(name)
        if "--keep" in args:
            (FOLDER / f"{name}.ipynb").write_text(content, encoding="utf-8")
    if slow:
        print(f"longer than {MOST_S:.0f} s: {', '.join(slow)}. Ask less of them.")
    return 1 if slow and "--keep" not in args else 0


def _kernels_s() -> float:
    """Processor time of the kernels that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def executed(path: Path) -> Any:
    """The notebook with the outputs of a fresh kernel, in an empty folder. Raises what a cell raised."""
    notebook = nbformat.read(path, as_version=4)
    # No progress bar is shown, so the widgets that one would need are not missed.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=600, record_timing=False, resources=where).execute()
    for number, cell in enumerate(notebook.cells):
        cell.metadata = {}
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                raise ValueError(f"{path.name}, cell {number} writes to stderr: {output.text}")
            if len(output.get("data", {})) > 1:
                output.data.pop("text/plain", None)
    return notebook


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
