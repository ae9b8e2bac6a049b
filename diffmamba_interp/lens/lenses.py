"""Lenses: what the model would predict if a block were its last (Belrose et al. 2023, arXiv 2303.08112).

    logit lens    lens_i(h) = unembed(ln_final(h))
    tuned lens    lens_i(h) = unembed(ln_final(h + W_i h + b_i)),   W_i = b_i = 0 at the start

Translator i reads `resid_pre` of block i; i = 0 is the embedding. Both are the tuned-lens library's classes,
over our read-out, and work wherever that library takes a lens.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tuned_lens.nn import lenses
from tuned_lens.nn.lenses import TunedLensConfig

from diffmamba_interp.lens.unembedding import ModelUnembed
from diffmamba_interp.models.language_model import HookedMamba


class LogitLens(lenses.LogitLens):
    """Reads the residual stream as if it were the final one; has no parameters of its own."""

    unembed: ModelUnembed

    @classmethod
    def from_model(cls, model: HookedMamba) -> LogitLens:
        """The logit lens of `model`; shares its weights."""
        return cls(ModelUnembed(model))


class TunedLens(lenses.TunedLens):
    """One affine translator per block in front of the model's own read-out; `lens(h, i)` gives logits.

    Translators are kept in float32 whatever the model's dtype: a step of training is often smaller than
    bfloat16's spacing.
    """

    unembed: ModelUnembed

    def __init__(self, unembed: ModelUnembed, config: TunedLensConfig) -> None:
        if not config.bias:
            raise ValueError("bias is False in this lens' config: only translators with a bias are served.")
        d_model = unembed.weight.shape[1]
        if config.d_model != d_model:
            raise ValueError(
                f"the lens is for d_model {config.d_model}, but the model has {d_model}: "
                "this lens was trained for another model."
            )
        super().__init__(unembed, config)
        self.layer_translators.to(unembed.weight.device, torch.float32)
        self.layer_translators.requires_grad_(False)

    @classmethod
    def from_model(cls, model: HookedMamba, model_revision: str | None = None, *, name: str = "") -> TunedLens:
        """An untrained lens for `model`, equal to its logit lens.

        `name`: folder or hub id of the model, stored in the lens' config for whoever reads it.
        """
        config = TunedLensConfig(
            base_model_name_or_path=name,
            base_model_revision=model_revision,
            d_model=model.cfg.d_model,
            num_hidden_layers=model.cfg.n_layers,
        )
        return cls(ModelUnembed(model), config)

    def transform_hidden(self, h: Float[Tensor, "*batch d_model"], idx: int) -> Float[Tensor, "*batch d_model"]:
        """h + W_idx h + b_idx, in float32 or wider."""
        if not 0 <= idx < len(self):
            raise IndexError(f"idx is {idx}: this lens reads resid_pre of the blocks 0 to {len(self) - 1}.")
        return super().transform_hidden(h.to(self[idx].weight.dtype), idx)

    def forward(self, h: Float[Tensor, "*batch d_model"], idx: int) -> Float[Tensor, "*batch d_vocab"]:
        return self.unembed(self.transform_hidden(h, idx))

    def stacked(self) -> tuple[Float[Tensor, "block d_model d_model"], Float[Tensor, "block d_model"]]:
        """Copies of all translators' weights and biases, one above the other."""
        weights = torch.stack([translator.weight.detach() for translator in self])
        return weights, torch.stack([translator.bias.detach() for translator in self])

    @torch.no_grad()
    def load_stacked(
        self, weight: Float[Tensor, "block d_model d_model"], bias: Float[Tensor, "block d_model"]
    ) -> None:
        """Set all translators; the inverse of `stacked`."""
        for index, translator in enumerate(self):
            translator.weight.copy_(weight[index])
            translator.bias.copy_(bias[index])

    def save(self, path: str | Path, ckpt: str = "params.pt", config: str = "config.json") -> None:
        """Write the lens into the folder `path`; see `lens.folders.save_lens`."""
        from diffmamba_interp.lens.folders import save_lens

        if (ckpt, config) != ("params.pt", "config.json"):
            raise ValueError("the file names params.pt and config.json are fixed: load_lens looks for them.")
        save_lens(self, path)
