"""Rows of text from a token stream: crop k of a seed, no crop twice before all have been used.

Epoch e cuts the stream into rows of `length` + 1 tokens that begin every `length` tokens from an offset of
its own, and takes them in an order of its own. (A row's last token is the next row's first: as input it is
new, as target it was the earlier row's.)
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt16, UInt32

from diffmamba_interp.text import DataError

TokenArray = UInt16[np.ndarray, " token"] | UInt32[np.ndarray, " token"]


class TextCrops:
    """Crops [length + 1] of a token stream. Raises DataError if the stream does not fill one row."""

    def __init__(self, tokens: TokenArray, *, length: int, seed: int, part: int) -> None:
        self.tokens, self.length, self.key = tokens, length, (seed, part)
        self.n_crops = max((len(tokens) - 1) // length - 1, 0) or int(len(tokens) > length)
        if self.n_crops == 0:
            raise DataError(
                f"the text has {len(tokens)} tokens, too few for one row of {length} + 1: give more text, or a "
                "smaller data.length."
            )
        self._epoch = -1
        self._order = np.zeros(0, dtype=np.int64)
        self._offset = 0

    def crop(self, k: int) -> TokenArray:
        """Row number k of the seed."""
        epoch, position = divmod(k, self.n_crops)
        if epoch != self._epoch:
            # RandomState, unlike numpy's newer generators, keeps its sequences in all versions.
            rng = np.random.RandomState([*self.key, epoch])
            free = len(self.tokens) - 1 - self.n_crops * self.length
            self._offset = int(rng.randint(0, free + 1))
            self._order, self._epoch = rng.permutation(self.n_crops), epoch
        start = self._offset + int(self._order[position]) * self.length
        return self.tokens[start : start + self.length + 1]
