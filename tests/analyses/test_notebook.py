"""The notebook on implicit attention runs, and what it and its README say is what the bundled models do.

The cells are run in this process: a kernel of its own would be slower, and its warnings nobody's error.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch

from diffmamba_interp.models.demo import DEMO_NAMES, demo_folder
from diffmamba_interp.runs.provenance import weights_sha256

MAX_BYTES = 600_000
# Running the cells takes some 25 s on a core of one's own, and is put to the account of the first test.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def folder(project_root: Path) -> Path:
    return project_root / "analyses" / "implicit_attention"


@pytest.fixture(scope="module")
def notebook(folder: Path) -> Any:
    return nbformat.read(folder / "notebook.ipynb", as_version=4)


@pytest.fixture(scope="module")
def shipped(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def names(notebook: Any) -> Iterator[dict[str, Any]]:
    """What the notebook's cells leave behind."""
    import plotly.io as pio

    renderer, found = pio.renderers.default, {}
    try:
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                exec(compile(cell.source, f"notebook cell {number}", "exec"), found)
        yield found
    finally:
        torch.set_grad_enabled(True)
        pio.renderers.default = renderer


def test_every_cell_runs_and_rebuilds_the_models_values(names: dict[str, Any]) -> None:
    assert names["results"]["largest_relative_error"] < 1e-5
    assert max(names["remainders"].values()) < 1e-4


def test_the_results_are_those_shipped(names: dict[str, Any], shipped: dict[str, Any]) -> None:
    fresh = names["results"]
    assert fresh["right"] == shipped["right"]
    assert fresh["claims"].keys() == shipped["claims"].keys()
    for claim, values in shipped["claims"].items():
        for number in ("value", "low", "high"):
            assert fresh["claims"][claim][number] == pytest.approx(values[number], rel=1e-3, abs=1e-3), claim
    for name, share in shipped["noise_share"].items():
        assert fresh["noise_share"][name] == pytest.approx(share, abs=1e-3), name


def test_readme_results_and_notebook_state_the_same_findings(
    folder: Path, notebook: Any, shipped: dict[str, Any]
) -> None:
    told = notebook.cells[-1].outputs[-1].data
    assert told["text/markdown"].strip() in (folder / "README.md").read_text(encoding="utf-8")
    assert told["application/json"] == shipped


@pytest.mark.parametrize("name", DEMO_NAMES)
def test_the_findings_speak_of_the_model_that_is_shipped(folder: Path, shipped: dict[str, Any], name: str) -> None:
    digest = weights_sha256(demo_folder(name))  # type: ignore[arg-type]
    again = "run `python analyses/implicit_attention/run.py`: the findings are those of another model"
    assert shipped["provenance"]["models"][name] == digest, again
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert re.findall(rf"(?<![\w-]){name} `(\w+)`", readme) == [digest[:12]], again


def test_the_outputs_are_kept_small_and_without_errors_or_warnings(folder: Path, notebook: Any) -> None:
    assert (folder / "notebook.ipynb").stat().st_size <= MAX_BYTES
    assert "\n " not in (folder / "notebook.ipynb").read_text(encoding="utf-8"), "kept without indentation"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run in order, in a fresh kernel"
    assert {output.output_type for cell in code for output in cell.outputs} == {"display_data"}
