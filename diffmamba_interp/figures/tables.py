"""What attention and lens figures draw as CSV text, one line per cell; see `csv_text` for how token text stands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diffmamba_interp.files.csv_text import csv_text, quoted
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.lens.trajectory import LensTrajectory


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


def lens_csv(trajectory: LensTrajectory, token_text: Callable[[int], str], *, sample: int = 0) -> str:
    """Columns stage, position, token read, entropy and KL in nats, target if any, and the k most likely tokens.

    position counts the trajectory's own positions. `token_text`: the text of a token id. Raises IndexError for a
    sample that the trajectory does not have.
    """
    if not 0 <= sample < len(trajectory.tokens):
        raise IndexError(f"sample is {sample}, but the trajectory holds {len(trajectory.tokens)}.")

    def shown(token: int) -> str:
        return quoted(token_text(token))

    def line(stage: int, pos: int) -> list[object]:
        at = (sample, stage, pos)
        values: list[object] = [trajectory.stages[stage], pos, shown(int(trajectory.tokens[sample, pos]))]
        values += [float(trajectory.entropy_nats[at]), float(trajectory.kl_to_final_nats[at])]
        if trajectory.targets is not None and trajectory.target_ranks is not None:
            assert trajectory.target_log_probabilities is not None
            target = shown(int(trajectory.targets[sample, pos]))
            values += [target, int(trajectory.target_ranks[at]), float(trajectory.target_log_probabilities[at])]
        for token, probability in zip(trajectory.top_tokens[at], trajectory.top_probabilities[at], strict=True):
            values += [shown(int(token)), float(probability)]
        return values

    header = ["stage", "position", "token", "entropy_nats", "kl_to_final_nats"]
    if trajectory.targets is not None:
        header += ["target", "target_rank", "target_log_probability"]
    k = trajectory.top_tokens.shape[-1]
    header += [name for place in range(1, k + 1) for name in (f"top_{place}", f"top_{place}_probability")]
    n_stages, n_pos = trajectory.entropy_nats.shape[1:]
    return csv_text(header, (line(stage, pos) for stage in range(n_stages) for pos in range(n_pos)))
