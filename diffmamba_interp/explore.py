"""`diffmamba-interp explore`: open the explorer in a browser, from an installed copy or from a checkout.

The explorer is no part of the package that others import: a wheel holds its files, and Streamlit runs them by path.
"""

from __future__ import annotations

if __name__ == "__main__":
    from diffmamba_interp.runs.command import quiet_interrupts

    quiet_interrupts()

import errno
import importlib
import io
import socket
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Annotated

import tyro

from diffmamba_interp.runs.command import errors_as_messages, program
from diffmamba_interp.runs.options import OutputOptions, parsed_options
from diffmamba_interp.runs.speech import Speech, speaking

PACKAGE = Path(__file__).resolve().parent
PLACES = (PACKAGE / "explorer" / "app" / "main.py", PACKAGE.parent / "app" / "main.py")
"""Where a wheel puts it, and where a checkout has it."""
EXAMPLES = ("", "--root checkpoints --port 8600", "--no-browser --address 0.0.0.0")


@dataclass(frozen=True, kw_only=True)
class ExploreOptions:
    """Options of the command."""

    root: Path = Path()
    """Folder below which models and lenses are found; nothing outside it is opened."""
    port: int | None = None
    """Of the server; None: the first free one from 8501 on."""
    browser: bool = True
    """Open a browser window; without it the address is printed."""
    address: str = "localhost"
    """The server listens to this address. Whoever reaches it reads every model below the root."""
    output: Annotated[OutputOptions, tyro.conf.OmitArgPrefixes] = OutputOptions()


@errors_as_messages(stopped="the explorer keeps nothing but what you saved from it.")
def main(args: Sequence[str] | None = None) -> int:
    """Run the explorer until Ctrl-C; 2 for an error that the user can mend."""
    args = sys.argv[1:] if args is None else args
    with speaking(args) as speech:
        prog = program("explore")
        options = parsed_options(ExploreOptions, args, prog=prog, description=__doc__ or "", examples=EXAMPLES)
        return serve(options, speech)


def serve(options: ExploreOptions, speech: Speech) -> int:
    """Run the server until it is stopped. Raises ValueError for what cannot be served, ImportError, FileNotFoundError.

    Under `--json` and `--quiet` the result, the address, is said before the server begins, in Streamlit's place.
    """
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
    script = explorer_file()
    Thread(target=import_early, daemon=True).start()
    if speech.json or speech.quiet:
        options = replace(options, port=options.port or free_port(options.address))
        address = f"http://{options.address}:{options.port}"
        speech.result({"address": address, "root": str(root)}, address)
        with redirect_stdout(io.StringIO() if speech.quiet else sys.stderr):
            streamlit.main(server_arguments(options, script, root), standalone_mode=False)
    else:
        streamlit.main(server_arguments(options, script, root), standalone_mode=False)
    return 0


def import_early() -> None:
    """Import PyTorch, which takes longest of all that pages need, while the server starts and a browser loads its page.

    Nothing besides it: of a lazy package, as transformers, a second thread would be given a half. What fails is said by
    the first page, which imports it again.
    """
    with suppress(Exception):
        importlib.import_module("torch")


def free_port(address: str) -> int:
    """The first port from 8501 on that nobody listens to. Raises OSError if `address` is none of this machine."""
    for port in range(8501, 65536):
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
                return port
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
    raise ValueError("no port from 8501 on is free: end a server, or give --port.")


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
