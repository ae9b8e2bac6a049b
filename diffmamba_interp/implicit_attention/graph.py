"""How a logit came together: what every token brought to it, block by block and token by token, exactly.

With gates, norm scales, B, C, dt and lambda frozen every block is linear in the stream that enters it (`effective`):

    resid[i+1][t] = resid[i][t] + sum_s M1_i[t,s] resid[i][s] - lambda_i sum_s M2_i[t,s] resid[i][s] + bias_i[t]

so what the logit owes to the stream at any depth is found by going back from it:

    g[n][t] = v / scale at the destination, 0 elsewhere;      g[i] = g[i+1] + (M1_i - lambda_i M2_i)^T g[i+1]
    node[i][s]            = <g[i][s], resid[i][s]>
    straight[i][s]        = <g[i+1][s], resid[i][s]>                     an edge on, past block i
    minuend[i][t,s]       = <g[i+1][t], M1_i[t,s] resid[i][s]>           an edge from s to t through block i
    subtrahend[i][t,s]    = - lambda_i <g[i+1][t], M2_i[t,s] resid[i][s]>

    sum_s node[i][s] + sum_{j >= i} sum_t bias[j][t] = logit             for every i
    node[i][s]   = straight[i][s] + sum_t edges[i][t,s]                  what leaves a node is what it holds
    node[i+1][t] = straight[i][t] + sum_s edges[i][t,s] + bias[i][t]     and so is what enters it

All of it is in logits and signed. What a gate or a norm would become without a token is not in it: that takes a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.hook_names import block_point
from diffmamba_interp.hook_points import attached
from diffmamba_interp.implicit_attention.activations import run_block
from diffmamba_interp.implicit_attention.branch_parts import ShortRepr
from diffmamba_interp.implicit_attention.contributions import contribution_along
from diffmamba_interp.implicit_attention.selection import DEFAULT_MAX_BYTES, require_memory
from diffmamba_interp.mixer_sizes import BlockKind
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out import final_scale, logit_direction
from diffmamba_interp.models.token_checks import Lengths, counted, prepared_tokens, select_rows, take_rows, token_ids
from diffmamba_interp.ops.precision import upcast

HELD = ("hook_dt", "hook_log_decay", "hook_B", "hook_C", "hook_z", "hook_scale", "hook_lambda")
"""Hook points, by their last names, whose values are held: the stream reaches the logit through x alone."""

EdgeKind = Literal["straight", "plain", "minuend", "subtrahend"]


@dataclass(frozen=True, kw_only=True)
class Edge:
    """From position `src` of the stream that enters `block` to `dest` of the stream that leaves it, in logits.

    kind: past the block, or through the scan of a plain block, the minuend, or the subtrahend (-lambda included).
    """

    block: int
    src: int
    dest: int
    kind: EdgeKind
    logits: float


@dataclass(frozen=True, kw_only=True, repr=False)
class ContributionGraph(JsonRecord, ShortRepr):
    """What a logit, or a difference of two, owes to every position at every depth; all values in logits.

    position: the destination, per sample. answer, versus: the token whose logit it is, and the one subtracted.
    kinds: plain or differential, per block. node: of the stream that enters each block, and of what leaves the last.
    straight: past each block. minuend: through its first scan, which in a plain block is the only one. subtrahend:
    -lambda times the second; 0 in plain blocks. bias: what a block adds that belongs to no source. logit: what the
    model computed.
    """

    position: Int[Tensor, " batch"]
    answer: Int[Tensor, " batch"]
    versus: Int[Tensor, " batch"] | None
    kinds: tuple[BlockKind, ...]
    node: Float[Tensor, "batch depth pos"]
    straight: Float[Tensor, "batch block pos"]
    minuend: Float[Tensor, "batch block dest src"]
    subtrahend: Float[Tensor, "batch block dest src"]
    bias: Float[Tensor, "batch block dest"]
    logit: Float[Tensor, " batch"]

    @property
    def total(self) -> Float[Tensor, "batch depth"]:
        """What is accounted for at each depth: all nodes there, and what the blocks from there on add by themselves."""
        later = self.bias.sum(dim=-1).flip(-1).cumsum(dim=-1).flip(-1)
        return self.node.sum(dim=-1) + torch.nn.functional.pad(later, (0, 1))

    @property
    def remainder(self) -> Float[Tensor, "batch depth"]:
        """logit - total: round-off, unless a hook replaced something between a scan and the logits."""
        return self.logit[:, None] - self.total

    def edges_to_logit(self, least: float, sample: int = 0) -> list[Edge]:
        """The edges of at least so many logits that lead to the logit over such edges alone, the last block's first.

        Raises ValueError for a sample that the graph does not have, or a `least` that is not positive.
        """
        if not 0 <= sample < len(self.logit):
            raise ValueError(f"sample is {sample}: the graph has samples 0 to {len(self.logit) - 1}.")
        if not least > 0:
            raise ValueError(f"least is {least}: give the size of the smallest edge that is wanted, above 0.")
        reached = {int(self.position[sample])}
        edges: list[Edge] = []
        for block in reversed(range(len(self.kinds))):
            entering = [edge for dest in sorted(reached) for edge in self._into(sample, block, dest, least)]
            edges += entering
            reached = {edge.src for edge in entering}
        return edges

    def _into(self, sample: int, block: int, dest: int, least: float) -> list[Edge]:
        """The edges of at least so many logits that end at a position behind a block."""
        first: EdgeKind = "plain" if self.kinds[block] == "plain" else "minuend"
        straight = self.straight[sample, block, dest]
        found = [Edge(block=block, src=dest, dest=dest, kind="straight", logits=float(straight))]
        by_kind: tuple[tuple[EdgeKind, Tensor], ...] = ((first, self.minuend), ("subtrahend", self.subtrahend))
        for kind, values in by_kind:
            row = values[sample, block, dest]
            for src in (row.abs() >= least).nonzero()[:, 0].tolist():
                found.append(Edge(block=block, src=src, dest=dest, kind=kind, logits=float(row[src])))
        return [edge for edge in found if abs(edge.logits) >= least]


@checked
def contribution_graph(
    model: HookedMamba,
    tokens: Int[Tensor, "batch pos"],
    answer: int | Int[Tensor, " batch"],
    position: int | Int[Tensor, " batch"] = -1,
    *,
    versus: int | Int[Tensor, " batch"] | None = None,
    lengths: Lengths | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    on_progress: Callable[[int], None] | None = None,
) -> ContributionGraph:
    """What the logit of `answer` at `position` owes to every token at every depth, by one pass forth, one back, and the
    contributions of every block.

    Args:
        answer: token id, one for all samples or one per sample. versus: a second one, whose logit is subtracted.
        position: destination; -1 is each sample's last token. lengths: tokens per sample, if padded on the right.
        max_bytes: limit on the estimate of what the edges take: blocks times positions squared.
        on_progress: called with 1 after the contributions of each block.

    Hooks in force take part. Raises ValueError for a token or position that does not exist, and for a model whose
    in_proj has a bias, which no stream carries; MemoryLimitError for too long a prompt.
    """
    if model.cfg.proj_bias:
        raise ValueError("the model's in_proj has a bias, so its blocks are not linear in the stream: no graph of it.")
    tokens, valid = prepared_tokens(tokens, model.cfg.d_vocab, lengths=lengths)
    n_batch, n_pos = tokens.shape
    require_memory(
        f"the edges of {n_batch} x {n_pos} positions through {model.cfg.n_layers} blocks",
        4 * 3 * n_batch * model.cfg.n_layers * n_pos * n_pos,
        max_bytes,
        "Give a shorter prompt",
    )
    at = select_rows(
        torch.as_tensor(position, device=tokens.device).expand(n_batch)[:, None],
        counted(tokens, valid),
        n_pos,
        "position",
    )
    assert at is not None
    ids = token_ids("answer", answer, n_batch, model.cfg.d_vocab, tokens.device)
    against = None if versus is None else token_ids("versus", versus, n_batch, model.cfg.d_vocab, tokens.device)
    streams, gradients, logit = _there_and_back(model, tokens, lengths, at, ids, against)
    straight, parts, bias = [], [], []
    with torch.no_grad():
        for block in range(model.cfg.n_layers):
            _, activations = run_block(model, streams[block], block, valid)
            g = gradients[block + 1]
            made = contribution_along(activations, g, sources="input", max_bytes=max_bytes)
            first = made.minuend if made.is_differential else made.weights
            second = -made.lambda_subtrahend if made.is_differential else torch.zeros_like(first)
            straight.append((g * upcast(streams[block])).sum(dim=-1))
            parts.append((first, second))
            bias.append(made.bias)
            if on_progress is not None:
                on_progress(1)
        nodes = [(g * upcast(resid)).sum(dim=-1) for g, resid in zip(gradients, streams, strict=True)]
    return ContributionGraph(
        position=at[:, 0],
        answer=ids,
        versus=against,
        kinds=tuple(model.cfg.block_kind(block) for block in range(model.cfg.n_layers)),
        node=torch.stack(nodes, dim=1),
        straight=torch.stack(straight, dim=1),
        minuend=torch.stack([first for first, _ in parts], dim=1),
        subtrahend=torch.stack([second for _, second in parts], dim=1),
        bias=torch.stack(bias, dim=1),
        logit=logit,
    )


def _there_and_back(
    model: HookedMamba, tokens: Tensor, lengths: Lengths | None, at: Tensor, ids: Tensor, against: Tensor | None
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The stream that enters each block and what leaves the last, what the logit owes to each per unit (g), and it."""
    streams: list[Tensor] = []
    before_silu: dict[str, Tensor] = {}

    def keep(value: Tensor, name: str) -> None:
        streams.append(value)

    def linear_x(value: Tensor, name: str) -> Tensor:
        # x = SiLU(c) = sigmoid(c) c, of which the first factor is a gate. The convolution has B and C behind x.
        c = before_silu[name.rpartition(".")[0]][..., : value[0, 0].numel()].reshape(value.shape)
        return torch.sigmoid(c).detach() * c

    def keep_conv(value: Tensor, name: str) -> None:
        before_silu[name.rpartition(".")[0]] = value

    names = list(model.hook_points)
    pairs: list[Any] = [
        ([name for name in names if name.rpartition(".")[2] in HELD], lambda value, name: value.detach()),
        ([block_point(block, "resid_pre") for block in range(model.cfg.n_layers)], keep),
        ("hook_embed", lambda value, name: value.detach().requires_grad_()),
    ]
    convolved = [name for name in names if name.endswith(".hook_conv")]
    if convolved:
        pairs.append((convolved, keep_conv))
        pairs.append(([name for name in names if name.endswith(".hook_x")], linear_x))
    with torch.enable_grad(), attached(model.hook_points, pairs):
        last = model(tokens, lengths=lengths, stop_at_block=model.cfg.n_layers)
        streams.append(last)
        read = take_rows(last, at)[:, 0]
        scale = take_rows(final_scale(model, last), at)[:, 0].detach()
        owed = (logit_direction(model, ids, against).detach() / scale * upcast(read)).sum()
        gradients = torch.autograd.grad(owed, streams)
    with torch.no_grad():
        logits = upcast(model.unembed(model.ln_final(read[:, None])))[:, 0]
        logit = logits.gather(1, ids[:, None])[:, 0]
        if against is not None:
            logit = logit - logits.gather(1, against[:, None])[:, 0]
    return [stream.detach() for stream in streams], [upcast(g) for g in gradients], logit
