"""What questions share is in `diffmamba_interp.analysis`: none of them imports another."""

import ast
from pathlib import Path

import pytest

ANALYSES = Path(__file__).parents[2] / "analyses"


def imported_questions(source: str) -> set[str]:
    """Names of the folders of `analyses` that a module imports from."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("analyses.")}


@pytest.mark.parametrize("file", sorted(ANALYSES.glob("*/*.py")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_question_imports_no_other(file: Path) -> None:
    assert imported_questions(file.read_text(encoding="utf-8")) <= {file.parent.name}


def test_every_form_of_import_is_seen() -> None:
    source = "import analyses.a.run\nfrom analyses.b import run\nfrom analyses import c\nfrom os import path\n"
    assert imported_questions(source) == {"a", "b", "c"}
