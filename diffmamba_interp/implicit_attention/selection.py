"""Which heads are asked for, and whether what is asked for fits into memory."""

from __future__ import annotations

from collections.abc import Sequence

from diffmamba_interp.argument_checks import fitting

Heads = int | Sequence[int] | None

DEFAULT_MAX_BYTES = 4 * 2**30
"""Bytes that one extraction may take unless told otherwise: 4 GiB."""


def select_heads(heads: Heads, n_heads: int) -> tuple[int, ...]:
    """The chosen heads as a tuple, all of them for None; one may be given bare.

    Raises ValueError for an empty choice, a repeated head, or one that does not exist.
    """
    asked = range(n_heads) if heads is None else (heads,) if isinstance(heads, int) else heads
    chosen = tuple(fitting("heads", asked, Sequence[int]))
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= head < n_heads for head in chosen):
        raise ValueError(f"heads is {list(chosen)}: give different indices in 0 to {n_heads - 1}, at least one.")
    return chosen


class MemoryLimitError(MemoryError):
    """Raised before anything is allocated, when an estimate exceeds the limit.

    what: would take it. estimate_bytes, max_bytes: what was asked for and what was allowed.
    """

    def __init__(self, what: str, estimate_bytes: int, max_bytes: int, advice: str) -> None:
        self.what = what
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
