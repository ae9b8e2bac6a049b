"""Numbers for every head of every scan: how it treats the tokens that end a sentence, and how it gathers a fact.

State sink, at boundary tokens b (beginning of text, full stop, line break; `text.boundary_tokens`):

    dt_ratio[h]     mean dt[s,h] over boundary tokens s / mean over the others
    sink_share[h]   mean over t of  sum_{b <= t} |H[h,t,b]| |x[b,h]| / sum_{s <= t} |H[h,t,s]| |x[s,h]|
                    for the positions t that see a boundary token

Gather and aggregate, in retrieval prompts, with |T_h[t,s]| the norm of what head h adds to the residual stream at t
because of source s (gates and norm scales frozen, the skip D included; `head_contribution_norms`):

    gather[h]       mean over facts of  sum_{s in the fact, s < e} |T_h[e,s]| / sum_{s <= e} |T_h[e,s]|
                    e: the fact's last token, which holds its full stop
    aggregate[h]    sum over e and e - 1 of the facts that the answer follows from / sum_{s <= t}, of |T_h[t,s]|
                    t: the prompt's last position, where the answer is read

Beside each share stands what a reader of all tokens alike would give. All are shares within a head: lambda, which
scales all that a subtrahend's head adds, does not enter. `output_norm`, to match heads by, holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import Count, checked
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.hook_names import BRANCHES, Branch, Scan
from diffmamba_interp.implicit_attention.activations import BlockActivations, BranchActivations, run_block
from diffmamba_interp.implicit_attention.selection import DEFAULT_MAX_BYTES, require_memory, select_heads
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.prompt_batches import batches, padded, unless_equal
from diffmamba_interp.models.token_checks import Lengths, counted, prepared_tokens, take_rows
from diffmamba_interp.ops.frozen_scan import HEAD_CHUNK_BYTES
from diffmamba_interp.spans import MarkedPrompt, Spans, prompt_spans

DEFINITIONS = {
    "dt_ratio": "mean dt over boundary tokens, over the mean over all others",
    "sink_share": "share of |H[t,s]| |x[s]| that is read from boundary tokens, mean over the positions that see one",
    "gather": "at a fact's last token, the share of |contribution| from the fact's other tokens; mean over facts",
    "aggregate": "at the last position, the share of |contribution| from the needle's last word and full stop",
    "needle_share": "at the last position, the share of |H[t,s]| on the needle",
    "negative_mass": "sum of |H[t,s]| where H[t,s] < 0, over the sum of |H[t,s]|",
    "redundancy": "mean cosine of the head's matrix H with those of the other heads",
    "output_norm": "mean norm of what the head adds to the residual stream",
}
"""What each measure says of a head, in words."""

SHARES = ("sink_share", "gather", "aggregate", "needle_share")
"""The measures that have a share of uniform reading beside them."""

BATCH_TOKENS = 4_096


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadScores(JsonRecord):
    """Numbers for each head, sample by sample (`DEFINITIONS`).

    rows: what the values' second axis is of: a block, and its branch or, where two branches are compared with what
        is left of them, "difference"; None in a plain block. n_heads: of each row.
    values: by measure, in [0, 1] for shares, [-1, 1] for a cosine, without unit for a ratio, in units of the residual
        stream for a norm. NaN behind a row's heads, and where a sample has no such number.
    uniform: by measure, what reading all visible tokens alike would give.
    """

    rows: tuple[tuple[int, str | None], ...]
    n_heads: tuple[int, ...]
    values: Mapping[str, Float[np.ndarray, "sample row head"]]
    uniform: Mapping[str, Float[np.ndarray, " sample"]] = field(default_factory=dict)

    def mean(self, measure: str) -> Float[np.ndarray, "row head"]:
        """Mean over the samples that have the number; NaN where none has. Raises KeyError for an unknown measure."""
        if measure not in self.values:
            raise KeyError(f"there is no measure {measure!r}: the scores hold {', '.join(self.values)}.")
        values = self.values[measure]
        known = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            return np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0)

    def by_head(self, measure: str) -> dict[Scan, Float[np.ndarray, " head"]]:
        """The mean as `interventions.largest_heads` and `matched_heads` take it: of scans alone, no difference."""
        mean = self.mean(measure)
        return {
            (block, part if part in BRANCHES else None): mean[row, : self.n_heads[row]]
            for row, (block, part) in enumerate(self.rows)
            if part in (None, *BRANCHES)
        }

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return sum(value.nbytes for value in (*self.values.values(), *self.uniform.values()))

    def joined(self, other: HeadScores) -> HeadScores:
        """The measures of both, of the same rows and samples. Raises ValueError for others."""
        sizes = {value.shape[0] for scores in (self, other) for value in scores.values.values()}
        if self.rows != other.rows or self.n_heads != other.n_heads or len(sizes) > 1:
            raise ValueError("the scores are of other scans or samples: join those of the same model and prompts.")
        return HeadScores(
            rows=self.rows,
            n_heads=self.n_heads,
            values={**self.values, **other.values},
            uniform={**self.uniform, **other.uniform},
        )


@checked
@torch.no_grad()
def state_sink(
    model: HookedMamba,
    tokens: Int[Tensor, "batch pos"],
    boundary: Collection[int],
    *,
    lengths: Lengths | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> HeadScores:
    """dt ratio, sink share and output norm of every head; NaN for a text without boundary tokens, or without others.

    Args:
        boundary: token ids, as `text.boundary_tokens` names them. lengths: tokens per sample, if padded on the right.
        max_bytes: limit on the estimate of what a block takes.

    Raises:
        ValueError: no boundary token, tokens that do not fit, and a mixer without dt. MemoryLimitError: too much.
    """
    if not boundary:
        raise ValueError("boundary is empty, so no token would count: name at least one token id.")
    tokens, valid = prepared_tokens(tokens, model.cfg.d_vocab, lengths=lengths)
    n_batch, n_pos = tokens.shape
    require_memory(
        f"the reading of {n_batch} x {n_pos} positions by every head",
        3 * max(HEAD_CHUNK_BYTES, n_batch * n_pos * n_pos * 4),
        max_bytes,
        "Give fewer or shorter texts at once",
    )
    visible = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
    ids = torch.tensor(sorted(boundary), device=tokens.device)
    at_boundary = torch.isin(tokens, ids) & visible
    seeing = (at_boundary.cumsum(dim=1) > 0) & visible

    def measure(activations: BlockActivations, branch: BranchActivations) -> dict[str, Tensor]:
        return {
            "dt_ratio": _dt_ratio(_dt(branch), at_boundary, visible & ~at_boundary),
            "sink_share": _sink_share(branch, at_boundary, seeing),
        }

    seen = at_boundary.cumsum(dim=1).double() / torch.arange(1, n_pos + 1, device=tokens.device)
    uniform = _mean_where(seen, seeing, dim=1)
    return _scores(_blocks(model, tokens, valid), measure, {"sink_share": uniform})


@checked
@torch.no_grad()
def gather_and_aggregate(
    model: HookedMamba,
    tokens: Int[Tensor, "batch pos"],
    spans: Spans | Sequence[Spans],
    *,
    lengths: Lengths | None = None,
) -> HeadScores:
    """Gather, aggregate and output norm of every head; gather is NaN without facts, aggregate without needle.

    Args:
        spans: one for all samples, or one per sample. Each interval of needle and distractors is a fact; those of the
            needle are what the answer follows from. lengths: tokens per sample, if padded on the right.

    Raises ValueError for tokens or spans that do not fit.
    """
    tokens, valid = prepared_tokens(tokens, model.cfg.d_vocab, lengths=lengths)
    each = [spans] * len(tokens) if isinstance(spans, Spans) else list(spans)
    in_use = counted(tokens, valid)
    if len(each) != len(tokens):
        raise ValueError(f"spans holds {len(each)} Spans for {len(tokens)} samples: give one per sample, or one.")
    for sample, length in zip(each, in_use.tolist(), strict=True):
        sample.masks(length)
    reading = _FactReading.of(each, in_use, tokens.shape[1])
    return _scores(_blocks(model, tokens, valid), reading.measure, reading.uniform)


@checked
def gather_prompts(
    model: HookedMamba,
    prompts: Sequence[MarkedPrompt],
    *,
    batch_tokens: Count = BATCH_TOKENS,
    on_progress: Callable[[int], None] | None = None,
) -> HeadScores:
    """Gather and aggregate of every head for every retrieval prompt, in the prompts' order.

    batch_tokens: tokens per forward pass, padding included; one longer prompt makes a batch of its own.
    on_progress: called with the number of prompts done since the last call.
    Raises ValueError if there are no prompts.
    """
    if not prompts:
        raise ValueError("prompts is empty, so there is nothing to measure: give at least one.")
    device = model.embed.weight.device
    parts, order = [], []
    lengths = [len(prompt.tokens) for prompt in prompts]
    for indices in batches(lengths, batch_tokens):
        chosen = [prompts[index] for index in indices]
        tokens = padded([prompt.tokens for prompt in chosen]).to(device)
        valid = unless_equal([lengths[index] for index in indices], device)
        parts.append(gather_and_aggregate(model, tokens, [prompt_spans(prompt) for prompt in chosen], lengths=valid))
        order += indices
        if on_progress is not None:
            on_progress(len(indices))
    places = np.argsort(order)
    return HeadScores(
        rows=parts[0].rows,
        n_heads=parts[0].n_heads,
        values={name: np.concatenate([part.values[name] for part in parts])[places] for name in parts[0].values},
        uniform={name: np.concatenate([part.uniform[name] for part in parts])[places] for name in parts[0].uniform},
    )


@checked
def head_contribution_norms(
    branch: BranchActivations, rows: Int[Tensor, "batch row"]
) -> Float[Tensor, "batch head row src"]:
    """Norms of what each head adds to the block's output at chosen destinations because of each source, without lambda.

        |T_h[t,s]| = |H[h,t,s] + D[h] [t=s]| |W_out,h,t x[s,h]|

    W_out,h,t: the head's columns times gate and out_gain.
    """
    n_heads = branch.n_heads
    W = rearrange(branch.out_weight, "d (h p) -> h d p", h=n_heads)
    gate = branch.gate_at(rows)
    if branch.out_gain is None:
        gram = rearrange(W.mT @ W, "h p q -> 1 1 h p q")
    else:
        gram = torch.einsum("hdp,brd,hdq->brhpq", W, take_rows(branch.out_gain, rows).square(), W)
    gram = gate[..., None] * gram * gate[..., None, :]
    x = rearrange(branch.x, "b s h p -> b h p s")
    # A row at a time: all rows together would take their number times the memory of x.
    squares = [(x * (of_row @ x)).sum(dim=-2) for of_row in gram.unbind(dim=1)]
    size = torch.stack(squares, dim=2).clamp(min=0).sqrt()
    return branch.scan.operator(rows, select_heads(None, n_heads)).abs() * size


@dataclass(frozen=True, eq=False)
class _FactReading:
    """Where the facts of some prompts end, and which sources count, for every chosen destination.

    rows: destinations: the facts' last tokens, then the last position, which also fills up. visible, own, needle: of
    each destination. is_fact: whether it is the end of a fact that has other tokens.
    """

    rows: Int[Tensor, "batch row"]
    own: Bool[Tensor, "batch row src"]
    needle: Bool[Tensor, "batch src"]
    visible: Bool[Tensor, "batch row src"]
    is_fact: Bool[Tensor, "batch row"]

    @classmethod
    def of(cls, spans: Sequence[Spans], lengths: Int[Tensor, " batch"], n_pos: int) -> _FactReading:
        facts = [[*sample.needle, *sample.distractors] for sample in spans]
        rows = (lengths[:, None] - 1).repeat(1, 1 + max(map(len, facts))).cpu()
        own, is_fact = torch.zeros(*rows.shape, n_pos, dtype=torch.bool), torch.zeros_like(rows, dtype=torch.bool)
        needle = torch.zeros(len(spans), n_pos, dtype=torch.bool)
        for sample, of_sample in enumerate(facts):
            for row, (start, end) in enumerate(of_sample):
                rows[sample, row] = end - 1
                own[sample, row, start : end - 1] = True
                is_fact[sample, row] = end - start > 1
            for start, end in spans[sample].needle:
                needle[sample, max(start, end - 2) : end] = True
        visible = torch.arange(n_pos) <= rows[..., None]
        rows, own, needle, visible, is_fact = (t.to(lengths.device) for t in (rows, own, needle, visible, is_fact))
        return cls(rows=rows, own=own, needle=needle, visible=visible, is_fact=is_fact)

    def measure(self, activations: BlockActivations, branch: BranchActivations) -> dict[str, Tensor]:
        norms = head_contribution_norms(branch, self.rows)
        total = (norms * self.visible[:, None]).sum(dim=-1)
        of_fact = (norms * self.own[:, None]).sum(dim=-1) / total
        of_needle = (norms[:, :, -1] * self.needle[:, None]).sum(dim=-1) / total[:, :, -1]
        return {
            "gather": _mean_where(of_fact, self.is_fact[:, None].expand_as(of_fact), dim=-1),
            "aggregate": of_needle.masked_fill(~self.needle.any(dim=-1, keepdim=True), torch.nan),
        }

    @property
    def uniform(self) -> dict[str, Tensor]:
        n_visible = self.visible.sum(dim=-1)
        return {
            "gather": _mean_where(self.own.sum(dim=-1).double() / n_visible, self.is_fact, dim=-1),
            "aggregate": (self.needle.sum(dim=-1).double() / n_visible[:, -1]).masked_fill(
                ~self.needle.any(dim=-1), torch.nan
            ),
        }


Measure = Callable[[BlockActivations, BranchActivations], dict[str, Tensor]]
"""Of a block and one of its branches: numbers by measure, [batch, head] each."""


def _blocks(model: HookedMamba, tokens: Tensor, valid: Tensor | None) -> Iterator[BlockActivations]:
    """What each block did, one at a time."""
    lengths = None if valid is None else counted(tokens, valid)
    resid = model(tokens, lengths=lengths, stop_at_block=0)
    for index in range(model.cfg.n_layers):
        resid, activations = run_block(model, resid, index, valid)
        yield activations


def _scores(blocks: Iterator[BlockActivations], measure: Measure, uniform: Mapping[str, Tensor]) -> HeadScores:
    rows: list[tuple[int, str | None]] = []
    measured: list[dict[str, np.ndarray]] = []
    for activations in blocks:
        names: tuple[Branch | None, ...] = BRANCHES if activations.kind == "differential" else (None,)
        for name, branch in zip(names, activations.branches, strict=True):
            values = {**measure(activations, branch), "output_norm": _output_norm(activations, branch, name)}
            rows.append((activations.block, name))
            measured.append({key: value.cpu().double().numpy() for key, value in values.items()})
    return head_scores(rows, measured, {key: value.cpu().double().numpy() for key, value in uniform.items()})


def head_scores(
    rows: Sequence[tuple[int, str | None]],
    measured: Sequence[Mapping[str, Float[np.ndarray, "sample _"]]],
    uniform: Mapping[str, Float[np.ndarray, " sample"]],
) -> HeadScores:
    """Scores from each row's numbers by measure, [sample, head]; rows may have different numbers of heads."""
    n_heads = tuple(next(iter(values.values())).shape[1] for values in measured)

    def filled(value: np.ndarray) -> np.ndarray:
        return np.pad(value, ((0, 0), (0, max(n_heads) - value.shape[1])), constant_values=np.nan)

    return HeadScores(
        rows=tuple(rows),
        n_heads=n_heads,
        values={name: np.stack([filled(values[name]) for values in measured], axis=1) for name in measured[0]},
        uniform=uniform,
    )


