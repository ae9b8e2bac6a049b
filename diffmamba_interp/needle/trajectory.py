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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffmamba_interp.argument_checks import Count, checked, fitting
from diffmamba_interp.files.locks import folder_lock
from diffmamba_interp.hook_names import block_point
from diffmamba_interp.hook_points import Recorder
from diffmamba_interp.models.cuda_graph import Outputs
from diffmamba_interp.models.graphs import GraphStore, replayed
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.prompt_batches import batches, is_real, padded, unless_equal
from diffmamba_interp.models.read_out import Lens
from diffmamba_interp.models.read_out_identity import require_lens_of
from diffmamba_interp.models.recurrent_state import RecurrentState
from diffmamba_interp.models.token_checks import counted, valid_positions
from diffmamba_interp.needle.records import NeedleSample, ReadSample
from diffmamba_interp.needle.trajectory_parts import KeptParts
from diffmamba_interp.needle.trajectory_records import (
    NeedleTrajectory,
    joined,
)
from diffmamba_interp.ops.precision import upcast
from diffmamba_interp.runs.speech import progress
from diffmamba_interp.stages import stage_names

BATCH_TOKENS = {"cpu": 8_192, "cuda": 65_536}
PIECE_TOKENS = 16_384

# Labels continue from copies of the prompt's state, so many at a time even if the batch is smaller.
_MIN_CONTINUATIONS = 8


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
    around: Callable[[Sequence[int]], AbstractContextManager[Any]] | None = None,
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
        around: called with the places of the prompts that are read together; what it returns is entered around their
            pass, or passes if they are read in pieces, for what else is to be read of it (`PassAllocation`). Prompts
            that `path` holds are not read again.

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
    plan = plan_batches(samples, batch_tokens, max_samples=max_samples, piece_tokens=piece_tokens)
    parts: list[dict[str, np.ndarray]] = []
    with (
        nullcontext() if path is None else folder_lock(path),
        progress(len(samples), unit="prompt", description=name, shown=show_progress) as bar,
    ):
        kept = None if path is None else KeptParts.at(Path(path), model, lenses, name, described, plan)
        for number, indices in enumerate(plan):
            part = None if kept is None else kept.read(number)
            if part is None:
                with nullcontext() if around is None else around(indices):
                    ends = read_prompts(model, [samples[i] for i in indices], piece_tokens, _entrances(model))
                part = read_batch(model, lenses, [samples[i] for i in indices], ends)
                if kept is not None:
                    kept.write(number, part)
            parts.append(part)
            bar.update(len(indices))
    # The batches' order is their plan's; the samples' is that in which they were given.
    order = np.argsort([i for indices in plan for i in indices])
    return NeedleTrajectory(
        model=name,
        lenses=tuple(lenses),
        stages=stage_names(model.cfg.n_layers),
        samples=described,
        **{name: array[:, order] for name, array in joined(parts).items()},
    )


def plan_batches(
    samples: Sequence[NeedleSample], batch_tokens: int, *, max_samples: int, piece_tokens: int
) -> list[list[int]]:
    """Indices of the prompts of each forward pass. Those that are read in pieces share one if they have equally many,
    so that each has a token in every piece."""
    kinds = [(len(sample.labels), -math.ceil(sample.n_tokens / piece_tokens)) for sample in samples]
    n_tokens = [sample.n_tokens for sample in samples]
    return list(batches(n_tokens, batch_tokens, kinds=kinds, max_samples=max_samples))


