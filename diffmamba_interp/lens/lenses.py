"""Lenses: what the model would predict if a block were its last (Belrose et al. 2023, arXiv 2303.08112).

    logit lens       lens_i(h) = unembed(ln_final(h))
    tuned lens       lens_i(h) = unembed(ln_final(h + W_i h + b_i)),   W_i = b_i = 0 at the start
    Jacobian lens    lens_i(h) = unembed(ln_final(J_i h)),   J_i: mean derivative of the last stream (`jacobian_fit`)

Translator i and J_i read `resid_pre` of block i; i = 0 is the embedding. All have the attributes and methods by which
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
from diffmamba_interp.hook_names import Branch, branch_out
from diffmamba_interp.lens.jacobian_layout import JacobianLayout, JacobianLensConfig
from diffmamba_interp.lens.recipe import LensKind, Storage
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
        return self._graphs if type(self) in (LogitLens, TunedLens, JacobianLens) else None


CONFIG_FILE = "config.json"
PARAMS_FILE = "params.pt"
LENS_FILE = "lens.json"
LENS_FORMAT = 1


class LogitLens(Decoder):
    """Reads the residual stream as if it were the final one; has no parameters of its own."""

    kind = "logit"

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

    def pull_back(self, row: Float[Tensor, " d_model"], idx: int) -> Float[Tensor, " d_model"]:
        """The direction at the input whose component is that of `row` behind `transform_hidden`."""
        return row

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

    kind: LensKind = "tuned"

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

    def pull_back(self, row: Float[Tensor, " d_model"], idx: int) -> Float[Tensor, " d_model"]:
        """(1 + W_idx)^T row."""
        return row + row @ self[idx].weight.to(row)

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


class JacobianLens(Decoder):
    """One matrix per stage, J_i, that carries the stream to the model's end as the model itself does on average.

    `fit_jacobian_lens` makes one (Gurnee et al. 2026, transformer-circuits.pub/2026/workspace). Nothing is trained: J_i
    h is a first-order account of what h causes, not the best linear guess of what the model will say.

    jacobians: [stage, d_model, d_model] in float32, applied as J @ h; the identity at stages that are not fitted.
    branches: by name of the hook point, Jacobians of what a branch of a differential block puts out (`branch_logits`).
    """

    kind: LensKind = "jacobian"

    def __init__(
        self,
        unembed: ModelUnembed,
        config: JacobianLensConfig,
        jacobians: Float[Tensor, "stage d_model d_model"],
        branches: Mapping[str, Float[Tensor, "d_model d_model"]] | None = None,
    ) -> None:
        d_model, n = unembed.weight.shape[1], config.num_hidden_layers
        if config.d_model != d_model:
            raise ValueError(
                f"the lens is for d_model {config.d_model}, but the model has {d_model}: "
                "this lens was fitted for another model."
            )
        matrices = {f"jacobians[{stage}]": matrix for stage, matrix in enumerate(jacobians)} | dict(branches or {})
        wrong = [name for name, matrix in matrices.items() if matrix.shape != (d_model, d_model)]
        if len(jacobians) != n or wrong:
            raise ValueError(
                f"jacobians holds {len(jacobians)} matrices for {n} stages, and {len(wrong)} of all matrices are not "
                f"{d_model} x {d_model}{f' ({wrong[0]})' if wrong else ''}: give one of that size for each stage."
            )
        super().__init__()
        self.unembed = unembed
        self.config = replace(config, unembed_hash=unembed.unembedding_hash())
        self.jacobians: Tensor
        self.register_buffer("jacobians", _frozen_copy(jacobians, unembed.weight.device))
        self._branch_names = {name: f"branch_{place}" for place, name in enumerate(branches or {})}
        for name, buffer in self._branch_names.items():
            self.register_buffer(buffer, _frozen_copy((branches or {})[name], unembed.weight.device))

    @classmethod
    def of_layout(cls, unembed: ModelUnembed, config: JacobianLensConfig, layout: JacobianLayout) -> JacobianLens:
        """The lens of a file's content, whose stages it is then said to have; the identity stands at the others."""
        identity = torch.eye(config.d_model)
        stages = [layout.jacobians.get(stage, identity) for stage in range(config.num_hidden_layers)]
        config = replace(config, n_prompts=layout.n_prompts, fitted=tuple(sorted(layout.jacobians)))
        return cls(unembed, config, torch.stack([stage.float() for stage in stages]), layout.branches)

    def __len__(self) -> int:
        return self.config.num_hidden_layers

    @property
    def branches(self) -> dict[str, Float[Tensor, "d_model d_model"]]:
        """The branches' Jacobians by name of the hook point, `blocks.{i}.mixer.{branch}.hook_out`."""
        return {name: self.get_buffer(buffer) for name, buffer in self._branch_names.items()}

    def transform_hidden(self, h: Float[Tensor, "*batch d_model"], idx: int) -> Float[Tensor, "*batch d_model"]:
        """J_idx h, in float32."""
        if not 0 <= idx < len(self):
            raise IndexError(f"idx is {idx}: this lens reads resid_pre of the blocks 0 to {len(self) - 1}.")
        return h.to(self.jacobians.dtype) @ self.jacobians[idx].mT

    def forward(self, h: Float[Tensor, "*batch d_model"], idx: int) -> Float[Tensor, "*batch d_vocab"]:
        return self.unembed(self.transform_hidden(h, idx))

    def branch_logits(
        self, value: Float[Tensor, "*batch d_model"], block: int, branch: Branch
    ) -> Float[Tensor, "*batch d_vocab"]:
        """unembed(ln_final(J value)): what a branch's output moves the prediction towards, on average.

        value: `blocks.{block}.mixer.{branch}.hook_out`, which J differentiates: lambda, sub-norm and all later blocks
        are in J. A norm forgets its input's length, so behind a sub-norm on the difference the exact derivatives of the
        two branches satisfy J_minuend m1 + J_subtrahend m2 = 0: one branch is read against the other, and only by
        what the mean over positions leaves of that do the two read-outs differ in more than sign.
        Raises ValueError if the lens was fitted without that branch.
        """
        name = branch_out(block, branch)
        if name not in self._branch_names:
            known = ", ".join(self._branch_names) or "none"
            raise ValueError(f"this lens has no Jacobian of {name} (it has: {known}): fit it with branches=True.")
        return self.unembed(value.to(self.jacobians.dtype) @ self.branches[name].mT)

    def pull_back(self, row: Float[Tensor, " d_model"], idx: int) -> Float[Tensor, " d_model"]:
        """J_idx^T row."""
        return row @ self.jacobians[idx].to(row)

    def direction(self, token: int) -> LensDirection:
        """Where in the residual stream after each block a token's logit grows, as this lens reads it."""
        return LensDirection(self, token)

    def layout(self) -> JacobianLayout:
        """What its files hold: the fitted stages and the branches, on the CPU."""
        return JacobianLayout(
            d_model=self.config.d_model,
            n_prompts=self.config.n_prompts,
            jacobians={stage: self.jacobians[stage].cpu() for stage in self.config.fitted},
            branches={name: value.cpu() for name, value in self.branches.items()},
        )

    def save(self, path: str | Path) -> None:
        """Write the lens into the folder `path`, or as a file of the public layout; see `save_lens`."""
        save_lens(self, path)


