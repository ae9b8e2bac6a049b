"""Signals as a wish to stop."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from diffmamba_interp.runs.stop_signals import SIGNALS, stop_requests


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    # A process that a shell started in the background ignores interrupts, and so would this test's.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_noted_and_handlers_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(known) for known in SIGNALS]
    with stop_requests() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert stop.exit_code == 128 + number
    assert [signal.getsignal(known) for known in SIGNALS] == before


def test_a_second_interrupt_ends_the_process_at_once() -> None:
    with stop_requests():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_terminal_that_closes_says_so_twice_and_means_it_once() -> None:
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.exit_code == 129


def test_a_process_that_nohup_started_does_not_stop_when_the_terminal_closes() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop()


PROGRAM = """
import os, sys, time
from diffmamba_interp.runs.stop_signals import stop_requests
with stop_requests() as stop:
    print("ready", flush=True)
    while not stop():
        time.sleep(0.01)
    print("a line of progress", flush=True)
    print("and another", file=sys.stderr, flush=True)
os.write(int(sys.argv[1]), str(stop.exit_code).encode())
"""


def test_a_closed_terminal_leaves_time_for_a_snapshot_although_nothing_can_be_shown() -> None:
    def take_terminal() -> None:
        os.close(os.open(os.ttyname(0), os.O_RDWR))  # makes it the controlling one
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which under nohup is ignored

    ours, theirs = pty.openpty()
    answer, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(write)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        pass_fds=[write],
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    os.close(write)
    assert os.read(ours, 100).startswith(b"ready")
    os.close(ours)
    assert os.read(answer, 100) == b"129"
    os.close(answer)
    assert process.wait() == 0
