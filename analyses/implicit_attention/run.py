"""What do the scans of the demo pair read, and what does the subtraction take away? Runs the notebook and keeps it.

    python analyses/implicit_attention/run.py

Executes notebook.ipynb in a fresh kernel, keeps its outputs, and writes results.json and the findings in README.md
from its last cell. Needs nothing but the bundled models; about a minute on two cores.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from diffmamba_interp.analysis.page import write_page
from diffmamba_interp.analysis.question import run_command
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.files.json_files import results_json
from diffmamba_interp.files.locks import folder_lock

HERE = Path(__file__).parent
MAX_BYTES = 600_000


def main(out: Path = HERE, timeout_s: int = 600) -> None:
    """Execute the notebook; write it, results.json and README.md into `out`. timeout_s: limit of each cell."""
    notebook = nbformat.read(HERE / "notebook.ipynb", as_version=4)
    client = NotebookClient(
        notebook, timeout=timeout_s, record_timing=False, resources={"metadata": {"path": str(HERE)}}
    )
    client.execute()
    # Without the indentation, a fifth of its size.
    content = re.sub(r"^ +", "", nbformat.writes(tidy(notebook)), flags=re.MULTILINE) + "\n"
    if len(content.encode()) > MAX_BYTES:
        raise ValueError(f"the executed notebook has {len(content)} characters, more than {MAX_BYTES}: draw less.")
    last = notebook.cells[-1].outputs[-1].data
    with folder_lock(out):
        write_text(out / "notebook.ipynb", content)
        write_text(out / "results.json", results_json(last["application/json"], digits=17) + "\n")
        write_page(HERE, out, {"findings": last["text/markdown"].strip().split("\n")})


def tidy(notebook: Any) -> Any:
    """The notebook without what differs from machine to machine, or is an output's poorer double."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            if len(output.get("data", {})) > 1:
                output.data.pop("text/plain", None)
    return notebook


if __name__ == "__main__":
    sys.exit(run_command(main))
