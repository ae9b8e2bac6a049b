"""Attention records as NPZ files: arrays and one JSON string, nothing pickled, written whole or not at all."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffmamba_interp.files.atomic import replacing
from diffmamba_interp.implicit_attention.record import AttentionRecord

FORMAT = "diffmamba_interp.AttentionRecord/1"
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
        np.savez_compressed(file, allow_pickle=False, values=np.array(json.dumps(values)), **arrays)
    return path


def load_record(path: str | Path) -> AttentionRecord:
    """The record in the file `path`. Raises ValueError, saying why, for a file that holds none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            values: dict[str, Any] = json.loads(str(file["values"]))
            arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "values"}
    except (KeyError, ValueError, zipfile.BadZipFile, EOFError) as error:
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