def read_batch(
    model: HookedMamba, lenses: Mapping[str, Lens], samples: Sequence[NeedleSample], ends: Ends
) -> dict[str, np.ndarray]:
    """The arrays of `NeedleTrajectory` for prompts with equally many labels, whose pass ended in `ends`."""
    device = model.embed.weight.device
    labels = [tokens for sample in samples for tokens in sample.label_tokens]
    n_labels = len(samples[0].labels)
    first_tokens = torch.tensor([tokens[0] for tokens in labels], device=device).view(-1, n_labels)
    read = [
        _by_stage(lens, name, ends, first_tokens, getattr(lens, "graphs", None) if model.cuda_graphs else None)
        for name, lens in lenses.items()
    ]
    log_probs, token_ranks, about = torch.stack(read).split([n_labels, n_labels, 2], dim=-1)
    log_probs = log_probs + _of_later_tokens(model, lenses, ends.state, labels).unflatten(1, (-1, n_labels)).mT
    return {
        "log_probs": log_probs.cpu().numpy(),
        "token_ranks": token_ranks.cpu().numpy(),
        "entropy_nats": about[..., 0].cpu().numpy(),
        "kl_to_final_nats": about[..., 1].cpu().numpy(),
    }


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Where a pass ended. resid: at each hook point asked for, in the order in which the model comes to them,
    [batch, pos, d_model], at the positions kept.

    logits: the model's own, [batch, pos, d_vocab]. state: after the last token.
    """

    resid: list[Tensor]
    logits: Tensor
    state: RecurrentState


def read_prompts(model: HookedMamba, samples: Sequence[NeedleSample], piece_tokens: int, points: Sequence[str]) -> Ends:
    """Last positions of every prompt; all pieces but the last are of the same length for all prompts.

    points: hook points of the residual stream.
    """
    device = model.embed.weight.device
    tokens = padded([sample.tokens for sample in samples]).to(device)
    last_piece = (tokens.shape[1] - 1) // piece_tokens * piece_tokens
    state = None
    for start in range(0, last_piece, piece_tokens):
        _, state = model.forward_with_state(tokens[:, start : start + piece_tokens], state, last_only=True)
    rest = unless_equal([sample.n_tokens - last_piece for sample in samples], device)
    return _pass(model, tokens[:, last_piece:], state, points, lengths=rest, last_only=True)


def _entrances(model: HookedMamba) -> list[str]:
    """Where lenses read."""
    return [block_point(block, "resid_pre") for block in range(model.cfg.n_layers)]


def _pass(
    model: HookedMamba,
    tokens: Int[Tensor, "batch pos"],
    state: RecurrentState | None,
    points: Sequence[str],
    *,
    lengths: Tensor | None = None,
    last_only: bool = False,
) -> Ends:
    # Of the last positions alone: all those of every block would be much larger.
    at = counted(tokens, valid_positions(tokens, lengths))[:, None] - 1 if last_only else None
    recorder = Recorder(positions=at)
    with model.hooks([(list(points), recorder)]):
        logits, after = model.forward_with_state(tokens, state, lengths=lengths, last_only=last_only)
    return Ends(resid=list(recorder.seen.values()), logits=logits, state=after)


def _stages(lens: Lens, name: str, ends: Ends) -> Iterator[Float[Tensor, "batch pos d_vocab"]]:
    """Log-probabilities stage by stage; the model's own come last."""
    for i, h in enumerate(ends.resid):
        logits = fitting(f"what the lens {name!r} returned", lens(h, i), Tensor)
        expected = (*h.shape[:-1], ends.logits.shape[-1])
        if logits.shape != expected:
            raise ValueError(
                f"the lens {name!r} gave shape {tuple(logits.shape)} at block {i}, expected logits {expected}: "
                "was it made for another model?"
            )
        yield torch.log_softmax(upcast(logits).to(ends.logits.dtype), dim=-1)
    yield torch.log_softmax(ends.logits, dim=-1)


def _by_stage(
    lens: Lens, name: str, ends: Ends, labels: Int[Tensor, "batch label"], graphs: GraphStore | None
) -> Float[Tensor, "batch stage column"]:
    """`_at_prompt_end` of every stage: many short kernels, by a graph where the lens is known to be tensors alone."""

    def body(tensors: Sequence[Tensor]) -> Outputs:
        *resid, logits, tokens = tensors
        given = replace(ends, resid=resid, logits=logits)
        final = torch.log_softmax(logits[:, 0], dim=-1)
        columns = [_at_prompt_end(q[:, 0], final, tokens) for q in _stages(lens, name, given)]
        return Outputs([torch.stack(columns, dim=1)])

    inputs = [*ends.resid, ends.logits, labels]
    if graphs is None:
        return body(inputs).tensors[0]
    return replayed(graphs, cast(nn.Module, lens), "prompt end", body, inputs)[0]


def _at_prompt_end(
    q: Float[Tensor, "batch d_vocab"], p: Float[Tensor, "batch d_vocab"], labels: Int[Tensor, "batch label"]
) -> Float[Tensor, "batch column"]:
    """Log-probabilities and vocabulary ranks of the labels' first tokens, entropy of q and KL(p || q)."""
    log_probs = q.gather(-1, labels)
    ranks = []
    for log_prob in log_probs.split(1, dim=-1):
        ties = (q == log_prob).sum(dim=-1) - 1
        ranks.append(1 + (q > log_prob).sum(dim=-1) + ties / 2)
    entropy = -(q.exp() * q).sum(dim=-1)
    kl = (p.exp() * (p - q)).sum(dim=-1)
    return torch.cat([log_probs, torch.stack([*ranks, entropy, kl], dim=-1).to(q.dtype)], dim=-1)


def _of_later_tokens(
    model: HookedMamba, lenses: Mapping[str, Lens], state: RecurrentState, labels: Sequence[tuple[int, ...]]
) -> Float[Tensor, "lens label_row stage"]:
    """Sums of the log-probabilities of all tokens but the first of every label, given those before.

    labels: [sample * label], prompt after prompt; those of one token get 0 without being run.
    """
    device = model.embed.weight.device
    n_stages, n_prompts = model.cfg.n_layers + 1, state.batch_size
    dtype = upcast(model.embed.weight[:0]).dtype
    total = torch.zeros(len(lenses), len(labels), n_stages, device=device, dtype=dtype)
    long = sorted((row for row, tokens in enumerate(labels) if len(tokens) > 1), key=lambda row: len(labels[row]))
    size = max(n_prompts, _MIN_CONTINUATIONS)
    for rows in (long[first : first + size] for first in range(0, len(long), size)):
        chosen = [labels[row] for row in rows]
        targets = padded(chosen).to(device)
        real = is_real(chosen, targets.shape[1])[:, 1:].to(device)
        prompts = torch.tensor(rows) // (len(labels) // n_prompts)
        ends = _pass(model, targets[:, :-1], state.select(prompts), _entrances(model))
        for k, (name, lens) in enumerate(lenses.items()):
            for stage, q in enumerate(_stages(lens, name, ends)):
                later = q.gather(-1, targets[:, 1:, None])[..., 0]
                total[k, rows, stage] = torch.where(real, later, 0.0).sum(dim=-1)
    return total
