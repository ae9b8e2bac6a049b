"""Lenses: what the model would predict if a block were its last (Belrose et al. 2023, arXiv 2303.08112).

    logit lens    lens_i(h) = unembed(ln_final(h))
    tuned lens    lens_i(h) = unembed(ln_final(h + W_i h + b_i)),   W_i = b_i = 0 at the start

Translator i reads `resid_pre` of block i; i = 0 is the embedding. Both have the attributes and methods by which
the tuned-lens library uses a lens, and work wherever it takes one; that library itself is not imported, since that
takes seconds and brings in all of transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffmamba_interp.argument_checks import checked, checked_fields
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.files.json_files import write_json
from diffmamba_interp.files.tensors import write_tensors
from diffmamba_interp.lens.unembedding import ModelUnembed
from diffmamba_interp.models.graphs import GraphStore
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.token_checks import token_ids
from diffmamba_interp.ops.precision import upcast


class Decoder(nn.Module):
    """What the lenses have in common: `lens(h, idx)` computes with tensors alone, so that it may be captured."""

    def __init__(self) -> None:
        super().__init__()
        self._graphs = GraphStore()

    @property
    def graphs(self) -> GraphStore | None:
        """The captured uses of this lens; None for a lens of a user's class, which may do more than compute."""
        return self._graphs if type(self) in (LogitLens, TunedLens) else None


CONFIG_FILE = "config.json"
PARAMS_FILE = "params.pt"
LENS_FILE = "lens.json"
LENS_FORMAT = 1


class LogitLens(Decoder):
    """Reads the residual stream as if it were the final one; has no parameters of its own."""

    def __init__(self, unembed: ModelUnembed) -> None:
        super().__init__()
        self.unembed = unembed

    @classmethod
    @checked
    def from_model(cls, model: HookedMamba) -> LogitLens:
        """The logit lens of `model`; shares its weights."""
        return cls(ModelUnembed(model))

    def transform_hidden(self, h: Float[Tensor, "*batch d_model"], idx: int) -> Float[Tensor, "*batch d_model"]:
        """h, whatever block it is from."""
        return h

    def forward(self, h: Float[Tensor, "*batch d_model"], idx: int) -> Float[Tensor, "*batch d_vocab"]:
        return self.unembed(h)

    def direction(self, token: int) -> LensDirection:
        """Where in the residual stream a token's logit grows; the same after every block."""
        return LensDirection(self, token)


@dataclass(frozen=True)
class TunedLensConfig:
    """What a lens folder's config.json says: field by field the tuned-lens library's class of this name.

    base_model_name_or_path, base_model_revision: the model it was trained for, for whoever reads it.
    d_model, num_hidden_layers: the model's width and number of blocks, thus of translators.
    bias: whether a translator has b_i beside W_i.
    unembed_hash: `ModelUnembed.unembedding_hash` of that model.
    lens_type: the library's name for translators that are affine maps.
    """

    base_model_name_or_path: str
    d_model: int
    num_hidden_layers: int
    bias: bool = True
    base_model_revision: str | None = None
    unembed_hash: str | None = None
    lens_type: str = "linear_tuned_lens"


class TunedLens(Decoder):
    """One affine translator per block in front of the model's own read-out; `lens(h, i)` gives logits.

    Translators are kept in float32 whatever the model's dtype: a step of training is often smaller than
    bfloat16's spacing.
    """

    def __init__(self, unembed: ModelUnembed, config: TunedLensConfig) -> None:
        if not config.bias:
            raise ValueError("bias is False in this lens' config: only translators with a bias are served.")
        d_model = unembed.weight.shape[1]
        if config.d_model != d_model:
            raise ValueError(
                f"the lens is for d_model {config.d_model}, but the model has {d_model}: "
                "this lens was trained for another model."
            )
        super().__init__()
        self.unembed = unembed
        self.config = replace(config, unembed_hash=unembed.unembedding_hash())
        self.layer_translators = nn.ModuleList(
            _zero_translator(d_model, unembed.weight.device) for _ in range(config.num_hidden_layers)
        )

    @classmethod
    @checked
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

    def __len__(self) -> int:
        return len(self.layer_translators)

    def __getitem__(self, idx: int) -> nn.Linear:
        return cast(nn.Linear, self.layer_translators[idx])

    def __iter__(self) -> Iterator[nn.Linear]:
        return (self[idx] for idx in range(len(self)))

    def transform_hidden(self, h: Float[Tensor, "*batch d_model"], idx: int) -> Float[Tensor, "*batch d_model"]:
        """h + W_idx h + b_idx, in float32 or wider."""
        if not 0 <= idx < len(self):
            raise IndexError(f"idx is {idx}: this lens reads resid_pre of the blocks 0 to {len(self) - 1}.")
        h = h.to(self[idx].weight.dtype)
        return h + self[idx](h)

    def forward(self, h: Float[Tensor, "*batch d_model"], idx: int) -> Float[Tensor, "*batch d_vocab"]:
        return self.unembed(self.transform_hidden(h, idx))

    def direction(self, token: int) -> LensDirection:
        """Where in the residual stream after each block a token's logit grows, as this lens reads it."""
        return LensDirection(self, token)

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
        """Write the lens into the folder `path`; see `save_lens`."""
        if (ckpt, config) != ("params.pt", "config.json"):
            raise ValueError("the file names params.pt and config.json are fixed: load_lens looks for them.")
        save_lens(self, path)


@checked
def save_lens(lens: TunedLens, folder: str | Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write a lens into `folder`, each file whole or not at all, config.json last; `lens.folders` says what each holds.

    `extra`: further JSON values for lens.json, such as the sha256 of the tokenizer. Raises OSError if the
    folder cannot be written.
    """
    folder = Path(folder)
    state = {name: value.detach().float().cpu() for name, value in lens.layer_translators.state_dict().items()}
    write_tensors(folder / PARAMS_FILE, {name: value.clone().contiguous() for name, value in state.items()})
    description = {
        "format": LENS_FORMAT,
        "reads": "resid_pre",
        **lens.unembed.identity().to_dict(),
        "params_sha256": file_sha256(folder / PARAMS_FILE),
        **(extra or {}),
    }
    write_json(folder / LENS_FILE, description)
    # The library opens this one, in the encoding of its machine: ASCII is the same in all.
    write_text(folder / CONFIG_FILE, json.dumps(asdict(lens.config), indent=1) + "\n")


@checked_fields
@dataclass(frozen=True)
class LensDirection:
    """A token's logit in a lens as a direction, before the final norm's scale divides (`extract_attention` takes it).

    v_i = (1 + W_{i+1})^T (g * U[token])        what leaves block i is read by translator i + 1

    After the last block, and in the logit lens, W = 0: there the model reads itself.
    """

    lens: LogitLens | TunedLens
    token: int

    def __call__(self, block: int) -> Float[Tensor, " d_model"]:
        unembed = self.lens.unembed
        row = unembed.weight[token_ids("token", self.token, 1, len(unembed.weight), unembed.weight.device)[0]]
        row = upcast(row) * upcast(unembed.gain)
        if not isinstance(self.lens, TunedLens) or block + 1 >= len(self.lens):
            return row
        return row + row @ self.lens[block + 1].weight.to(row)


def _zero_translator(d_model: int, device: torch.device) -> nn.Linear:
    translator = nn.utils.skip_init(nn.Linear, d_model, d_model, device=device, dtype=torch.float32)
    for parameter in translator.requires_grad_(False).parameters():
        parameter.zero_()
    return translator
