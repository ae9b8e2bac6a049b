"""What an attention figure draws as CSV text, one line per cell: see `csv_text` for how token text stands in it."""

from __future__ import annotations

import numpy as np

from diffmamba_interp.figures.csv_text import csv_text, quoted
from diffmamba_interp.implicit_attention.record import AttentionRecord


def attention_csv(record: AttentionRecord, *, sample: int = 0) -> str:
    """Columns head (if the heads are apart), dest_pos, src_pos, their tokens, and one per picture.

    Sources behind their destination are left out: nothing reads them. Raises IndexError for a sample that the
    record does not have.
    """
    arrays = record.to_numpy()
    if not 0 <= sample < len(arrays["tokens"]):
        raise IndexError(f"sample is {sample}, but the record holds {len(arrays['tokens'])}.")
    tokens, length = arrays["tokens"][sample], int(arrays["lengths"][sample])
    texts = record.token_strings[sample] if record.token_strings is not None else [str(token) for token in tokens]
    shown = [quoted(text) for text in texts]
    dest = arrays["rows"][sample]
    row, src = np.nonzero((np.arange(length) <= dest[:, None]) & (dest < length)[:, None])
    places = [[int(d), int(s), shown[d], shown[s]] for d, s in zip(dest[row], src, strict=True)]
    pictures = {name: arrays[name][sample] for name in record.pictures}
    header = ["dest_pos", "src_pos", "dest_token", "src_token", *pictures]
    if not record.per_head:
        columns = [picture[row, src].tolist() for picture in pictures.values()]
        return csv_text(header, ([*place, *values] for place, *values in zip(places, *columns, strict=True)))
    lines = (
        [head, *place, *values]
        for index, head in enumerate(record.heads)
        for place, *values in zip(places, *(p[index][row, src].tolist() for p in pictures.values()), strict=True)
    )
    return csv_text(["head", *header], lines)
