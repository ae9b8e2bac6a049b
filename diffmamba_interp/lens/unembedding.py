"""The read-out of a model, final norm and unembedding, with the attributes of the tuned-lens library's `Unembed`.

    logits = unembed(ln_final(h))

It shares the model's weights but none of its hook points: hooks attached to the model never fire while a lens
decodes, and decoding with a lens never changes what a hook sees.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out_identity import ReadOutIdentity, read_out_identity, read_out_sha256
from diffmamba_interp.models.rms_norm import RMSNorm

# One tile of logits. On a GPU large tiles make large products; on a CPU a tile should stay near the caches.
LOGIT_TILE_BYTES = {"cuda": 448 * 2**20, "cpu": 16 * 2**20}
MAX_CHUNK_TOKENS = {"cuda": 8192, "cpu": 1024}


class ModelUnembed(nn.Module):
    """`ln_final` and `unembed` of a `HookedMamba`, frozen, without hooks.

    `final_norm` and `unembedding` are new modules over the model's own memory. No gradient reaches the weights
    through them; whether the model itself is trainable does not change.
    """

    final_norm: RMSNorm
    unembedding: nn.Linear

    def __init__(self, model: HookedMamba) -> None:
        super().__init__()
        d_vocab, d_model = model.unembed.weight.shape
        with torch.device("meta"):
            self.final_norm = RMSNorm(d_model, model.ln_final.eps)
            self.unembedding = nn.Linear(d_model, d_vocab, bias=False)
        self.final_norm.weight = _frozen(model.ln_final.weight)
        self.unembedding.weight = _frozen(model.unembed.weight)

    @property
    def eps(self) -> float:
        """Added to the mean square in the final norm."""
        return self.final_norm.eps

    @property
    def gain(self) -> Float[Tensor, " d_model"]:
        """Weight of the final norm."""
        return self.final_norm.weight

    @property
    def weight(self) -> Float[Tensor, "d_vocab d_model"]:
        """The unembedding matrix."""
        return self.unembedding.weight

    def forward(self, h: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        return self.unembedding(self.final_norm(h))

    def unembedding_hash(self) -> str:
        """The library's hash of the unembedding, as its lens configs hold it: of the matrix as NumPy prints it."""
        # NumPy's own settings, whatever the caller's process prints with.
        with np.printoptions(
            edgeitems=3, threshold=1000, linewidth=75, suppress=False, sign="-", floatmode="maxprec", legacy=False
        ):
            printed = np.array_str(self.weight.detach().float().cpu().numpy(), precision=1)
        return hashlib.sha256(printed.encode()).hexdigest()

    def sha256(self) -> str:
        """Sha256 of unembedding and final norm in bfloat16: the same for a model loaded in float32 or bfloat16.

        The library's `unembedding_hash` looks at 36 rounded entries only, which are all zero in many small
        models; this one looks at every entry.
        """
        return read_out_sha256(self.weight, self.gain)

    def identity(self) -> ReadOutIdentity:
        """What a lens' file keeps to know this read-out again in any dtype."""
        return read_out_identity(self, self.weight, self.gain)


def chunk_tokens(unembedding: Tensor) -> int:
    """Tokens whose logits are held at once: a power of two, the same in every run on a kind of device."""
    kind = unembedding.device.type
    row_bytes = unembedding.shape[0] * unembedding.element_size()
    fitting = LOGIT_TILE_BYTES.get(kind, LOGIT_TILE_BYTES["cpu"]) // row_bytes
    most = MAX_CHUNK_TOKENS.get(kind, MAX_CHUNK_TOKENS["cpu"])
    return power_of_two_below(min(max(fitting, 16), most))


def power_of_two_below(n: int) -> int:
    """The largest power of two that is at most n."""
    return 1 << (n.bit_length() - 1)


def _frozen(weight: Tensor) -> nn.Parameter:
    """A parameter over the same memory that asks for no gradient."""
    return nn.Parameter(weight.detach(), requires_grad=False)
