"""What a model would predict at each depth, for every token of a prompt: the record behind the heat maps.

q_i = softmax(lens_i(resid_pre[i])),  i = 0 .. n_layers - 1        q_last = p = softmax(final logits)
entropy_i = -sum_v q_i log q_i        kl_to_final_i = KL(p || q_i) = sum_v p (log p - log q_i)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int, Int64
from torch import Tensor

from diffmamba_interp.argument_checks import Count, checked
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.lens.lenses import JacobianLens, LogitLens, TunedLens
from diffmamba_interp.lens.objective import ReadOut, log_probabilities
from diffmamba_interp.lens.stream import residual_stream
from diffmamba_interp.lens.unembedding import ModelUnembed, chunk_tokens
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out_identity import require_lens_of
from diffmamba_interp.models.token_checks import Lengths, prepared_tokens
from diffmamba_interp.stages import stage_names


@dataclass(frozen=True, kw_only=True, eq=False)
class LensTrajectory(JsonRecord):
    """Predictions at every stage (embedding, after each block but the last, output) and position.

    stages: their names, `diffmamba_interp.stages`. tokens: the prompt.
    top_tokens, top_probabilities: the most likely next tokens, best first.
    entropy_nats: of each prediction. kl_to_final_nats: from the model's output to it, 0 in the last stage.
    targets: the tokens asked about, if any. target_log_probabilities: natural logs.
    target_ranks: 1 is the most likely; tokens of equal probability share the best rank among them.
    log_probs: of the whole vocabulary, natural logs; kept only when asked for.
    positions: of each column in the prompt; None for all of it, from 0.
    """

    stages: tuple[str, ...]
    tokens: Int64[np.ndarray, "batch pos"]
    top_tokens: Int64[np.ndarray, "batch stage pos k"]
    top_probabilities: Float32[np.ndarray, "batch stage pos k"]
    entropy_nats: Float32[np.ndarray, "batch stage pos"]
    kl_to_final_nats: Float32[np.ndarray, "batch stage pos"]
    targets: Int64[np.ndarray, "batch pos"] | None = None
    target_log_probabilities: Float32[np.ndarray, "batch stage pos"] | None = None
    target_ranks: Int64[np.ndarray, "batch stage pos"] | None = None
    log_probs: Float32[np.ndarray, "batch stage pos d_vocab"] | None = None
    positions: Int64[np.ndarray, " pos"] | None = None

    @property
    def places(self) -> list[int]:
        """The position of each column in the prompt."""
        return list(range(self.tokens.shape[1])) if self.positions is None else self.positions.tolist()


@checked
@torch.no_grad()
def lens_trajectory(
    model: HookedMamba,
    lens: LogitLens | TunedLens | JacobianLens,
    tokens: Int[Tensor, "batch pos"],
    *,
    targets: Int[Tensor, "batch pos"] | None = None,
    positions: slice = slice(None),
    top_k: Count = 10,
    lengths: Lengths | None = None,
    keep_log_probs: bool = False,
    force: bool = False,
) -> LensTrajectory:
    """Read the residual stream of one forward pass with a lens at every stage.

    Args:
        model: the model; hooks that are attached to it take effect on the run, not on the lens.
        lens: a lens of that model, or one over another copy of its weights, in any dtype.
        tokens: prompts of equal length, or right-padded ones with `lengths`.
        targets: one token per position of the whole prompt whose probability and rank are wanted, for example
            the next one.
        positions: which positions to read; all by default. The record holds only these.
        top_k: how many of the most likely tokens to keep, at most d_vocab.
        lengths: tokens per sample; what is read beyond them has no meaning.
        keep_log_probs: also keep the whole distributions, stages * positions * d_vocab floats per sample.
        force: read with a lens of another model of the same sizes. The last stage is this model's own output still.

    Returns:
        A record of numpy arrays.

    Raises:
        ValueError: targets of another shape than tokens, or ids outside the vocabulary; a lens of another model.
    """
    require_lens_of(model, lens, force=force)
    _, valid = prepared_tokens(tokens, model.cfg.d_vocab, lengths=lengths)
    if targets is not None:
        targets = _checked_targets(targets, tokens, valid, model.cfg.d_vocab)
    device = lens.unembed.weight.device
    stream = residual_stream(model, tokens.to(device), lengths=lengths).at(positions)
    read_out, of_model = ReadOut.of(lens.unembed), ReadOut.of(ModelUnembed(model))
    batch, n_pos = stream.final.shape[:2]
    flat = stream.flat()
    wanted = None if targets is None else targets.to(device)[:, positions].flatten()
    columns: list[dict[str, Tensor]] = []
    size = chunk_tokens(read_out.weight)
    for first in range(0, batch * n_pos, size):
        chunk = slice(first, first + size)
        final = log_probabilities(of_model, flat.final[chunk])
        readings = [
            _reading(log_probabilities(read_out, lens.transform_hidden(h[chunk], i)), final, wanted, chunk, top_k)
            for i, h in enumerate(flat.entering)
        ]
        readings.append(_reading(final, final, wanted, chunk, top_k))
        if not keep_log_probs:
            for reading in readings:
                del reading["log_probs"]
        columns.append({name: torch.stack([r[name] for r in readings]).cpu() for name in readings[0]})
    arrays = {
        name: torch.cat([column[name] for column in columns], dim=1)
        .unflatten(1, (batch, n_pos))
        .transpose(0, 1)
        .contiguous()
        .numpy()
        for name in columns[0]
    }
    return LensTrajectory(
        stages=stage_names(model.cfg.n_layers),
        tokens=tokens[:, positions].long().cpu().numpy(),
        positions=np.arange(tokens.shape[1])[positions],
        targets=None if wanted is None else wanted.long().reshape(batch, n_pos).cpu().numpy(),
        **arrays,
    )


def _reading(q: Tensor, p: Tensor, targets: Tensor | None, chunk: slice, top_k: int) -> dict[str, Tensor]:
    """Everything about log-probabilities q [tokens, d_vocab], beside the final ones p."""
    values, ids = q.topk(min(top_k, q.shape[-1]), dim=-1)
    reading = {
        "top_tokens": ids,
        "top_probabilities": values.exp(),
        "entropy_nats": -(q.exp() * q).sum(dim=-1),
        "kl_to_final_nats": (p.exp() * (p - q)).sum(dim=-1),
        "log_probs": q,
    }
    if targets is not None:
        of_target = q.gather(-1, targets[chunk, None])
        reading["target_log_probabilities"] = of_target[:, 0]
        reading["target_ranks"] = 1 + (q > of_target).sum(dim=-1)
    return reading


def _checked_targets(targets: Tensor, tokens: Tensor, valid: Tensor | None, d_vocab: int) -> Tensor:
    """The targets, with 0 where padding may hold any number."""
    if targets.shape != tokens.shape:
        raise ValueError(
            f"targets has shape {tuple(targets.shape)}, but tokens has {tuple(tokens.shape)}: give one target per "
            "position of the prompt, and `positions` to read only some."
        )
    if valid is not None:
        targets = targets.masked_fill(~valid.to(targets.device), 0)
    low, high = (int(bound) for bound in torch.aminmax(targets))
    if low < 0 or high >= d_vocab:
        raise ValueError(f"targets holds ids from {low} to {high}, but the vocabulary is 0 to {d_vocab - 1}.")
    return targets
