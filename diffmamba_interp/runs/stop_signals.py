"""Ctrl-C, SIGTERM and a closed terminal as a wish to stop soon, so that there is time for a snapshot."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_HANGUP: int = getattr(signal, "SIGHUP", -1)  # Windows has none
SIGNALS: tuple[int, ...] = tuple(number for number in (signal.SIGINT, signal.SIGTERM, _HANGUP) if number >= 0)


class StopRequest:
    """Whether, and by which signal, the process was asked to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended."""
        return 128 + (self.signal or 0)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note SIGINT, SIGTERM and SIGHUP for the duration of a `with` block.

    A second SIGINT or SIGTERM has its usual, immediate effect; a closed terminal sends SIGHUP twice, which means it
    once. A SIGHUP that is ignored, as `nohup` has it, stays so.
    """
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if before.get(_HANGUP) is signal.SIG_IGN:
        del before[_HANGUP]
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = request.signal or number
        if number == _HANGUP:
            _leave(terminals)
            return
        for known, handler in before.items():
            if known != _HANGUP:
                signal.signal(known, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(terminals: list[int]) -> None:
    """Write to nowhere from now on: a progress bar would fail on a terminal that is gone, before the snapshot."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in terminals:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
