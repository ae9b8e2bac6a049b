"""`needle_trajectory`: probability of the answer and of each distractor at every block, through a lens.

    h_i                resid_pre of block i (i = 0: the embedding) at the last position read so far
    log q_i(v)         log_softmax(lens_i(h_i))[v]; for the last stage the model's own output
    log p_i(label)     sum_k log q_i(label_k | prompt, label_<k)

A prompt is read once, in pieces if it is long; labels of several tokens continue from its recurrent state. Of every
block only the last position is kept, so memory does not grow with the context (Diff-Mamba, arXiv 2507.06204,
section 4.4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from diffmamba_interp.argument_checks import Count, checked
from diffmamba_interp.files.locks import folder_lock
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.prompt_batches import batches
from diffmamba_interp.models.read_out import Lens
from diffmamba_interp.models.read_out_identity import require_lens_of
from diffmamba_interp.needle.records import NeedleSample
from diffmamba_interp.needle.trajectory_parts import KeptParts
from diffmamba_interp.needle.trajectory_reading import read_batch
from diffmamba_interp.needle.trajectory_records import (
    ARRAYS,
    BY_LABEL,
    NeedleTrajectory,
    ReadSample,
    widened,
)
from diffmamba_interp.stages import stage_names

BATCH_TOKENS = {"cpu": 8_192, "cuda": 65_536}
PIECE_TOKENS = 16_384


@checked
@torch.no_grad()
def needle_trajectory(
    model: HookedMamba,
    lens: Lens | Mapping[str, Lens],
    samples: Sequence[NeedleSample],
    *,
    name: str = "model",
    batch_tokens: Count | None = None,
    max_samples: Count = 64,
    piece_tokens: Count = PIECE_TOKENS,
    path: str | Path | None = None,
    show_progress: bool = False,
    force: bool = False,
) -> NeedleTrajectory:
    """Read the labels' probabilities, the answer's rank, entropy and KL to the output at every stage of `model`.

    Args:
        model: hooks that are attached to it take effect on every pass (pieces of the prompt, then labels), and the
            lens reads after them.
        lens: a lens of that model, or several by name, `{"tuned": ..., "logit": ...}`, which then read the same
            forward pass. A single one is called "lens" in the result. Whether it is this model's is seen from its
            `unembed` and its length; a function that has neither is taken at its word.
        samples: prompts of any lengths, tasks and label sets.
        name: the model's, for records and figures.
        batch_tokens: tokens per forward pass, padding included; by default 8,192 on a CPU and 65,536 on a GPU.
        max_samples: prompts per forward pass at most; each has a recurrent state of its own.
        piece_tokens: longer prompts are read in pieces of so many tokens, through the recurrent state.
        path: a folder that keeps what has been read, batch by batch; the same call after a break goes on from there.
            Model and lenses are told apart by their weights, hooks only by `name`.
        show_progress: a progress bar on the standard error stream.
        force: read with a lens of another model of the same sizes.

    Returns:
        Arrays [lens, sample, stage, label] and [lens, sample, stage], in the order of `samples`; float32, or float64
        for a float64 model. Probabilities are over all rows of the unembedding, those that pad the vocabulary included.

    Raises:
        ValueError: no samples, or the same one twice; a distractor that is equal to its answer; a lens of another
            model; a `path` that holds another measurement, or a part of this one that is damaged.
        LockedError: another process reads into `path`.
    """
    if not samples:
        raise ValueError("there are no samples to read: give at least one.")
    described = tuple(ReadSample.of(sample) for sample in samples)
    if len({sample.id for sample in described}) < len(described):
        raise ValueError("a sample is given twice: it would count twice in every interval. Give each once.")
    lenses = dict(lens) if isinstance(lens, Mapping) else {"lens": lens}
    if not lenses:
        raise ValueError("there is no lens to read with: give one, or several by name.")
    for key, one in lenses.items():
        require_lens_of(model, one, "lens" if one is lens else f"lens {key!r}", force=force)
    if batch_tokens is None:
        batch_tokens = BATCH_TOKENS.get(model.embed.weight.device.type, BATCH_TOKENS["cpu"])
    # Prompts that are read in pieces share a batch if they have equally many, so that each has a token in every piece.
    kinds = [(len(sample.labels), -math.ceil(sample.n_tokens / piece_tokens)) for sample in samples]
    n_tokens = [sample.n_tokens for sample in samples]
    plan = list(batches(n_tokens, batch_tokens, kinds=kinds, max_samples=max_samples))
    parts: list[dict[str, np.ndarray]] = []
    with (
        nullcontext() if path is None else folder_lock(path),
        tqdm(total=len(samples), unit="prompt", desc=name, disable=not show_progress) as bar,
    ):
        kept = None if path is None else KeptParts.at(Path(path), model, lenses, name, described, plan)
        for number, indices in enumerate(plan):
            part = None if kept is None else kept.read(number)
            if part is None:
                part = read_batch(model, lenses, [samples[i] for i in indices], piece_tokens)
                if kept is not None:
                    kept.write(number, part)
            parts.append(part)
            bar.update(len(indices))
    return NeedleTrajectory(
        model=name,
        lenses=tuple(lenses),
        stages=stage_names(model.cfg.n_layers),
        samples=described,
        **_in_order(parts, plan),
    )


def _in_order(parts: Sequence[dict[str, np.ndarray]], plan: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """The batches' arrays in one, along the sample axis, in the order in which the samples were given."""
    order = np.argsort([i for indices in plan for i in indices])
    width = max(part["log_probs"].shape[-1] for part in parts)

    def joined(name: str) -> np.ndarray:
        wide = [widened(part[name], width if name in BY_LABEL else None) for part in parts]
        return np.concatenate(wide, axis=1)[:, order]

    return {name: joined(name) for name in ARRAYS}
