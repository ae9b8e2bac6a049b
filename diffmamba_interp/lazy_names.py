"""Names that a package loads when they are first used, so that importing it loads none of its modules.

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffmamba_interp.lens.folders import load_lens

__all__ = ["load_lens"]

__getattr__, __dir__ = lazy_names(__name__)

What type checkers import is what is loaded: it is read from the package's file, so that it stands in one place. A name
must not be that of a module of the package, which would take its place once somebody imports the module.
"""

from __future__ import annotations

import ast
import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of the package that is being imported.

    What `__getattr__` raises: AttributeError for a name that is none of its, ImportError for one whose module cannot
    be imported.
    """
    module = sys.modules[package]
    home = _homes(Path(str(module.__file__)))

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}. It has: {', '.join(sorted(home))}.")
        try:
            with _uncollected():
                value = getattr(importlib.import_module(home[name]), name)
        except AttributeError as error:
            # `from package import name` would take it for a missing name and drop what went wrong.
            raise ImportError(
                f"{package}.{name} cannot be loaded, since importing {home[name]} failed: {error}"
            ) from error
        setattr(module, name, value)
        return value

    return load, lambda: sorted({*vars(module), *home})


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for garbage meanwhile: what a library makes as it loads stays, and looking through it takes a tenth of
    PyTorch's import."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _homes(file: Path) -> dict[str, str]:
    """The names that a file imports below `if TYPE_CHECKING:`, and the modules that they are in."""
    (checked,) = [node for node in ast.parse(file.read_bytes()).body if isinstance(node, ast.If)]
    imports = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
