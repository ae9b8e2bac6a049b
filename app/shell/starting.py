"""Before the first page: what the explorer is started with, and all that the pages import, imported once.

Every session draws its pages in a thread of its own. Two threads that import at once can each hold a module that the
other one needs, and Python then hands out modules that are half made ("cannot import name"). So the first session
imports everything, under one lock, and those that come meanwhile wait for it. Who opens the start page first, as nearly
everybody does, waits for what that page needs alone; the rest is imported when it is drawn, under the same lock: the
next page to be drawn waits for it, too.
"""

from __future__ import annotations

import ast
import gc
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Event, Lock, Timer

import streamlit as st
import tyro
from streamlit.components.v1 import declare_component

ROOT_VARIABLE = "DIFFMAMBA_APP_ROOT"
MEMORY_VARIABLE = "DIFFMAMBA_APP_MEMORY_GIB"
APP = Path(__file__).resolve().parents[1]
MAIN = APP / "main.py"

ON_FIRST_USE = (
    "numpy.random",
    "plotly.io",
    "plotly.offline",
    "torch.backends.opt_einsum",
    "torch.utils.serialization.config",
)
"""What libraries, and the package, import when they are first used; no file of the explorer names it."""

AFTER_THE_FIRST_PAGE = ("scipy.stats",)
"""Imported when they are first used, too, and by no page before it is asked for numbers of many prompts."""

PLOTLY_SCRIPT = "../../component/app.shell.starting.plotly/plotly.min.js"
"""Where the browser finds Plotly's own release, beside Streamlit's scripts."""

REST_S = 1.0
"""What no page needed so far is imported so long after the first one."""

LOADED = "BidiComponent"
"""What Streamlit's script for our elements is called before its version."""

START_PAGE = (MAIN, APP / "pages_" / "overview" / "overview.py")
"""The files whose heads name what the start page needs, as it is before anything is asked of it."""

_importing, _started, _imported, _complete = Lock(), Event(), Event(), Event()


@dataclass(frozen=True, kw_only=True)
class AppOptions:
    """Options of the explorer.

    root: models and lenses are opened below this folder only. memory_gib: what models and results may take
    together before the least recently used go. device: where models run unless a page says otherwise. hub: may
    models be fetched from the Hugging Face hub? threads: of torch on the CPU; half of
    the cores unless told otherwise, since pages are drawn meanwhile.
    """

    root: Path = field(default_factory=lambda: Path(os.environ.get(ROOT_VARIABLE) or "."))
    memory_gib: float = field(default_factory=lambda: float(os.environ.get(MEMORY_VARIABLE) or 4.0))
    device: str = "cpu"
    hub: bool = True
    threads: int = field(default_factory=lambda: max(1, (os.cpu_count() or 2) // 2))

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_gib * 2**30)


def read_options() -> AppOptions:
    """The options of this process: command line after `--`, environment, defaults, in this order.

    Raises ValueError for arguments that are not understood or a root that is no folder.
    """
    # Under a test runner argv belongs to the runner.
    mine = Path(sys.argv[0]).resolve() == MAIN
    try:
        options = tyro.cli(AppOptions, args=sys.argv[1:] if mine else [], prog="streamlit run app/main.py --")
    except SystemExit as refusal:
        raise ValueError(
            f"the arguments {sys.argv[1:]} are not understood (the terminal says why): give them after `--`, "
            "as in `streamlit run app/main.py -- --root models`."
        ) from refusal
    if not options.root.is_dir():
        raise ValueError(f"the root {str(options.root)!r} is no folder: name one with --root or {ROOT_VARIABLE}.")
    if options.memory_gib <= 0 or options.threads < 1:
        raise ValueError(f"memory_gib is {options.memory_gib} and threads is {options.threads}: both must be positive.")
    return options


def start(*, untouched: bool = False) -> None:
    """Return once all that the page needs is imported; the page says meanwhile that the explorer is starting.

    untouched: the page is the start page, and nothing is asked of it. The first one is drawn before the rest is there.
    """
    if _complete.is_set():
        return
    serve_plotly()
    with st.spinner("The explorer is starting: loading its libraries", show_time=True), _importing:
        if untouched and not _started.is_set():
            import_start_page()
        elif not _imported.is_set():
            import_everything()
            _imported.set()
        _started.set()


def is_complete() -> bool:
    """Whether nothing is left to import."""
    return _complete.is_set()


def serve_plotly() -> None:
    """Let the server hand out the script that comes with the library, at `PLOTLY_SCRIPT`."""
    found = importlib.util.find_spec("plotly")
    assert found is not None
    assert found.origin is not None
    declare_component("plotly", path=Path(found.origin).parent / "package_data")


@cache
def load_in_browser() -> str:
    """HTML that lets the browser load Plotly, and what Streamlit draws our elements with.

    It would when the first comes: that is a second's work, for which a new session has time while its page is made.
    Of a release that calls its files otherwise nothing is loaded.
    """
    folder = Path(st.__file__).parent / "static" / "static" / "js"
    elements = [file.name for file in sorted(folder.glob(f"{LOADED}.*.js"))]
    return f"""<script>
(() => {{
    const first = document.querySelector('script[type="module"][src*="static/js/"]');
    if (!first || document.getElementById("plotly-script")) return;
    const script = document.createElement("script");
    Object.assign(script, {{ id: "plotly-script", src: new URL({json.dumps(PLOTLY_SCRIPT)}, first.src).href }});
    document.head.append(script);
    for (const name of {json.dumps(elements)}) import(new URL(name, first.src)).catch(() => {{}});
}})();
</script>"""


def finish() -> None:
    """After a page was made: import the rest, once the browser has drawn it and it is looked at."""
    if not _complete.is_set():
        rest = Timer(REST_S, import_rest)
        rest.daemon = True
        rest.start()


def import_rest() -> None:
    with _importing:
        if _complete.is_set():
            return
        if not _imported.is_set():
            import_everything()
            _imported.set()
        for module in AFTER_THE_FIRST_PAGE:
            importlib.import_module(module)
        gc.freeze()
        _complete.set()


def import_start_page() -> None:
    """Import what the start page needs, which imports nothing more while it is drawn and others import the rest."""
    import_all(named_imports(START_PAGE, in_functions=False))
    import_all((module, "") for module in ON_FIRST_USE)
    gc.freeze()


def import_everything() -> None:
    """Import what the files of the explorer name, at their head or in a function, and what libraries put off.

    Streamlit looks for garbage after every run of a page, with all threads standing still: among all that was imported,
    too, which takes longer than the page, unless it is told that this stays.
    """
    import_all(named_imports(APP.rglob("*.py")))
    import_all((module, "") for module in ON_FIRST_USE)
    gc.freeze()


def import_all(imports: Iterable[tuple[str, str]]) -> None:
    for module, name in imports:
        # What is asked of a lazy package is imported by the asking; a name may also be a module of its own.
        if name and hasattr(importlib.import_module(module), name):
            continue
        importlib.import_module(f"{module}.{name}" if name else module)


def named_imports(files: Iterable[Path], *, in_functions: bool = True) -> Iterator[tuple[str, str]]:
    """Modules and the names that are taken from them ("" for the module itself), file by file."""
    for file in sorted(files):
        tree = ast.parse(file.read_bytes())
        for node in ast.walk(tree) if in_functions else tree.body:
            if isinstance(node, ast.ImportFrom) and node.module:
                yield from ((node.module, alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from ((alias.name, "") for alias in node.names)
