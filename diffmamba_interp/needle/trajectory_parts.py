"""Batches of a measurement kept in a folder, so that it goes on after a break where it was.

`measurement.json` says what is measured, `part-00000.safetensors` and so on hold a batch each, with its sum; every file
is whole or not there. One process at a time writes into the folder. Parts of format 1 have no sum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import nn

from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.files.checksums import DamagedFileError, damage_text
from diffmamba_interp.files.json_files import read_json_object, write_json
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.needle.records import ReadSample

_MEASUREMENT = "measurement.json"
_FORMAT = "diffmamba_interp.needle_trajectory/2"
_FORMAT_WITHOUT_SUMS = "diffmamba_interp.needle_trajectory/1"
_SUM = "sha256"


@dataclass(frozen=True)
class KeptParts:
    """The folder of one measurement, whose description was found to be the same. have_sums: its parts must."""

    folder: Path
    have_sums: bool

    @classmethod
    def at(
        cls,
        folder: Path,
        model: HookedMamba,
        lenses: Mapping[str, Any],
        name: str,
        samples: Sequence[ReadSample],
        plan: Sequence[Sequence[int]],
    ) -> KeptParts:
        """Start a folder, or go on with it. Raises ValueError if it holds another measurement.

        Models and lenses are compared by their weights; hooks, and lenses that are no modules, only by name.
        """
        wanted = {
            "format": _FORMAT,
            "name": name,
            "model": _digest(model),
            "dtype": str(model.embed.weight.dtype),
            "lenses": {key: _digest(lens) if isinstance(lens, nn.Module) else "" for key, lens in lenses.items()},
            "samples": _digest_text([sample.id for sample in samples]),
            "batches": _digest_text(plan),
        }
        file = folder / _MEASUREMENT
        if file.exists():
            held = read_json_object(file)
            if held.get("format") == _FORMAT_WITHOUT_SUMS:
                wanted["format"] = _FORMAT_WITHOUT_SUMS
            differing = [key for key in wanted if held.get(key) != wanted[key]]
            if differing:
                raise ValueError(
                    f"{folder} holds another measurement (it differs in {', '.join(differing)}): give another path, or "
                    "remove that folder to measure again."
                )
        else:
            write_json(file, wanted)
        return cls(folder, have_sums=wanted["format"] == _FORMAT)

    def read(self, number: int) -> dict[str, np.ndarray] | None:
        """Batch `number`, or None if it has not been read yet. Raises DamagedFileError if it is not what was kept."""
        file = self._part(number)
        if not file.exists():
            return None
        remedy = "Delete it, and the same command reads its prompts again."
        try:
            with safe_open(file, framework="np") as part:
                stored = (part.metadata() or {}).get(_SUM)
                arrays = {name: part.get_tensor(name) for name in part.keys()}  # noqa: SIM118
        except (SafetensorError, ValueError, TypeError) as error:
            raise DamagedFileError(f"{file} is damaged ({error}). {remedy}") from error
        if stored != _digest_arrays(arrays) and (self.have_sums or stored is not None):
            raise DamagedFileError(damage_text(file, remedy))
        return arrays

    def write(self, number: int, arrays: dict[str, np.ndarray]) -> None:
        """Keep batch `number`."""
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        write_bytes(self._part(number), save(whole, metadata={_SUM: _digest_arrays(whole)}))

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.safetensors"


def _digest(module: nn.Module) -> str:
    """Sha256 of a module's parameters and buffers, as they are in memory."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _digest_text(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
