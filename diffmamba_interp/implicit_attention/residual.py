"""Which block, branch and source token wrote a logit: the residual stream taken apart, exactly.

    logit(a) = <v, resid_post[last][t]> / rms(resid_post[last][t]),    v = w_f * W_U[a]
             = embedding + sum_i ( sum_s K_i[t,s] + bias_i )           the final norm's scale frozen

K_i is block i's contribution along v / rms (`contributions`), which sums to <v, mixer_out> / rms; embedding is
<v, resid_pre[0][t]> / rms. With `versus` the same for a difference of two logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.implicit_attention.activations import run_block
from diffmamba_interp.implicit_attention.branch_parts import ShortRepr
from diffmamba_interp.implicit_attention.contributions import Contribution, Sources, contribution_along
from diffmamba_interp.implicit_attention.selection import DEFAULT_MAX_BYTES
from diffmamba_interp.mixer_sizes import BlockKind
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out import final_scale, logit_direction
from diffmamba_interp.models.token_checks import Lengths, counted, prepared_tokens, select_rows, take_rows, token_ids
from diffmamba_interp.ops.precision import upcast
from diffmamba_interp.ops.select import Impl


@dataclass(frozen=True, kw_only=True)
class Writer:
    """One entry of an attribution: who wrote how much, in logits.

    branch: None in a plain block; the value of the subtrahend holds its factor -lambda.
    """

    block: int
    branch: Literal["minuend", "subtrahend"] | None
    src_pos: int
    logits: float


@dataclass(frozen=True, kw_only=True, repr=False)
class ResidualAttribution(JsonRecord, ShortRepr):
    """A logit, or a difference of two, by block and source; all values in logits (natural units).

    position: the destination, per sample. answer: the token whose logit it is. versus: the one subtracted.
    embedding: from the token's own embedding. difference: from each block and source; in a plain block its only
    scan, in a differential one minuend - lambda * subtrahend. minuend, subtrahend: the branches, the
    subtrahend without lambda; NaN in plain blocks. lambda_subtrahend: as it enters the difference; likewise. lambda_:
    per block; NaN in plain ones and where each head has its own. bias: what a block adds that belongs to no source.
    logit: what the model computed. kinds: plain or differential, per block.
    """

    position: Int[Tensor, " batch"]
    answer: Int[Tensor, " batch"]
    versus: Int[Tensor, " batch"] | None
    kinds: tuple[BlockKind, ...]
    embedding: Float[Tensor, " batch"]
    difference: Float[Tensor, "batch block src"]
    minuend: Float[Tensor, "batch block src"]
    subtrahend: Float[Tensor, "batch block src"]
    lambda_subtrahend: Float[Tensor, "batch block src"]
    lambda_: Float[Tensor, "batch block"]
    bias: Float[Tensor, "batch block"]
    logit: Float[Tensor, " batch"]

    @property
    def by_block(self) -> Float[Tensor, "batch block"]:
        """Logits written by each block, its bias included."""
        return self.difference.sum(dim=-1) + self.bias

    @property
    def by_source(self) -> Float[Tensor, "batch src"]:
        """Logits read from each source by all blocks; the embedding at the position itself is not in it."""
        return self.difference.sum(dim=1)

    @property
    def total(self) -> Float[Tensor, " batch"]:
        """Everything that was attributed: embedding, sources and biases."""
        return self.embedding + self.by_block.sum(dim=-1)

    @property
    def remainder(self) -> Float[Tensor, " batch"]:
        """logit - total: round-off, unless a hook replaced something between a scan and the logits."""
        return self.logit - self.total

    def strongest(self, k: int = 10, sample: int = 0) -> list[Writer]:
        """The `k` entries of one sample with the largest magnitude, branches apart."""
        entries: list[tuple[str | None, Tensor]] = []
        plain = torch.tensor([kind == "plain" for kind in self.kinds], device=self.difference.device)
        entries.append((None, self.difference[sample].masked_fill(~plain[:, None], 0.0)))
        entries.append(("minuend", self.minuend[sample].nan_to_num(0.0)))
        entries.append(("subtrahend", -self.lambda_subtrahend[sample].nan_to_num(0.0)))
        stacked = torch.stack([values for _, values in entries]).detach()
        best = stacked.abs().flatten().topk(min(k, stacked.numel())).indices
        writers = []
        for branch, block, src in zip(*(i.tolist() for i in torch.unravel_index(best, stacked.shape)), strict=True):
            value = float(stacked[branch, block, src])
            writers.append(Writer(block=block, branch=entries[branch][0], src_pos=src, logits=value))
        return writers


@checked
def residual_attribution(
    model: HookedMamba,
    tokens: Int[Tensor, "batch pos"],
    answer: int | Int[Tensor, " batch"],
    position: int | Int[Tensor, " batch"] = -1,
    *,
    versus: int | Int[Tensor, " batch"] | None = None,
    sources: Sources = "convolved",
    lengths: Lengths | None = None,
    grad: bool = False,
    impl: Impl = "auto",
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> ResidualAttribution:
    """Take the logit of `answer` at `position` apart, in one forward pass and one block's memory.

    Args:
        answer: token id, one for all samples or one per sample. versus: a second one, whose logit is
            subtracted.
        position: destination; -1 is each sample's last token.
        sources: positions after the convolution, or "input" positions before it.
        lengths: tokens per sample, if padded on the right. grad: keep the autograd graph.
        impl, max_bytes: as in `contribution_along`.

    Raises:
        ValueError: a token or position that does not exist. MemoryLimitError: too much at once.
    """
    tokens, valid = prepared_tokens(tokens, model.cfg.d_vocab, lengths=lengths)
    n_batch, n_pos = tokens.shape
    in_use = counted(tokens, valid)
    where = torch.as_tensor(position, device=tokens.device).expand(n_batch)[:, None]
    at = select_rows(where, in_use, n_pos, "position")
    assert at is not None
    ids = token_ids("answer", answer, n_batch, model.cfg.d_vocab, tokens.device)
    against = None if versus is None else token_ids("versus", versus, n_batch, model.cfg.d_vocab, tokens.device)
    with torch.set_grad_enabled(torch.is_grad_enabled() and grad):
        direction = logit_direction(model, ids, against)
        resid = model(tokens, lengths=lengths, stop_at_block=0)
        embedding = (direction * upcast(take_rows(resid, at)[:, 0])).sum(dim=-1)
        written = []
        for index in range(model.cfg.n_layers):
            resid, activations = run_block(model, resid, index, valid)
            written.append(
                contribution_along(activations, direction, at, sources=sources, impl=impl, max_bytes=max_bytes)
            )
        # v enters every term linearly, so the final scale, known only now, divides the sums.
        scale = take_rows(final_scale(model, resid), at)[:, 0, 0]
        return ResidualAttribution(
            position=at[:, 0],
            answer=ids,
            versus=against,
            kinds=tuple(model.cfg.block_kind(index) for index in range(model.cfg.n_layers)),
            embedding=embedding / scale,
            logit=_logit(model, resid, at, ids, against),
            **_stacked(written, scale),
        )


def _stacked(written: list[Contribution], scale: Tensor) -> dict[str, Tensor]:
    """The blocks' contributions to one destination as [batch, block, src], divided by the final scale."""
    missing = torch.full_like(written[0].net[:, 0], float("nan"))
    absent = missing.new_full(missing.shape[:1], float("nan"))

    def column(made: Contribution, name: str) -> Tensor:
        return getattr(made, name)[:, 0] / scale[:, None] if made.is_differential else missing

    return {
        "difference": torch.stack([made.net[:, 0] / scale[:, None] for made in written], dim=1),
        "minuend": torch.stack([column(made, "minuend") for made in written], dim=1),
        "subtrahend": torch.stack([column(made, "subtrahend") for made in written], dim=1),
        "bias": torch.stack([made.bias[:, 0] / scale for made in written], dim=1),
        "lambda_subtrahend": torch.stack([column(made, "lambda_subtrahend") for made in written], dim=1),
        "lambda_": torch.stack([_one_lambda(made, absent) for made in written], dim=1),
    }


def _one_lambda(made: Contribution, absent: Tensor) -> Float[Tensor, " batch"]:
    """lambda of the one row of each sample; `absent`, which is NaN, where there is none or every head has its own."""
    if not made.is_differential or made.lambda_.ndim == 3:
        return absent
    return made.lambda_.reshape(-1).expand_as(absent).to(absent)


def _logit(model: HookedMamba, resid: Tensor, at: Tensor, ids: Tensor, against: Tensor | None) -> Tensor:
    """What the model computes at the destination: the answer's logit, less that of `against`."""
    logits = upcast(model.unembed(take_rows(model.ln_final(resid), at)))[:, 0]
    logit = logits.gather(1, ids[:, None])[:, 0]
    return logit if against is None else logit - logits.gather(1, against[:, None])[:, 0]
