"""`AttentionRecord`: an attention-like picture of one block, with what is needed to read it rightly.

minuend, subtrahend (never times lambda), difference (always with lambda), or weights in a plain block; what is drawn of
the subtrahend is lambda times it, so that the second picture taken from the first leaves the third

Its file is an NPZ archive: the arrays, and one JSON string that says what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from diffmamba_interp.config import Normalisation
from diffmamba_interp.files.archives import arrays_from_bytes, arrays_to_bytes
from diffmamba_interp.files.atomic import replacing
from diffmamba_interp.files.json_files import json_text, parse_json
from diffmamba_interp.implicit_attention.branch_parts import BranchParts
from diffmamba_interp.ops.scan_pairs import Reduction

Kind = Literal["hidden", "contribution", "contribution_norm", "softmax"]

DIFFERENCE_MEANS = {
    "hidden": "H1 − λ H2 of the scans only; gates, norms and out_proj are left out, "
    "and only in a Diff-S6, where both meet the same output weights, has head h of one branch a tie to head h of the "
    "other",
    "hidden reduced": "difference of the branches' {reduce} over heads: {reduce}(H1) − λ {reduce}(H2), of "
    "the scans only",
    "hidden reduced by head": "difference of the branches' {reduce} over heads, each head of H2 times its own lambda: "
    "{reduce}(H1) − {reduce}(λ H2), of the scans only",
    "contribution": "exact: what each source adds to mixer_out along the direction, K1 − λ K2, frozen scales",
    "contribution_norm": "norm of the vector difference: |T1 − λ T2|, frozen scales; not a difference of norms",
    "softmax": "A1 − λ A2 of two softmaxes, head by head, as in the differential Transformer",
}

FORMAT = "diffmamba_interp.AttentionRecord/1"
REMEDY = "Delete it, and extract the attention again."
TENSORS = ("tokens", "lengths", "rows", "weight", "scaled", "norm_of_difference", "bias", "total")
VALUES = ("kind", "block", "normalisation", "heads", "per_head", "reduce", "sources", "token_strings")


@dataclass(frozen=True, kw_only=True, repr=False)
class AttentionRecord(BranchParts):
    """One block's picture: `weights`, or `minuend`, `subtrahend`, `lambda_`, `difference`, by name.

    kind: "hidden" (no unit), "contribution" (unit of the direction; logits for a token's direction) or
        "contribution_norm" (unit of the residual stream), or "softmax" (no unit; `differential_attention`).
    block: index in the whole model. normalisation: of a differential block; None in a plain one.
    tokens: the ids that were read, [batch, pos]. lengths: tokens per sample; rows and columns behind are 0.
    rows: destination position of each row, [batch, row].
    parts: per branch, [batch, row, src], or [batch, head, row, src] if per_head. norm_of_difference: likewise.
    weight: lambda, a scalar, [batch, row] or, of all heads, [batch, row, head]; None in a plain block.
    scaled: lambda times the subtrahend, like a part, where each head has a lambda of its own; otherwise None.
    bias: what belongs to no source, [batch, row], both branches together; None for kinds without it.
    total: <direction, mixer_out> in the run, [batch, row]; None for kinds without a direction.
    heads: heads shown, reduced or summed over. per_head: whether the parts have a head axis.
    reduce: reduction over heads of kind "hidden". sources: what a column is, for contributions.
    token_strings: text of each token, per sample, if it was given.
    """

    kind: Kind
    block: int
    normalisation: Normalisation | None
    tokens: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, " batch"]
    rows: Int[Tensor, "batch row"]
    parts: tuple[Tensor, ...]
    weight: Tensor | None
    heads: tuple[int, ...]
    per_head: bool
    reduce: Reduction | None = None
    sources: str = "convolved"
    scaled: Tensor | None = None
    norm_of_difference: Tensor | None = None
    bias: Tensor | None = None
    total: Tensor | None = None
    token_strings: tuple[tuple[str, ...], ...] | None = None

    @property
    def row_axis(self) -> int:
        return 2 if self.per_head else 1

    @property
    def exact_difference(self) -> Tensor | None:
        return self.norm_of_difference

    @property
    def difference_means(self) -> str:
        """In words, which of the three honest differences `difference` is."""
        key: str = self.kind
        if self.kind == "hidden" and self.reduce:
            key = "hidden reduced" if self.scaled is None else "hidden reduced by head"
        return DIFFERENCE_MEANS[key].format(reduce=self.reduce)

    @property
    def remainder(self) -> Tensor:
        """total - bias - sum over sources, [batch, row]: round-off, unless heads were left out or a hook
        replaced something between the scan and mixer_out."""
        if self.total is None or self.bias is None:
            raise AttributeError(f"a record of kind {self.kind!r} has no total, so no remainder.")
        explained = self.net.sum(dim=-1)
        return self.total - self.bias - (explained.sum(dim=1) if self.per_head else explained)

    @property
    def pictures(self) -> dict[str, Tensor]:
        """The pictures by name, in the order in which they are shown: the subtrahend as it enters the difference."""
        if not self.is_differential:
            return {"weights": self.weights}
        return {"minuend": self.minuend, "lambda_subtrahend": self.lambda_subtrahend, "difference": self.difference}

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Every array of the record by name, on the CPU and cut from any graph; lambda is `lambda_`."""
        arrays = {name: _to_array(picture) for name, picture in self.pictures.items()}
        if self.is_differential:
            arrays |= {"subtrahend": _to_array(self.subtrahend), "lambda_": _to_array(self.lambda_)}
        for name in ("tokens", "lengths", "rows", "bias", "total"):
            value = getattr(self, name)
            if value is not None:
                arrays[name] = _to_array(value)
        return arrays

    def save(self, path: str | Path) -> Path:
        """Write the record to `path` (`.npz` is added if it is missing), whole or not at all; see `load`."""
        path = Path(path)
        if path.suffix != ".npz":
            path = path.with_name(path.name + ".npz")
        arrays = {name: _to_array(getattr(self, name)) for name in TENSORS if getattr(self, name) is not None}
        arrays |= {f"part_{i}": _to_array(part) for i, part in enumerate(self.parts)}
        values = {"format": FORMAT} | {name: getattr(self, name) for name in VALUES}
        with replacing(path, several_writers=True) as file:
            file.write(arrays_to_bytes({"values": np.array(json_text(values)), **arrays}))
        return path

    @classmethod
    def load(cls, path: str | Path) -> AttentionRecord:
        """Read what `save` wrote: arrays and one JSON string, nothing unpickled.

        Raises ValueError, saying why, for a file that holds no record.
        """
        read = arrays_from_bytes(Path(path).read_bytes(), source=path, remedy=REMEDY, kind="attention record")
        if "values" not in read:
            raise ValueError(f"{path} is no attention record: it does not say what its arrays are.")
        values: dict[str, Any] = parse_json(str(read.pop("values")), source=path)
        try:
            arrays = {name: torch.from_numpy(array) for name, array in read.items()}
        except TypeError as error:
            raise ValueError(f"{path} is no attention record: {error}") from error
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise ValueError(f"{path} is no attention record of format {FORMAT!r}.")
        missing = sorted({"tokens", "lengths", "rows", "part_0"} - set(arrays)) + sorted(set(VALUES) - set(values))
        if missing:
            raise ValueError(f"{path} is no whole attention record: it lacks {', '.join(missing)}.")
        strings, heads = values.pop("token_strings"), values.pop("heads")
        fields: dict[str, Any] = {name: arrays.get(name) for name in TENSORS}
        fields |= {name: values[name] for name in VALUES if name in values}
        return cls(
            parts=tuple(arrays[f"part_{i}"] for i in range(2) if f"part_{i}" in arrays),
            heads=tuple(heads),
            token_strings=None if strings is None else tuple(tuple(sample) for sample in strings),
            **fields,
        )

    def figure(self, **options: Any) -> Any:
        """A Plotly figure of the pictures side by side; options as in `figures.attention.attention_figure`."""
        # Figures lie above the instruments and take records in; pyproject.toml lists this one import as an exception.
        from diffmamba_interp.figures.attention import attention_figure

        return attention_figure(self, **options)


def _to_array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