@checked
def save_lens(
    lens: TunedLens | JacobianLens,
    path: str | Path,
    extra: Mapping[str, Any] | None = None,
    *,
    storage: Storage = "float16",
) -> None:
    """Write a lens into the folder `path`, each file whole or not at all, config.json last.

    `lens.folders` says what each file holds. A Jacobian lens may also be written as one file that others open: give a
    `path` that ends in .pt (`lens.jacobian_layout`).

    extra: further JSON values for lens.json, such as the sha256 of the tokenizer; metadata of such a file.
    storage: of a Jacobian lens. int8 takes half the bytes of float16 and is read here alone.
    Raises ValueError for a tuned lens that should be one file, and for such a file in int8; OSError if it cannot be
    written.
    """
    path = Path(path)
    description = {"reads": "resid_pre", **lens.unembed.identity().to_dict(), **(extra or {})}
    if path.suffix == ".pt":
        if isinstance(lens, TunedLens) or storage != "float16":
            raise ValueError(
                f"path is {str(path)!r}, a file of the public layout, which holds Jacobians in float16: give a folder "
                "for a tuned lens and for other numbers."
            )
        # What the layout has no key of its own for. Its entries are block outputs, whatever we read them as.
        about = {name: value for name, value in lens.config.to_dict().items() if name not in ("d_model", "n_prompts")}
        write_tensors(path, lens.layout().to_content(metadata=about | description | {"reads": "resid_post"}))
        return
    if isinstance(lens, TunedLens):
        state = {name: value.detach().float().cpu() for name, value in lens.layer_translators.state_dict().items()}
        write_tensors(path / PARAMS_FILE, {name: value.clone().contiguous() for name, value in state.items()})
        config = asdict(lens.config)
    else:
        write_tensors(path / PARAMS_FILE, lens.layout().to_content(storage))
        config = lens.config.to_dict()
    write_json(
        path / LENS_FILE, {"format": LENS_FORMAT, **description, "params_sha256": file_sha256(path / PARAMS_FILE)}
    )
    # The library opens this one, in the encoding of its machine: ASCII is the same in all.
    write_text(path / CONFIG_FILE, json.dumps(config, indent=1) + "\n")


@checked_fields
@dataclass(frozen=True)
class LensDirection:
    """A token's logit in a lens as a direction, before the final norm's scale divides (`extract_attention` takes it).

    v_i = (1 + W_{i+1})^T (g * U[token])        what leaves block i is read by translator i + 1; J_{i+1} in its place

    After the last block, and in the logit lens, W = 0 and J = 1: there the model reads itself.
    """

    lens: LogitLens | TunedLens | JacobianLens
    token: int

    def __call__(self, block: int) -> Float[Tensor, " d_model"]:
        unembed = self.lens.unembed
        row = unembed.weight[token_ids("token", self.token, 1, len(unembed.weight), unembed.weight.device)[0]]
        row = upcast(row) * upcast(unembed.gain)
        is_last = not isinstance(self.lens, LogitLens) and block + 1 >= len(self.lens)
        return row if is_last else self.lens.pull_back(row, block + 1)


def _frozen_copy(matrix: Tensor, device: torch.device) -> Tensor:
    return matrix.detach().to(device, torch.float32).clone()


def _zero_translator(d_model: int, device: torch.device) -> nn.Linear:
    # Not by torch.nn.utils.skip_init, which imports sympy: half a second.
    translator = nn.Linear(d_model, d_model, device="meta")
    for name, parameter in list(translator.named_parameters()):
        zeros = torch.zeros(parameter.shape, device=device, dtype=torch.float32)
        setattr(translator, name, nn.Parameter(zeros, requires_grad=False))
    return translator
