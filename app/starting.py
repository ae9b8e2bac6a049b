"""All that the pages import, imported once, before the first page is drawn.

Every session draws its pages in a thread of its own. Two threads that import at once can each hold a module that the
other one needs, and Python then hands out modules that are half made ("cannot import name"). So the first session
imports everything, under one lock, and those that come meanwhile wait for it.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Lock

import streamlit as st

APP = Path(__file__).resolve().parent

ON_FIRST_USE = (
    "pandas",
    "plotly.io",
    "plotly.offline",
    "pyarrow.pandas_compat",
    "scipy.stats",
    "torch._dynamo",
    "torch.utils.serialization.config",
)
"""What libraries, and the package, import when they are first used; no file of the explorer names it."""

_importing, _started = Lock(), Event()


def start() -> None:
    """Return once everything is imported; the page says meanwhile that the explorer is starting."""
    if _started.is_set():
        return
    with st.spinner("The explorer is starting: loading its libraries", show_time=True), _importing:
        if not _started.is_set():
            import_everything()
            _started.set()


def import_everything() -> None:
    """Import what the files of the explorer name, at their head or in a function, and what libraries put off."""
    for module, name in [*named_imports(), *((module, "") for module in ON_FIRST_USE)]:
        # What is asked of a lazy package is imported by the asking; a name may also be a module of its own.
        if name and hasattr(importlib.import_module(module), name):
            continue
        importlib.import_module(f"{module}.{name}" if name else module)


def named_imports() -> Iterator[tuple[str, str]]:
    """Modules and the names that are taken from them ("" for the module itself), file by file."""
    for file in sorted(APP.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield from ((node.module, alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from ((alias.name, "") for alias in node.names)
