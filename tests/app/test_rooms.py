"""The explorer's rooms: a shell, and pages that know the shell and themselves only."""

import ast
from collections.abc import Iterator
from pathlib import Path

MAX_FLOORS = 6


def imports(file: Path) -> Iterator[str]:
    """Modules of the explorer that a file imports, at its head or in a function."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "app":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_page_imports_another_and_the_shell_imports_no_page(project_root: Path) -> None:
    for file in sorted((project_root / "app").rglob("*.py")):
        room = ".".join(file.relative_to(project_root).parent.parts)
        allowed = ("app.shell.", f"{room}.") if room.startswith("app.pages_.") else ("app.shell.",)
        assert [name for name in imports(file) if not name.startswith(allowed)] == [], file


def test_no_file_stands_higher_than_the_sixth_floor(project_root: Path) -> None:
    files = {
        ".".join(file.relative_to(project_root).with_suffix("").parts): file
        for file in (project_root / "app").rglob("*.py")
    }
    below = {
        module: {name if name in files else name.rpartition(".")[0] for name in imports(file)}
        for module, file in files.items()
    }

    def floor(module: str, above: tuple[str, ...] = ()) -> int:
        assert module not in above, f"a circle of imports: {above}"
        return 1 + max((floor(name, (*above, module)) for name in below[module]), default=0)

    assert max(map(floor, files)) <= MAX_FLOORS
