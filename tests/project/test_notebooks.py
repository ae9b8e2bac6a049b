"""The notebooks as they are shipped; `make notebooks` runs them, in a step of CI of its own."""

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

NAMES = ("first_look", "lens_and_needle", "lambda", "own_checkpoint")
MAX_BYTES = 60_000


@pytest.fixture(scope="module")
def notebooks(project_root: Path) -> dict[str, Any]:
    folder = project_root / "docs" / "notebooks"
    read = {file.stem: nbformat.read(file, as_version=4) for file in sorted(folder.glob("*.ipynb"))}
    assert not [file.name for file in folder.glob("*.ipynb") if "\n " in file.read_text(encoding="utf-8")]
    assert set(read) == set(NAMES)
    return read


@pytest.fixture
def notebook(notebooks: dict[str, Any], request: pytest.FixtureRequest) -> Any:
    return notebooks[request.param]


every_notebook = pytest.mark.parametrize("notebook", NAMES, indirect=True)


@every_notebook
def test_a_notebook_was_run_in_order_without_errors_and_draws_nothing_that_needs_a_script(notebook: Any) -> None:
    nbformat.validate(notebook)
    assert len(nbformat.writes(notebook).encode()) <= MAX_BYTES
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs
    assert {output.output_type for output in outputs} <= {"display_data", "execute_result", "stream"}
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert kinds <= {"image/svg+xml", "text/markdown", "text/plain"}
    assert all(output.name == "stdout" for output in outputs if output.output_type == "stream")


@every_notebook
def test_its_first_code_installs_what_is_missing_and_nothing_else_is_of_a_checkout(notebook: Any) -> None:
    first, *others = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert 'find_spec("diffmamba_interp") is None' in first
    assert '"pip", "install"' in first
    trees = [ast.parse(source) for source in others]
    imported = {
        name
        for tree in trees
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert {name.split(".")[0] for name in imported} <= {"diffmamba_interp", "torch", "IPython", "tempfile", "pathlib"}


def test_the_first_look_has_ten_cells(notebooks: dict[str, Any]) -> None:
    assert len(notebooks["first_look"].cells) == 10


@every_notebook
def test_the_files_that_it_sends_its_reader_to_exist(notebook: Any, project_root: Path) -> None:
    told = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for name in re.findall(r"`((?:analyses|docs)/[\w./]+)`", told):
        assert (project_root / name).exists(), name
    for name in re.findall(r"`(\w+)\.ipynb`", told):
        assert name in NAMES
