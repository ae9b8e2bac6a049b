"""One place where what can be foreseen to go wrong in a command becomes a line on stderr and an exit code.

    0      done
    2      `error: ...`: something that the user can mend (`RunError.exit_code` may say another number)
    130    Ctrl-C
    141    whoever read the output has gone

What cannot be foreseen keeps its traceback. This module imports nothing heavy, so that a command can load it first.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import ParamSpec

Parameters = ParamSpec("Parameters")

STOPPED = "what was written is whole, and the same command goes on from there."


class RunError(RuntimeError):
    """A run cannot go on, for a reason that its user can mend. exit_code: of the command."""

    exit_code = 2


def errors_as_messages(*, stopped: str = STOPPED) -> Callable[[Callable[Parameters, int]], Callable[Parameters, int]]:
    """Decorate a command's `main`: it returns the exit code also where it would have raised what can be foreseen.

    stopped: what is left, said when Ctrl-C ended it.
    """

    def decorate(main: Callable[Parameters, int]) -> Callable[Parameters, int]:
        @functools.wraps(main)
        def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> int:
            _heed_interrupts()
            try:
                code = main(*args, **kwargs)
                sys.stdout.flush()
                return code
            except KeyboardInterrupt:
                _say(f"stopped; {stopped}")
                return 128 + signal.SIGINT
            except BrokenPipeError:
                # What Python still holds for the reader must not raise again when the process ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                return 141
            except Exception as error:
                message = foreseen(error)
                if message is None:
                    raise
                _say(f"error: {message}")
                return getattr(error, "exit_code", 2) if isinstance(error, RunError) else 2

        return run

    return decorate


def program(command: str) -> str:
    """How the command, such as "train-lens", was called: what its usage says, and what one types to call it again."""
    caller = Path(sys.argv[0]).name
    if caller == "__main__.py":
        return f"python -m diffmamba_interp {command}"
    if Path(caller).stem == "diffmamba-interp":
        return f"diffmamba-interp {command}"
    return f"python -m diffmamba_interp.{command.replace('-', '_')}"


def quiet_interrupts() -> None:
    """Let Ctrl-C end the process with one line while a command loads its libraries.

    An exception would do no good there: a library that is interrupted while it loads may swallow it and stay half
    loaded.
    """
    is_heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heeded and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _end_at_once)


@contextmanager
def loading() -> Iterator[None]:
    """Around a command's import of what it works with, which help and wrong options do without.

    Ctrl-C is as before `main`, and so is an error of a library: it keeps its traceback, as RuntimeError.
    """
    quiet_interrupts()
    try:
        yield
    except Exception as error:
        raise RuntimeError(f"a library cannot be loaded: {error}") from error
    finally:
        _heed_interrupts()


def foreseen(error: Exception) -> str | None:
    """What to say about an error that a user can mend; None for any other."""
    if isinstance(error, OSError):
        return _of_system(error)
    if is_out_of_memory(error):
        return f"not enough memory ({_first_line(error)}). Take smaller sizes or batches, or a machine with more."
    if isinstance(error, RecursionError):
        return f"a file is nested too deeply ({_first_line(error)})." if "JSON" in str(error) else None
    if isinstance(error, RunError | ValueError | ImportError):
        return str(error) or type(error).__name__
    if any(_is_from(library, name, error) for library in _HTTP_LIBRARIES for name in ("HTTPError", "InvalidURL")):
        return (
            f"the network failed ({type(error).__name__}: {_first_line(error)}). Check the connection, or give files "
            "and folders that are here; HF_HUB_OFFLINE=1 takes what was downloaded before."
        )
    return None


# Which of them the hub's own library uses differs between its versions.
_HTTP_LIBRARIES = ("httpx", "httpx2")


def _of_system(error: OSError) -> str:
    """An error of the operating system in the user's words; the text alone of one that this package raised."""
    if error.errno is None or error.strerror is None:
        return str(error) or type(error).__name__
    place = error.filename if error.filename is not None else "a file"
    advice = _ADVICE.get(error.errno)
    return f"{error.strerror}: {place}" if advice is None else advice.format(place=place)


_ADVICE = {
    errno.ENOSPC: "no space is left on the disk of {place}. Make room, or choose a folder on another disk (--out); "
    "the same command goes on from what was written.",
    errno.EDQUOT: "the disk quota is used up at {place}. Make room, or choose a folder on another disk (--out); the "
    "same command goes on from what was written.",
    errno.EACCES: "no permission for {place}. Change its permissions, or choose another file or folder.",
    errno.EPERM: "no permission for {place}. Change its permissions, or choose another file or folder.",
    errno.EROFS: "{place} is on a file system that can only be read. Choose another folder (--out).",
    errno.EEXIST: "{place} is there already, and is not a folder. Move it away, or choose another folder (--out).",
    errno.ENOTDIR: "{place} leads through a file, where a folder is needed. Choose another folder.",
    errno.EISDIR: "{place} is a folder, where a file is needed. Give the file's path.",
    errno.ENOENT: "there is no {place}. Check the path.",
    errno.ENAMETOOLONG: "{place} is too long for a name on this file system. Choose a shorter one.",
}


def is_out_of_memory(error: Exception) -> bool:
    """Python's and numpy's own, a GPU's, and what torch's CPU allocator says in a RuntimeError."""
    if isinstance(error, MemoryError) or _is_from("torch", "OutOfMemoryError", error):
        return True
    said = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


def _is_from(module: str, name: str, error: Exception) -> bool:
    """Whether the error is of a class of a module, which is not imported for that."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(error, kind)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def _heed_interrupts() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    # Not by way of a stream, which may be in the middle of a line of its own.
    os.write(2, b"stopped; nothing was begun.\n")
    os._exit(128 + number)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