def _dt(branch: BranchActivations) -> Float[Tensor, "batch pos head"]:
    dt = getattr(branch.scan, "dt", None)
    if dt is None:
        raise ValueError("the model's mixer has no dt, so it has no state sink of this kind.")
    return dt


def _dt_ratio(dt: Tensor, at_boundary: Tensor, elsewhere: Tensor) -> Float[Tensor, "batch head"]:
    means = [_mean_where(dt, where[..., None].expand_as(dt), dim=1) for where in (at_boundary, elsewhere)]
    return means[0] / means[1]


def _sink_share(branch: BranchActivations, at_boundary: Tensor, seeing: Tensor) -> Float[Tensor, "batch head"]:
    size = torch.linalg.vector_norm(branch.x, dim=-1)
    n_batch, n_pos, n_heads = size.shape
    step = max(1, HEAD_CHUNK_BYTES // (n_batch * n_pos * n_pos * size.element_size()))
    shares = []
    for start in range(0, n_heads, step):
        some = tuple(range(start, min(start + step, n_heads)))
        read = branch.scan.matrix(None, some).abs() * rearrange(size[:, :, list(some)], "b s h -> b h 1 s")
        share = torch.einsum("bhts,bs->bht", read, at_boundary.to(read)) / read.sum(dim=-1)
        # A row that reads nothing at all has no share.
        shares.append(_mean_where(share, seeing[:, None] & ~share.isnan(), dim=-1))
    return torch.cat(shares, dim=1)


def _output_norm(
    activations: BlockActivations, branch: BranchActivations, name: Branch | None
) -> Float[Tensor, "batch head"]:
    """Mean over a sample's tokens of the norm of what each head adds to the residual stream, |lambda| included."""
    gated = branch.gate * branch.scan.apply(branch.x)
    norms = []
    for head in range(branch.n_heads):
        columns = slice(head * gated.shape[3], (head + 1) * gated.shape[3])
        added = gated[:, :, head] @ branch.out_weight[:, columns].mT
        norms.append(torch.linalg.vector_norm(added if branch.out_gain is None else added * branch.out_gain, dim=-1))
    norm = torch.stack(norms, dim=-1)
    lambda_ = activations.lambda_at(None)
    if name == "subtrahend" and lambda_ is not None:
        norm = norm * (lambda_[..., None] if lambda_.ndim == 2 else lambda_).abs()
    tokens = torch.arange(norm.shape[1], device=norm.device) < activations.lengths[:, None]
    return _mean_where(norm, tokens[..., None].expand_as(norm), dim=1)


def _mean_where(values: Tensor, where: Tensor, dim: int) -> Tensor:
    """Mean over the places that count; NaN where there are none."""
    return values.masked_fill(~where, 0.0).sum(dim=dim) / where.sum(dim=dim)
