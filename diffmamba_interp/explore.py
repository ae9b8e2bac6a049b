"""`diffmamba-interp explore`: open the explorer in a browser, from an installed copy or from a checkout.

The explorer is no part of the package that others import: a wheel holds its files, and Streamlit runs them by path.
"""

from __future__ import annotations

if __name__ == "__main__":
    from diffmamba_interp.runs.command import quiet_interrupts

    quiet_interrupts()

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from diffmamba_interp.runs.command import errors_as_messages, program

PACKAGE = Path(__file__).resolve().parent
PLACES = (PACKAGE / "explorer" / "app" / "main.py", PACKAGE.parent / "app" / "main.py")
"""Where a wheel puts it, and where a checkout has it."""


@dataclass(frozen=True, kw_only=True)
class ExploreOptions:
    """Options of the command.

    Attributes:
        root: folder below which models and lenses are found; nothing outside it is opened.
        port: of the server; by default the first free one from 8501 on.
        browser: open a browser window; without it the address is printed.
        address: the server listens to this address. Whoever reaches it reads every model below the root.
    """

    root: Path = Path()
    port: int | None = None
    browser: bool = True
    address: str = "localhost"


@errors_as_messages(stopped="the explorer keeps nothing but what you saved from it.")
def main(args: Sequence[str] | None = None) -> int:
    """Run the explorer until Ctrl-C; 2 for an error that the user can mend."""
    options = tyro.cli(ExploreOptions, args=args, description=__doc__, prog=program("explore"))
    root = options.root.expanduser()
    if not root.is_dir():
        raise ValueError(f"--root {options.root} is no folder: give the one below which your models are.")
    if options.port is not None and not 0 < options.port < 65536:
        raise ValueError(f"--port is {options.port}: it must lie between 1 and 65535.")
    try:
        # By name: the package itself, which installs without Streamlit, imports it nowhere.
        streamlit = importlib.import_module("streamlit.web.cli")
    except ImportError as error:
        raise ImportError("the explorer needs Streamlit: pip install 'diffmamba-interp[app]'") from error
    streamlit.main(server_arguments(options, explorer_file(), root), standalone_mode=False)
    return 0


def explorer_file() -> Path:
    """The script that Streamlit runs. Raises FileNotFoundError in a copy of the package that came without it."""
    for place in PLACES:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"this copy of the package has no explorer (looked for {' and '.join(map(str, PLACES))}): "
        "install it from a wheel, or run it in a checkout."
    )


def server_arguments(options: ExploreOptions, script: Path, root: Path) -> list[str]:
    """What Streamlit's own command is given."""
    own = {
        "server.address": options.address,
        "server.headless": str(not options.browser).lower(),
        "browser.gatherUsageStats": "false",
    }
    if options.port is not None:
        own["server.port"] = str(options.port)
    return ["run", str(script), *(f"--{name}={value}" for name, value in own.items()), "--", "--root", str(root)]


if __name__ == "__main__":
    sys.exit(main())
