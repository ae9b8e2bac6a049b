"""How much each source token matters to a logit at the last position, by each account that there is of it.

    hidden             sum_i mean_h |H_i[h,t,s]|                        both branches', one times lambda
    contribution       sum_i K_i[t,s], in logits                        signed; `residual_attribution`'s, by source
    contribution_norm  sum_i || T_i[t,s] ||                             units of the residual stream
    jacobian           || e[s] || || d logit / d e[s] ||                e: the embedding; all paths, to first order
    gradient_write     sum_i sum_scans B[s] . d logit / d B[s]          to first order what `KnockOut` of s takes away

i: the blocks, t: the last position. The first three tell of what t itself reads, in every block at once; what reached
it over a token between they miss. The last two are the model's own derivatives, and flat where it is saturated. (Sizes
for the embedding, since e . d logit / d e is next to nothing where a norm takes the scale of e out.) Which of them is
right is for an experiment to say: `interventions.faithfulness` takes tokens out in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.hook_names import BRANCHES, EMBED, mixer_point
from diffmamba_interp.implicit_attention.activations import BlockActivations, run_block
from diffmamba_interp.implicit_attention.branch_parts import along_rows
from diffmamba_interp.implicit_attention.contributions import contribution_along, contribution_norms
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out import final_scale, logit_direction
from diffmamba_interp.models.token_checks import prepared_tokens, take_rows, token_ids
from diffmamba_interp.ops.precision import upcast

SourceScore = Literal["hidden", "contribution", "contribution_norm", "jacobian", "gradient_write"]
SOURCE_SCORES: tuple[SourceScore, ...] = get_args(SourceScore)


@checked
def source_scores(
    model: HookedMamba,
    tokens: Int[Tensor, "batch pos"],
    answer: int | Int[Tensor, " batch"],
    *,
    versus: int | Int[Tensor, " batch"] | None = None,
    blocks: int | Sequence[int] | None = None,
) -> dict[SourceScore, Float[Tensor, "batch pos"]]:
    """Every score of every source position, for one destination: the last position.

    Args:
        model: hooks that are attached to it take effect.
        tokens: prompts of equal length, without padding.
        answer: token id, one for all samples or one per sample, whose logit is accounted for.
        versus: a second one, whose logit is subtracted.
        blocks: that are read; None for all. Of the embedding's gradient all blocks are, whatever this says.

    Raises:
        ValueError: a token or a block that does not exist.
    """
    tokens, _ = prepared_tokens(tokens, model.cfg.d_vocab)
    chosen = _chosen(model, blocks)
    n_batch, device = len(tokens), tokens.device
    ids = token_ids("answer", answer, n_batch, model.cfg.d_vocab, device)
    against = None if versus is None else token_ids("versus", versus, n_batch, model.cfg.d_vocab, device)
    return _of_reads(model, tokens, ids, against, chosen) | _of_gradients(model, tokens, ids, against, chosen)


@torch.no_grad()
def _of_reads(
    model: HookedMamba, tokens: Tensor, ids: Tensor, against: Tensor | None, chosen: Sequence[int]
) -> dict[SourceScore, Tensor]:
    """What the last position reads, by the scans that ran."""
    direction = logit_direction(model, ids, against)
    at = torch.full((len(tokens), 1), tokens.shape[1] - 1, device=tokens.device)
    sums: dict[SourceScore, Tensor] = {
        name: torch.zeros(tokens.shape, device=tokens.device)
        for name in ("hidden", "contribution", "contribution_norm")
    }
    resid = model(tokens, stop_at_block=0)
    for block in range(model.cfg.n_layers):
        resid, activations = run_block(model, resid, block, None)
        if block in chosen:
            net = contribution_along(activations, direction, at).net
            sums["hidden"] = sums["hidden"] + _hidden(activations, at)
            sums["contribution"] = sums["contribution"] + net[:, 0]
            norms = contribution_norms(activations, at)[-1]
            sums["contribution_norm"] = sums["contribution_norm"] + norms[:, 0]
    sums["contribution"] = sums["contribution"] / take_rows(final_scale(model, resid), at)[:, 0]
    return sums


def _hidden(activations: BlockActivations, at: Tensor) -> Tensor:
    """[batch, src]: the mean size over heads, both branches added up with their weights."""
    weight, scaled = activations.lambda_at(at), activations.scaled_subtrahend
    branches = activations.branches if scaled is None else (activations.branches[0], scaled)
    sizes = [branch.scan.hidden(at, tuple(range(branch.n_heads)), "abs_mean", impl="auto") for branch in branches]
    if weight is not None and scaled is None:
        sizes[1] = along_rows(weight.abs(), sizes[1].ndim, 1) * sizes[1]
    return torch.stack([size[:, 0] for size in sizes]).sum(dim=0)


def _of_gradients(
    model: HookedMamba, tokens: Tensor, ids: Tensor, against: Tensor | None, chosen: Sequence[int]
) -> dict[SourceScore, Tensor]:
    """Of embeddings the sizes of value and gradient, of what the scans write the product of both."""
    seen: dict[str, Tensor] = {}

    def leaf(embedded: Tensor, name: str) -> Tensor:
        seen[name] = embedded.detach().requires_grad_()
        return seen[name]

    def keep(value: Tensor, name: str) -> None:
        seen[name] = value

    writes = [
        mixer_point(block, "B", branch)
        for block in chosen
        for branch in (BRANCHES if model.cfg.block_kind(block) == "differential" else (None,))
    ]
    with torch.inference_mode(False), torch.enable_grad(), model.hooks([(EMBED, leaf), (writes, keep)]):
        logits = model(tokens, positions=[-1])[:, 0]
        logit = logits.gather(1, ids[:, None]) - (0.0 if against is None else logits.gather(1, against[:, None]))
        # A hook may have put a constant in a value's place.
        values = {name: value for name, value in seen.items() if value.requires_grad}
        gradients = torch.autograd.grad(logit.sum(), list(values.values()), allow_unused=True, materialize_grads=True)
    flat = {
        name: (upcast(value.detach()).flatten(2), upcast(gradient).flatten(2))
        for (name, value), gradient in zip(values.items(), gradients, strict=True)
    }
    embedded, slope = flat.pop(EMBED)
    sizes = embedded.norm(dim=-1) * slope.norm(dim=-1)
    products = [(value * gradient).sum(dim=-1) for value, gradient in flat.values()]
    return {"jacobian": sizes, "gradient_write": sum(products, start=torch.zeros_like(sizes))}


def _chosen(model: HookedMamba, blocks: int | Sequence[int] | None) -> tuple[int, ...]:
    n_layers = model.cfg.n_layers
    chosen = tuple(range(n_layers)) if blocks is None else (blocks,) if isinstance(blocks, int) else tuple(blocks)
    wrong = [block for block in chosen if not 0 <= block < n_layers]
    if wrong or not chosen:
        raise ValueError(f"blocks is {list(chosen)}: give at least one of 0 to {n_layers - 1}, or None for all.")
    return chosen
