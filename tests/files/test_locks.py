"""One writer per folder."""

import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diffmamba_interp.files import locks
from diffmamba_interp.files.locks import LOCK_FILE, LockedError, folder_lock

HOLDER = """
import sys
from diffmamba_interp.files.locks import folder_lock
with folder_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lock of a folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_that_another_process_writes_is_refused_with_its_number(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(LockedError, match=rf"another process writes into {tmp_path} \(pid {process.pid} on "):
            folder_lock(tmp_path).__enter__()
        assert process.stdin is not None
        process.stdin.close()
    with folder_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_stands_in_nobodys_way(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK_FILE).exists()
    with folder_lock(tmp_path), pytest.raises(LockedError, match=f"pid {os.getpid()} on"):
        folder_lock(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_worker_does_not_hold_the_lock_of_its_parent(tmp_path: Path) -> None:
    end, write = os.pipe()
    with folder_lock(tmp_path):
        child = os.fork()
        if not child:
            os.close(write)
            os.read(end, 1)
            os._exit(0)
        # Still held here, although the worker has given its copy up.
        with pytest.raises(LockedError):
            folder_lock(tmp_path).__enter__()
    with folder_lock(tmp_path):
        os.close(write)
    assert os.waitpid(child, 0)[1] == 0


def test_a_folder_that_was_made_for_the_lock_alone_is_gone_afterwards(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "new" / "folder"):
        pass
    assert list(tmp_path.iterdir()) == []
    with folder_lock(tmp_path / "new" / "folder"):
        (tmp_path / "new" / "result").touch()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["result"]


def test_a_file_system_without_locks_is_written_to_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(locks, "_lock", unsupported)
    with caplog.at_level(logging.WARNING), folder_lock(tmp_path):
        assert "no locks" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_not_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, removed = locks._lock, []

    def removed_once(descriptor: int) -> None:
        plain(descriptor)
        if not removed:
            removed.append((tmp_path / LOCK_FILE).unlink())

    monkeypatch.setattr(locks, "_lock", removed_once)
    with folder_lock(tmp_path), pytest.raises(LockedError):
        folder_lock(tmp_path).__enter__()
