"""What a write into a scan's state does to a logit at a later position, in closed form: the direct effect.

    write[s] = dt[s] x[s] B[s]^T                    (`hook_write`), per head; read at t with exp(cum[t] - cum[s]) C[t]
    change of y[t,h]     = change[s,h] (exp(cum[t,h] - cum[s,h]) C[t])
    change of the logit  = sum_h <v~[t,h], change of y[t,h]>
    v~[t,h] = sign / scale[t] * gate[t,h] * (W_out^T (out_gain[t] * v))[h]

    v: the token's row of the unembedding times the gain of the final norm; scale: the final norm's, as it was
    sign: 1, or -lambda for the subtrahend; gate and out_gain as in `activations`

Direct: from the block's output straight to the final norm. What later blocks make of the change is left out (patching
measures that), and all gates and norm scales are held at their values, which makes the closed form exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.hook_names import BRANCHES, Branch
from diffmamba_interp.implicit_attention.activations import capture_block
from diffmamba_interp.implicit_attention.branch_parts import ShortRepr
from diffmamba_interp.implicit_attention.selection import DEFAULT_MAX_BYTES, require_memory, select_heads
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out import final_scale, logit_direction
from diffmamba_interp.models.token_checks import Lengths, select_rows, take_rows, token_ids


@dataclass(frozen=True, kw_only=True, repr=False)
class WriteLogitShift(JsonRecord, ShortRepr):
    """What the writes of one scan add to a logit, or to a difference of two, at one position; in logits.

    block, branch: of the scan; branch is None in a plain block. position: the destination, per sample. token: whose
    logit. versus: the one subtracted. logits: of every write as it was; those of the subtrahend hold -lambda. Taking
    the write away takes that away.
    along: v~ of the destination, logits per unit of y. reads: decayed C, what of a write's states is read there; 0 for
    later sources. Their product is the logit's gradient at a write.
    """

    block: int
    branch: Branch | None
    position: Int[Tensor, " batch"]
    token: Int[Tensor, " batch"]
    versus: Int[Tensor, " batch"] | None
    logits: Float[Tensor, "batch head src"]
    along: Float[Tensor, "batch head d_head"]
    reads: Float[Tensor, "batch src head d_state"]

    def of(
        self, change: Float[Tensor, "batch src head d_head d_state"] | Float[Tensor, "batch src head d_state"]
    ) -> Float[Tensor, " batch"]:
        """The shift that edited writes make: edited less clean, in the shape of `hook_write`, of all sources together.

        Raises ValueError for another shape.
        """
        by_head = change[..., None, :] if change.ndim == 4 and self.along.shape[-1] == 1 else change
        expected = (*self.reads.shape[:3], self.along.shape[-1], self.reads.shape[-1])
        if by_head.shape != expected:
            raise ValueError(f"change has shape {tuple(change.shape)}: give that of the scan's hook_write, {expected}.")
        return torch.einsum("bshpn,bhp,bshn->b", by_head.to(self.along), self.along, self.reads)


@checked
@torch.no_grad()
def write_logit_shift(
    model: HookedMamba,
    tokens: Int[Tensor, "batch pos"],
    block: int,
    token: int | Int[Tensor, " batch"],
    position: int | Int[Tensor, " batch"] = -1,
    *,
    branch: Branch | None = None,
    versus: int | Int[Tensor, " batch"] | None = None,
    lengths: Lengths | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> WriteLogitShift:
    """The direct effect of a scan's writes on a logit at `position`, exact under frozen gates and norm scales.

    Args:
        token: id whose logit is meant, one for all samples or one per sample. versus: a second one, whose logit is
            subtracted. position: destination; -1 is each sample's last token.
        branch: must be named in a differential block. lengths: tokens per sample, if padded on the right.
        max_bytes: limit on the estimate of what this call allocates.

    Raises:
        ValueError: a block, branch, token or position that does not exist, a mixer without writes, and a hook in force
            on the scan's writes, states or hidden attention. MemoryLimitError: too much at once.
    """
    activations = capture_block(model, tokens, block, lengths=lengths)
    scan = activations.branches[_which(activations.kind == "differential", block, branch)]
    n_batch, n_pos, n_heads, _ = scan.x.shape
    at = select_rows(
        torch.as_tensor(position, device=tokens.device).expand(n_batch)[:, None], activations.lengths, n_pos, "position"
    )
    assert at is not None
    d_state = model.cfg.mixer_sizes(activations.kind).d_state
    require_memory(
        f"the reads of {n_batch} x {n_pos} writes of {n_heads} heads and {d_state} states",
        3 * n_batch * n_pos * n_heads * d_state * scan.x.element_size(),
        max_bytes,
        "Ask for fewer samples at once, or for contribution_along, which has no axis of states",
    )
    ids = token_ids("token", token, n_batch, model.cfg.d_vocab, tokens.device)
    against = None if versus is None else token_ids("versus", versus, n_batch, model.cfg.d_vocab, tokens.device)
    scale = final_scale(model, model(tokens, lengths=lengths, stop_at_block=model.cfg.n_layers))
    v = logit_direction(model, ids, against)[:, None] / take_rows(scale, at)
    if scan.out_gain is not None:
        v = v * take_rows(scan.out_gain, at)
    along = rearrange(v @ scan.out_weight, "b 1 (h p) -> b h p", h=n_heads) * scan.gate_at(at)[:, 0]
    if branch == "subtrahend":
        lambda_ = activations.lambda_at(at)
        assert lambda_ is not None
        # Of the one row: a scalar, [batch, 1], or of each head [batch, 1, head].
        along = along * -(lambda_ if lambda_.ndim == 0 else lambda_.flatten(1)[..., None])
    H = scan.scan.matrix(at, select_heads(None, n_heads))[:, :, 0]
    return WriteLogitShift(
        block=block,
        branch=branch,
        position=at[:, 0],
        token=ids,
        versus=against,
        logits=H * torch.einsum("bhp,bshp->bhs", along, scan.x),
        along=along,
        reads=scan.scan.state_reads(at)[:, 0],
    )


def _which(is_differential: bool, block: int, branch: Branch | None) -> int:
    """The branch's place among those of its block. Raises ValueError where it must be named, or cannot be."""
    if is_differential and branch is None:
        raise ValueError(f"block {block} is differential: say whose writes by branch='minuend' or branch='subtrahend'.")
    if not is_differential and branch is not None:
        raise ValueError(f"branch is {branch!r}, and block {block} is plain: leave branch out.")
    return 0 if branch is None else BRANCHES.index(branch)
