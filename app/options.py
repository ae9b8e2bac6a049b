"""What the explorer is started with: command line after `--`, environment, defaults, in this order."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import tyro

ROOT_VARIABLE = "DIFFMAMBA_APP_ROOT"
MEMORY_VARIABLE = "DIFFMAMBA_APP_MEMORY_GIB"
MAIN = Path(__file__).resolve().parent / "main.py"


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
    """The options of this process.

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
