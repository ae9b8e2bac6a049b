"""Attention records as NPZ files: arrays and one JSON string, nothing pickled, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffmamba_interp.files.archives import arrays_from_bytes, arrays_to_bytes
from diffmamba_interp.files.atomic import replacing
from diffmamba_interp.files.json_files import json_text, parse_json
from diffmamba_interp.implicit_attention.record import AttentionRecord

FORMAT = "diffmamba_interp.AttentionRecord/1"
REMEDY = "Delete it, and extract the attention again."
TENSORS = ("tokens", "lengths", "rows", "weight", "norm_of_difference", "bias", "total")
VALUES = ("kind", "block", "normalisation", "heads", "per_head", "reduce", "sources", "token_strings")


def save_record(record: AttentionRecord, path: str | Path) -> Path:
    """Write `record` to `path` (`.npz` is added if it is missing), by way of a temporary file beside it."""
    path = Path(path)
    if path.suffix != ".npz":
        path = path.with_name(path.name + ".npz")
    arrays = {name: _to_array(getattr(record, name)) for name in TENSORS if getattr(record, name) is not None}
    arrays |= {f"part_{i}": _to_array(part) for i, part in enumerate(record.parts)}
    values = {"format": FORMAT} | {name: getattr(record, name) for name in VALUES}
    with replacing(path, several_writers=True) as file:
        file.write(arrays_to_bytes({"values": np.array(json_text(values)), **arrays}))
    return path


def load_record(path: str | Path) -> AttentionRecord:
    """The record in the file `path`. Raises ValueError, saying why, for a file that holds none."""
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
    return AttentionRecord(
        parts=tuple(arrays[f"part_{i}"] for i in range(2) if f"part_{i}" in arrays),
        heads=tuple(heads),
        token_strings=None if strings is None else tuple(tuple(sample) for sample in strings),
        **fields,
    )


def _to_array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
