"""Random choices that are the same on every machine and Python version.

Python promises only that `random.Random(n).random()` keeps its sequence; `choice`, `sample` and `shuffle`
may change between versions. Everything here is built from `random()` alone.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class StableRandom:
    """A generator of random choices, seeded by any key.

    Two generators made from the same key parts (compared as text) make the same choices; different keys
    give unrelated ones, so `StableRandom("story", seed, index)` needs no shared state.
    """

    def __init__(self, *key: object) -> None:
        digest = hashlib.sha256("\x1f".join(map(str, key)).encode("utf-8")).digest()
        self.uniform = random.Random(int.from_bytes(digest[:8], "big")).random
        """Draws a float in [0, 1)."""

    def integer(self, n: int) -> int:
        """A whole number in [0, n)."""
        return int(self.uniform() * n)

    def pick(self, items: Sequence[Item]) -> Item:
        """One of `items`, which must not be empty."""
        return items[int(self.uniform() * len(items))]

    def sample(self, items: Sequence[Item], n: int) -> list[Item]:
        """`n` different entries of `items`, in random order."""
        if n > len(items):
            raise ValueError(f"cannot draw {n} different entries from {len(items)}.")
        pool = list(items)
        for i in range(n):
            j = i + self.integer(len(pool) - i)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:n]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """All of `items` in random order."""
        return self.sample(items, len(items))
