"""A command's errors as messages and exit codes."""

import errno
import os
import subprocess
import sys
import types
from pathlib import Path

import httpx
import pytest
import torch

from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.runs.command import RunError, errors_as_messages


class httpx2(types.ModuleType):
    """Stands in for a module that may not be installed."""

    class HTTPError(Exception):
        pass

    class ConnectError(HTTPError):
        pass


@pytest.fixture(autouse=True)
def other_http_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", httpx2)  # type: ignore[arg-type]


def outcome(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and stderr of a command that ends in `error`."""

    @errors_as_messages(stopped="it goes on.")
    def main() -> int:
        raise error

    return main(), capsys.readouterr().err


class DivergedError(RunError):
    exit_code = 1


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("n is 0: give more."), 2, "error: n is 0: give more.\n"),
        (ValueError(), 2, "error: ValueError\n"),
        (RunError("the run cannot go on."), 2, "error: the run cannot go on.\n"),
        (DivergedError("the loss is nan."), 1, "error: the loss is nan.\n"),
        (ImportError("wandb is not installed."), 2, "error: wandb is not installed.\n"),
        (FileNotFoundError("there is no lens."), 2, "error: there is no lens.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 2, "error: no space is left on the disk of a/b."),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: no space is left on the disk of a file."),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), 2, "error: no permission for a/b. Change"),
        (FileExistsError(errno.EEXIST, "File exists", "a"), 2, "error: a is there already, and is not a folder."),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), 2, "error: a/b leads through a file"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), 2, "error: a is a folder, where a file is needed."),
        (FileNotFoundError(errno.ENOENT, "No such file", "a"), 2, "error: there is no a. Check the path."),
        (OSError(errno.EIO, "Input/output error", "a"), 2, "error: Input/output error: a\n"),
        (MemoryError(), 2, "error: not enough memory (MemoryError)."),
        (torch.OutOfMemoryError("CUDA out of memory.\nmore"), 2, "error: not enough memory (CUDA out of memory)."),
        (httpx.ConnectError("Name or service not known"), 2, "error: the network failed (ConnectError: Name or"),
        (httpx.ReadTimeout(""), 2, "error: the network failed (ReadTimeout: ReadTimeout). Check the connection"),
        (httpx2.ConnectError("Name or service not known"), 2, "error: the network failed (ConnectError: Name or"),
        (RecursionError("maximum recursion depth exceeded while decoding a JSON array"), 2, "error: a file is nested"),
        (KeyboardInterrupt(), 130, "stopped; it goes on.\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_can_be_foreseen_is_a_line_and_an_exit_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    got, err = outcome(error, capsys)
    assert got == code
    assert err.startswith(said)
    assert err.count("\n") == 1


def test_what_torch_says_without_memory_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    for shape in ((2**40, 2**20), (2**62, 2**62)):
        with pytest.raises(RuntimeError) as raised:
            torch.empty(shape)
        assert outcome(raised.value, capsys)[1].startswith("error: not enough memory (")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("x"), TypeError("y"), RecursionError("too deep")])
def test_what_cannot_be_foreseen_is_raised(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(type(error)):
        outcome(error, capsys)
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_named_with_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")

    @errors_as_messages()
    def main() -> int:
        # What the package writes goes by way of a temporary name.
        (tmp_path / ".result.json.writing").symlink_to("/dev/full")
        write_text(tmp_path / "result.json", "x")
        return 0

    assert main() == 2
    assert capsys.readouterr().err.startswith(f"error: no space is left on the disk of {tmp_path / 'result.json'}.")


PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job does not have
if __name__ == "__main__":
    from diffmamba_interp.runs.command import errors_as_messages, quiet_interrupts
    quiet_interrupts()
{body}
"""


def run_program(body: str, **options: object) -> "subprocess.CompletedProcess[str]":
    program = PROGRAM.format(body=body)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, **options)  # type: ignore[call-overload,no-any-return]


def test_ctrl_c_while_the_libraries_load_is_one_line_and_code_130() -> None:
    body = """
import signal
try:
    signal.raise_signal(signal.SIGINT)
except BaseException:
    print("swallowed by a library")
"""
    done = run_program(body)
    assert (done.returncode, done.stderr, done.stdout) == (130, "stopped; nothing was begun.\n", "")


def test_ctrl_c_after_loading_ends_the_command_in_its_own_words() -> None:
    body = """
import signal
@errors_as_messages(stopped="the same command goes on.")
def main():
    signal.raise_signal(signal.SIGINT)
    return 0
sys.exit(main())
"""
    done = run_program(body)
    assert (done.returncode, done.stderr) == (130, "stopped; the same command goes on.\n")


def test_another_error_while_the_libraries_load_keeps_its_traceback() -> None:
    assert "Traceback" in run_program("raise ImportError('broken')").stderr


WORKING = """
import signal
from diffmamba_interp.runs.command import loading
@errors_as_messages(stopped="the same command goes on.")
def main():
    with loading():
        {loading}
    signal.raise_signal(signal.SIGINT)
sys.exit(main())
"""


def test_what_a_command_loads_when_its_options_are_known_is_loaded_as_before_it() -> None:
    done = run_program(WORKING.format(loading="signal.raise_signal(signal.SIGINT)"))
    assert (done.returncode, done.stderr) == (130, "stopped; nothing was begun.\n")
    done = run_program(WORKING.format(loading="raise ImportError('broken')"))
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("RuntimeError: a library cannot be loaded: broken\n")
    done = run_program(WORKING.format(loading="pass"))
    assert (done.returncode, done.stderr) == (130, "stopped; the same command goes on.\n")


def test_a_reader_that_goes_away_is_no_error() -> None:
    body = """
@errors_as_messages()
def main():
    for _ in range(100_000):
        print("a line of output")
    return 0
sys.exit(main())
"""
    read, write = os.pipe()
    os.close(read)
    program = PROGRAM.format(body=body)
    done = subprocess.run([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_command_loads_nothing_heavy_before_it_can_be_stopped() -> None:
    body = "print(sorted({'torch', 'numpy', 'transformers', 'httpx'} & set(sys.modules)))"
    assert run_program(body).stdout == "[]\n"
