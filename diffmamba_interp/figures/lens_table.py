"""What a lens figure draws as CSV text, one line per cell: see `csv_text` for how token text stands in it."""

from __future__ import annotations

from collections.abc import Callable

from diffmamba_interp.figures.csv_text import csv_text, quoted
from diffmamba_interp.lens.trajectory import LensTrajectory


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
