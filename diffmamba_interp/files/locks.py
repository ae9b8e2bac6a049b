"""One writer per folder: a lock of the operating system, which ends with its process, however that ends.

The lock is on the file `.lock` in the folder, which says who holds it and is removed when it is given back. One that a
killed process left behind is held by nobody and stands in nobody's way. Readers ask for no lock.
"""

from __future__ import annotations

import errno
import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diffmamba_interp.files.atomic import naming

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK_FILE = ".lock"

logger = logging.getLogger(__name__)

_held: set[int] = set()
"""Descriptors of this process's locks: a forked worker gives its copies up, or it would hold them after its parent."""


class LockedError(OSError):
    """Another process, or another part of this one, writes into the folder."""


@contextmanager
def folder_lock(folder: str | Path) -> Iterator[None]:
    """Be the only writer of `folder` for the duration of a `with` block; the folder is made if it is missing.

    On a file system without locks it goes on without, and says so in the log.
    Raises LockedError, saying which process writes there; OSError if the folder cannot be written.
    """
    path = Path(folder) / LOCK_FILE
    missing = [parent for parent in (path.parent, *path.parent.parents) if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming(path.parent, path):
            descriptor = _acquired(path)
        try:
            yield
        finally:
            _give_back(path, descriptor)
    finally:
        # A run that wrote nothing leaves nothing.
        with suppress(OSError):
            for parent in missing:
                parent.rmdir()


def _acquired(path: Path) -> int:
    """The descriptor of a lock on the file that is at `path`."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
            # Between opening and locking, the last holder may have removed the file: then this lock is on nothing.
            if _is_at(path, descriptor):
                _sign(descriptor)
                _held.add(descriptor)
                _give_up_in_forks()
                return descriptor
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise LockedError(
                f"another process writes into {path.parent} ({holder}): wait until it has ended, stop it, or give "
                "another folder."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
            logger.warning("%s: this file system has no locks, so see that only one process writes here", path.parent)
            return descriptor
        os.close(descriptor)


def _give_back(path: Path, descriptor: int) -> None:
    _held.discard(descriptor)
    if sys.platform == "win32":
        # An open file cannot be removed there, and one that somebody else has opened by then may stay.
        os.close(descriptor)
        with suppress(OSError):
            path.unlink()
    else:
        # Removed while it is locked, so that nobody's lock but this one is ever on a removed file.
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Raises BlockingIOError if the lock is held."""
    if sys.platform == "win32":
        # What is locked cannot be read there: so it is a byte behind the text.
        os.lseek(descriptor, _BEHIND, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(error.errno, error.strerror) from error
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"pid {os.getpid()} on {platform.node()}\n".encode())


def _holder(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 200).decode(errors="replace").strip() or "it has not said which"


def _give_up_in_forks() -> None:
    global _is_registered
    if not _is_registered and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_give_up)
    _is_registered = True


def _give_up() -> None:
    # Closing a copy leaves the parent's lock as it is.
    while _held:
        os.close(_held.pop())


_is_registered = False
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_BEHIND = 2**20
