"""An estimate in bytes before a large allocation, and a refusal instead of a crash."""

from __future__ import annotations

DEFAULT_MAX_BYTES = 4 * 2**30
"""Bytes that one extraction may take unless told otherwise: 4 GiB."""


class MemoryLimitError(MemoryError):
    """Raised before anything is allocated, when an estimate exceeds the limit.

    estimate_bytes, max_bytes: what was asked for and what was allowed.
    """

    def __init__(self, what: str, estimate_bytes: int, max_bytes: int, advice: str) -> None:
        self.estimate_bytes = estimate_bytes
        self.max_bytes = max_bytes
        super().__init__(
            f"{what} would take about {estimate_bytes / 2**20:,.1f} MiB, more than the limit of "
            f"{max_bytes / 2**20:,.1f} MiB. {advice}, or raise max_bytes (now {max_bytes}, in bytes)."
        )


def require_memory(what: str, estimate_bytes: int, max_bytes: int, advice: str) -> None:
    """Raise MemoryLimitError if the estimate exceeds the limit; `advice` names what to reduce."""
    if estimate_bytes > max_bytes:
        raise MemoryLimitError(what, estimate_bytes, max_bytes, advice)
