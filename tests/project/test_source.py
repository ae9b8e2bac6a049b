"""House rules that a reader would otherwise have to watch by eye."""

import ast
import re
from pathlib import Path

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_TRACKED_BYTES = 32 * 2**20

# An absolute path into one person's machine; what follows a letter, a digit or another path is none.
MACHINE_PATH = re.compile(rb"(?<![\w.\-/:<>])/(?:work|root|home|tmp|Users|mnt|opt)/\w|[A-Z]:\\\\?Users")


def test_no_file_of_the_package_is_longer_than_400_lines(package_sources: list[Path]) -> None:
    lengths = {file.name: len(file.read_text(encoding="utf-8").splitlines()) for file in package_sources}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_no_function_of_the_package_is_longer_than_60_lines(package_sources: list[Path]) -> None:
    too_long = {
        f"{file.name}:{node.lineno} {node.name}": length
        for file in package_sources
        for node in ast.walk(parse(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := lines_without_docstring(node)) > MAX_FUNCTION_LINES
    }
    assert too_long == {}


def test_only_entry_points_print(package_sources: list[Path], entry_points: set[str]) -> None:
    quiet = [
        file for file in package_sources if file.parent.name != "diffmamba_interp" or file.stem not in entry_points
    ]
    prints = [
        f"{file.name}:{node.lineno}"
        for file in quiet
        for node in ast.walk(parse(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert prints == []


def test_nothing_is_unpickled(package_sources: list[Path]) -> None:
    unsafe = [
        f"{file.name}:{node.lineno}"
        for file in package_sources
        for node in ast.walk(parse(file))
        if isinstance(node, ast.Call) and unpickles(node)
    ]
    assert unsafe == []


def test_no_file_names_a_path_of_one_machine(project_files: list[Path]) -> None:
    found = {
        str(file): match.group().decode() for file in project_files if (match := MACHINE_PATH.search(file.read_bytes()))
    }
    assert found == {}


def test_all_files_together_stay_under_32_mib(project_files: list[Path]) -> None:
    sizes = {file.name: file.stat().st_size for file in project_files}
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    assert sum(file.stat().st_size for file in project_files) <= MAX_TRACKED_BYTES, f"largest: {largest}"


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def lines_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def unpickles(call: ast.Call) -> bool:
    """Is this `pickle.load(s)`, or a `torch.load` that does not say `weights_only=True`?"""
    name = ast.unparse(call.func)
    if name in {"pickle.load", "pickle.loads", "joblib.load"}:
        return True
    safe = any(
        keyword.arg == "weights_only" and getattr(keyword.value, "value", None) is True for keyword in call.keywords
    )
    return name == "torch.load" and not safe
