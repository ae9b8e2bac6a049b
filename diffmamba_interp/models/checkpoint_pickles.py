"""Pickled weights, read without running what they hold: `torch.load(weights_only=True)` and nothing else.

Plain files hold a dictionary of tensors. Megatron's `model_optim_rng.pt` also holds the arguments of its run and the
state of its optimizer, so a few classes that can do nothing but hold values are allowed there by name.
"""

from __future__ import annotations

import argparse
import io
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

NOT_RUN = "It was not unpickled, since that can run any code."


class _Opaque:
    """Stands for a value of a library that is not installed, which nothing here reads."""

    def __init__(self, *values: Any) -> None:
        self.values = values


_RECONSTRUCT = np.empty(0).__reduce__()[0]
MEGATRON_CLASSES: tuple[tuple[Any, str], ...] = (
    (argparse.Namespace, "argparse.Namespace"),
    (SimpleNamespace, "types.SimpleNamespace"),
    # What Transformer Engine keeps of its modules, as bytes: never looked into.
    (io.BytesIO, "_io.BytesIO"),
    (io.BytesIO, "io.BytesIO"),
    # The state of numpy's random numbers.
    (_RECONSTRUCT, "numpy.core.multiarray._reconstruct"),
    (_RECONSTRUCT, "numpy._core.multiarray._reconstruct"),
    (np.ndarray, "numpy.ndarray"),
    (np.dtype, "numpy.dtype"),
    (type(np.dtype("uint32")), "numpy.dtypes.UInt32DType"),
    *(
        (_Opaque, name)
        for name in (
            "megatron.core.enums.ModelType",
            "megatron.core.transformer.enums.AttnBackend",
            "megatron.core.transformer.enums.AttnMaskType",
            "megatron.core.transformer.enums.CudaGraphScope",
            "megatron.core.rerun_state_machine.RerunMode",
            "megatron.core.rerun_state_machine.RerunState",
            "megatron.core.rerun_state_machine.RerunDiagnostic",
            "megatron.model.enums.ModelType",
            "megatron.enums.ModelType",
            "signal.Signals",
        )
    ),
)
"""Class or stand-in, and the name it has in the file: all of them hold values and do nothing when they are made."""


def load_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a plain file, on the CPU. Raises ValueError, with the file, for anything else."""
    with _read_errors(file, "is not a file of plain tensors", "Ask its author for safetensors."):
        content = _load(file)
    return _require_tensors(content, file)


def load_megatron(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The model's tensors and its run's arguments from Megatron's file. Raises ValueError, with the file."""
    if not hasattr(torch.serialization, "safe_globals"):
        raise ValueError(
            f"{file} holds more than tensors, which torch {torch.__version__} cannot allow by name: update it."
        )
    with (
        _read_errors(
            file,
            "is not a Megatron checkpoint that can be read",
            "Where Megatron-LM is installed and the file is trusted, convert it: load its 'model' and save that with "
            "safetensors' save_file, or use Megatron-LM's tools/checkpoint.",
        ),
        torch.serialization.safe_globals(list(MEGATRON_CLASSES)),
    ):
        content = _load(file)
    if not isinstance(content, dict) or not isinstance(content.get("model"), Mapping):
        held = ", ".join(sorted(map(str, content)))[:200] if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"{file} holds no 'model' with the weights, as a Megatron checkpoint of one rank does: {held}."
        )
    args = content.get("args")
    # Transformer Engine's modules store their state beside the weights: bytes, a tensor of bytes, or None.
    model = {name: value for name, value in content["model"].items() if not str(name).endswith("_extra_state")}
    return _require_tensors(model, file), dict(vars(args)) if isinstance(args, argparse.Namespace) else {}


def _load(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))


def _require_tensors(content: Any, file: Path) -> dict[str, Tensor]:
    items = content.items() if isinstance(content, dict) else [(None, None)]
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in items):
        raise ValueError(f"{file} does not hold a dictionary of tensors, which a checkpoint is.")
    return dict(content)


@contextmanager
def _read_errors(file: Path, what: str, advice: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can make the reader fail in any way
        raise ValueError(f"{file} {what} ({_reason(error)}). {NOT_RUN} {advice}") from error


def _reason(error: Exception) -> str:
    """The reader's reason, without its advice to read the file by running it."""
    text = str(error)
    if named := re.search(r"(?:GLOBAL|class) (\w\S*)", text):
        return f"it holds an object of {named[1].rstrip('.,:')}"
    if isinstance(error, pickle.UnpicklingError):
        return "its pickle holds what is no plain tensor, or it is damaged"
    first = text.splitlines()[0] if text else ""
    return first if first and "weights_only" not in first else type(error).__name__
