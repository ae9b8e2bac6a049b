"""What figures and reports share: line styles that are told apart without colour, and names of lengths."""

from __future__ import annotations

# Okabe and Ito's blue, vermilion, green and purple; dashes and markers tell them apart in grey.
STYLES = (
    ("#0072B2", "solid", "circle"),
    ("#D55E00", "dash", "square"),
    ("#009E73", "dot", "diamond"),
    ("#CC79A7", "dashdot", "x"),
)


def length_name(length: int) -> str:
    """As in the paper: 0k, 1k, 2k; other lengths as they are."""
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)
