"""Names that a package loads when they are first used, so that importing it loads none of its modules.

if TYPE_CHECKING:  # for readers and type checkers
    from diffmamba_interp.lens.folders import load_lens

__all__ = ["load_lens"]

__getattr__, __dir__ = lazy_names(__name__, {"lens.folders": ("load_lens",)})

A name must not be that of a module of the package, which would take its place once somebody imports the module.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose names are in these modules of diffmamba_interp.

    What `__getattr__` raises: AttributeError for a name that is none of them, ImportError for one whose module cannot
    be imported.
    """
    home = {name: f"diffmamba_interp.{module}" for module, names in modules.items() for name in names}

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}. It has: {', '.join(sorted(home))}.")
        try:
            value = getattr(importlib.import_module(home[name]), name)
        except AttributeError as error:
            # `from package import name` would take it for a missing name and drop what went wrong.
            raise ImportError(
                f"{package}.{name} cannot be loaded, since importing {home[name]} failed: {error}"
            ) from error
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return load, names
