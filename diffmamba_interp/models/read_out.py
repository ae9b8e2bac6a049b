"""From the residual stream to logits: who reads it, and along which direction a token's logit grows.

    logit(a)[t] = <v, resid[t]> / scale[t],   v = w_f * W_U[a],   scale = rms(resid)        w_f: gain of the final norm

Lenses, attention and interventions ask for these alike, and do not know one another.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.hook_names import FINAL_SCALE
from diffmamba_interp.hook_points import attached
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.token_checks import token_ids
from diffmamba_interp.ops.precision import upcast


@runtime_checkable
class Lens(Protocol):
    """Whatever decodes a residual stream: `lens(resid_pre of block idx, idx)` gives logits."""

    def __call__(self, h: Tensor, idx: int) -> Tensor:
        """[..., d_model] -> [..., d_vocab]."""


@checked
def logit_direction(
    model: HookedMamba, token: int | Int[Tensor, " batch"], versus: int | Int[Tensor, " batch"] | None = None
) -> Float[Tensor, " d_model"] | Float[Tensor, "batch d_model"]:
    """w_f * W_U[token] (minus that of `versus`): a logit (difference) before division by the final norm's scale."""
    weight = upcast(model.unembed.weight)

    def row(name: str, ids: int | Tensor) -> Tensor:
        n = len(ids) if isinstance(ids, Tensor) else 1
        rows = weight[token_ids(name, ids, n, len(weight), weight.device)]
        return rows if isinstance(ids, Tensor) else rows[0]

    rows = row("token", token) if versus is None else row("token", token) - row("versus", versus)
    return rows * upcast(model.ln_final.weight)


def final_scale(model: HookedMamba, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos 1"]:
    """The final norm's scale for the residual stream `resid`, hooks included."""
    seen: list[Tensor] = []
    with attached(model.hook_points, [(FINAL_SCALE, lambda value, _: seen.append(value))]):
        model.ln_final(resid)
    return upcast(seen[0])
