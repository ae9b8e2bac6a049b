"""What the files of a Jacobian lens hold: the public layout, and beside it what that has no place for.

    {"J": {l: float16 [d_model, d_model]}, "n_prompts", "source_layers", "d_model", optional "metadata"}        public
    "embedding": float16 [d_model, d_model]        ours, beside it: J of stage 0
    "branches": {hook point: float16 [d_model, d_model]}

Public entry l is of the output of block l, l = 0 .. n_layers - 2, and is applied as J @ h (TransformerLens 4.3 and the
lenses that are published for transformers). Our stage i reads `resid_pre` of block i, which is the output of block
i - 1: stage = l + 1. The embedding, stage 0, has no entry there.

In "int8", for lenses that travel with a package, a matrix is its diagonal and, row by row, whole numbers:

    J[a, b] = scale[a] * q[a, b] + (diagonal[a] if a = b),   q in -127 .. 127

The diagonal, near 1 since the stream is carried on unchanged, would otherwise set the scale of its whole row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffmamba_interp.lens.recipe import Storage

JACOBIAN_LENS = "jacobian_lens"

_LEVELS = 127
_PARTS = ("whole_numbers", "scale", "diagonal")


@dataclass(frozen=True)
class JacobianLensConfig:
    """What a Jacobian lens' config.json says.

    base_model_name_or_path, base_model_revision, d_model, num_hidden_layers, unembed_hash: as in a tuned lens' config.
    n_prompts: that the Jacobians are means over; 0 where that is not known.
    skip_first: positions of every prompt that were left out before the first source; the last one is left out too.
    prompt_tokens: of each prompt, at most; None where that is not known.
    fitted: the stages that have a Jacobian, by index; at the others this is the logit lens.
    relative_error: of each fitted stage, the standard error of J over prompts, |J - its expectation| / |J| in the
        Frobenius norm; None where that is not known.
    """

    base_model_name_or_path: str
    d_model: int
    num_hidden_layers: int
    n_prompts: int = 0
    skip_first: int = 16
    prompt_tokens: int | None = None
    fitted: tuple[int, ...] = ()
    relative_error: tuple[float, ...] | None = None
    base_model_revision: str | None = None
    unembed_hash: str | None = None
    lens_type: str = JACOBIAN_LENS

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the inverse of `from_dict`."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> JacobianLensConfig:
        """From plain values, of which it takes those that it knows. Raises TypeError where one is missing."""
        known: dict[str, Any] = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        for name in ("fitted", "relative_error"):
            if isinstance(known.get(name), list):
                known[name] = tuple(known[name])
        return cls(**known)


@dataclass(frozen=True, kw_only=True, eq=False)
class JacobianLayout:
    """jacobians: [d_model, d_model] by stage. branches: by hook point. metadata: whatever its writer says about it."""

    d_model: int
    n_prompts: int
    jacobians: dict[int, Tensor]
    branches: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_content(self, storage: Storage = "float16", *, metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Tensors and plain values for `write_tensors`."""
        pack = _compact if storage == "int8" else _halved
        public = {stage - 1: matrix for stage, matrix in self.jacobians.items() if stage > 0}
        content: dict[str, Any] = {
            "J": {layer: pack(matrix) for layer, matrix in public.items()},
            "n_prompts": self.n_prompts,
            "source_layers": sorted(public),
            "d_model": self.d_model,
        }
        if 0 in self.jacobians:
            content["embedding"] = pack(self.jacobians[0])
        if self.branches:
            content["branches"] = {name: pack(matrix) for name, matrix in self.branches.items()}
        return content if metadata is None else content | {"metadata": dict(metadata)}

    @classmethod
    def from_content(cls, content: Any, source: str | Path) -> JacobianLayout:
        """The inverse of `to_content`, in float32.

        source: of whom errors speak. Raises ValueError for content that is no such file, whose matrices are misshapen
        or not finite, or that names other layers than it holds.
        """
        if not isinstance(content, Mapping) or not isinstance(content.get("J"), Mapping):
            hint = ""
            if isinstance(content, Mapping) and "jacobian_sum" in content:
                hint = " It is a checkpoint of a fit that is under way: let the program that wrote it finish the lens."
            raise ValueError(f"{source} is no file of a Jacobian lens: it holds no matrices under 'J'.{hint}")
        try:
            d_model, n_prompts = int(content["d_model"]), int(content.get("n_prompts", 0))
            matrices = {int(layer) + 1: value for layer, value in content["J"].items()}
            branches = {str(name): value for name, value in dict(content.get("branches", {})).items()}
            metadata = dict(content.get("metadata") or {})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{source} is no file of a Jacobian lens ({type(error).__name__}: {error}).") from error
        if "embedding" in content:
            matrices[0] = content["embedding"]
        named = {f"J[{stage - 1}]" if stage else "embedding": value for stage, value in matrices.items()} | branches
        whole = {name: _whole(value) for name, value in named.items()}
        wrong = [name for name, value in whole.items() if value is None or tuple(value.shape) != (d_model, d_model)]
        if wrong or not named:
            raise ValueError(
                f"{source} does not hold matrices of {d_model} x {d_model} alone: {', '.join(wrong[:5]) or 'none'}."
            )
        broken = [name for name, value in whole.items() if value is not None and not bool(value.isfinite().all())]
        if broken:
            raise ValueError(f"{source} holds values that are not finite ({', '.join(broken[:5])}): fit it again.")
        listed = content.get("source_layers")
        if listed is not None and sorted(listed) != sorted(stage - 1 for stage in matrices if stage > 0):
            raise ValueError(f"{source} holds other layers than source_layers says ({listed}): it is damaged.")
        values = dict(zip(named, (value for value in whole.values() if value is not None), strict=True))
        return cls(
            d_model=d_model,
            n_prompts=n_prompts,
            jacobians={stage: values[f"J[{stage - 1}]" if stage else "embedding"] for stage in sorted(matrices)},
            branches={name: values[name] for name in branches},
            metadata=metadata,
        )


def _halved(matrix: Tensor) -> Tensor:
    """In float16, or in float32 where float16 ends."""
    half = matrix.to(torch.float16)
    return (half if bool(half.isfinite().all()) else matrix.float()).contiguous()


def _compact(matrix: Tensor) -> dict[str, Tensor]:
    diagonal = matrix.diagonal().float().clone()
    rest = matrix.float() - diagonal.diag()
    scale = rest.abs().amax(dim=1) / _LEVELS
    steps = rest / torch.where(scale > 0, scale, 1.0)[:, None]
    return dict(zip(_PARTS, (steps.round().to(torch.int8), scale, diagonal), strict=True))


def _whole(value: Any) -> Tensor | None:
    """The matrix in float32; None for what is no matrix."""
    if isinstance(value, Mapping):
        parts = [part for part in map(value.get, _PARTS) if isinstance(part, Tensor)]
        if len(parts) < len(_PARTS):
            return None
        steps, scale, diagonal = parts
        if steps.ndim != 2 or scale.shape != steps.shape[:1] or diagonal.shape != steps.shape[1:]:
            return None
        return scale.float()[:, None] * steps.float() + diagonal.float().diag()
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else None
