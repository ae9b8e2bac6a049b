"""What a run of the needle page found, all that its figures need without a model; how it is written and read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch

from diffmamba_interp.files.archives import arrays_from_bytes, arrays_to_bytes
from diffmamba_interp.files.json_files import parse_json, read_json_object
from diffmamba_interp.implicit_attention.allocation import CLASSES, DIRECTIONS, PICTURES, Allocation
from diffmamba_interp.needle.records import ReadSample
from diffmamba_interp.needle.trajectory_records import ARRAYS, BY_LABEL, MEASURES, Measure, NeedleTrajectory
from diffmamba_interp.statistics import Statistic

SHIPPED = Path(__file__).resolve().parents[2] / "analyses" / "needle_snr" / "paper" / "results.json"
"""What was found of the bundled pair; an installed copy does not have it."""

MAX_SAMPLES = 200
MAX_MODELS, MAX_NAMES, MAX_TEXT = 2, 1000, 1000
OF_ALLOCATION = ("mass", "smaller", "snr_db", "cosine", "n_sources")


@dataclass(frozen=True, kw_only=True)
class NeedleReading:
    """What one model makes of the prompts that were read so far. allocation: None if it was not asked for."""

    trajectory: NeedleTrajectory
    allocation: Allocation | None

    @property
    def nbytes(self) -> int:
        """Of the arrays."""
        arrays = [value for value in vars(self.trajectory).values() if isinstance(value, np.ndarray)]
        tensors = [] if self.allocation is None else [*vars(self.allocation).values()]
        return sum(getattr(value, "nbytes", 0) for value in [*arrays, *tensors])

    def joined(self, other: NeedleReading) -> NeedleReading:
        """This and then the other's prompts."""
        both = self.allocation, other.allocation
        return replace(
            self,
            trajectory=NeedleTrajectory.join([self.trajectory, other.trajectory]),
            allocation=None if both[0] is None or both[1] is None else Allocation.cat([both[0], both[1]]),
        )


@dataclass(frozen=True, kw_only=True)
class CurveSettings:
    """How the curves are drawn. log: a logarithmic axis for `measure`; the SNR is in dB."""

    measure: Measure
    statistic: Statistic
    log: bool


@dataclass(frozen=True, kw_only=True)
class NeedleRun:
    """readings: one per model, of the same prompts in the same order."""

    readings: tuple[NeedleReading, ...]
    drawing: CurveSettings

    @property
    def nbytes(self) -> int:
        return sum(reading.nbytes for reading in self.readings)

    @property
    def n_prompts(self) -> int:
        return len(self.readings[0].trajectory.samples)


def shipped_results(models: Sequence[str]) -> dict[str, Any] | None:
    """Results of `analyses/needle_snr` where the models are the bundled pair that they are of; else None."""
    if sorted(models) != ["bundled:diff-mamba2", "bundled:mamba2"] or not SHIPPED.is_file():
        return None
    return read_json_object(SHIPPED)


def write_needle(run: NeedleRun) -> bytes:
    """Arrays of every model, "0.log_probs" and "0.allocation.mass" and so on; `about` says what they are."""
    arrays: dict[str, np.ndarray] = {}
    for number, reading in enumerate(run.readings):
        arrays |= {f"{number}.{name}": getattr(reading.trajectory, name) for name in ARRAYS}
        if reading.allocation is not None:
            arrays |= {
                f"{number}.allocation.{name}": getattr(reading.allocation, name).cpu().numpy() for name in OF_ALLOCATION
            }
    about = {
        "drawing": asdict(run.drawing),
        "models": [
            {name: getattr(reading.trajectory, name) for name in ("model", "lenses", "stages")}
            for reading in run.readings
        ],
        "samples": [asdict(sample) for sample in run.readings[0].trajectory.samples],
    }
    return arrays_to_bytes({"about": np.array(json.dumps(about)), **arrays})


def read_needle(content: bytes) -> NeedleRun:
    """The inverse of `write_needle`. Raises ValueError, and KeyError or TypeError where a part is missing."""
    arrays = arrays_from_bytes(content, source="a needle run", remedy="Save the session again.")
    about = parse_json(str(arrays.pop("about")), source="what a needle run says of itself")
    samples = tuple(_sample(values) for values in _list(about["samples"], MAX_SAMPLES))
    models = _list(about["models"], MAX_MODELS)
    readings = tuple(_reading(number, values, samples, arrays) for number, values in enumerate(models))
    return NeedleRun(readings=readings, drawing=_drawing(about["drawing"]))


def _reading(
    number: int, values: dict, samples: tuple[ReadSample, ...], arrays: dict[str, np.ndarray]
) -> NeedleReading:
    lenses, stages = (_texts(values[name]) for name in ("lenses", "stages"))
    width = max(len(sample.labels) for sample in samples)
    shape = (len(lenses), len(samples), len(stages))
    measured = {
        name: _numbers(arrays, f"{number}.{name}", (*shape, width) if name in BY_LABEL else shape) for name in ARRAYS
    }
    trajectory = NeedleTrajectory(
        model=_text(values["model"]), lenses=lenses, stages=stages, samples=samples, **cast(Any, measured)
    )
    if f"{number}.allocation.mass" not in arrays:
        return NeedleReading(trajectory=trajectory, allocation=None)
    prompts = (len(samples), len(DIRECTIONS), len(stages) - 1)
    shapes = {
        "mass": (*prompts, len(PICTURES), len(CLASSES)),
        "smaller": (*prompts, len(CLASSES)),
        "snr_db": (*prompts, len(PICTURES)),
        "cosine": prompts,
        "n_sources": (len(samples), len(CLASSES)),
    }
    tensors = {
        name: torch.from_numpy(_numbers(arrays, f"{number}.allocation.{name}", wanted))
        for name, wanted in shapes.items()
    }
    return NeedleReading(trajectory=trajectory, allocation=Allocation(**tensors))


def _numbers(arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    array = arrays[name]
    whole = name.endswith("n_sources")
    if array.shape != shape or array.dtype not in ((np.int64,) if whole else (np.float32, np.float64)):
        raise ValueError(
            f"a record of the session file is not of one piece: {name} is {array.dtype} of shape {array.shape}, "
            f"and should be {'whole numbers' if whole else 'numbers'} of shape {shape}."
        )
    return array


def _sample(values: dict) -> ReadSample:
    """Raises ValueError for a prompt whose labels do not hold its answer and another one."""
    if set(values) != {item.name for item in fields(ReadSample)}:
        raise ValueError(f"the session file describes a prompt by {sorted(map(str, values))[:20]}, which is not all.")
    depth = values["depth"]
    sample = ReadSample(
        id=_text(values["id"]), task=_text(values["task"]), answer=_text(values["answer"]),
        labels=_texts(values["labels"]), n_label_tokens=tuple(map(_whole, _list(values["n_label_tokens"], MAX_NAMES))),
        length=_whole(values["length"]), seed=_whole(values["seed"]), n_tokens=_whole(values["n_tokens"]),
        needle_depth=_number(values["needle_depth"]),
        depth=tuple(map(_number, depth)) if isinstance(depth, list) else None if depth is None else _number(depth),
    )  # fmt: skip
    n_labels = len(sample.labels)
    if n_labels < 2 or sample.answer not in sample.labels or len(sample.n_label_tokens) != n_labels:
        raise ValueError(f"the session file holds a prompt whose answer is not one of at least two labels: {sample}.")
    if min(sample.n_label_tokens) < 1:
        raise ValueError(f"the session file holds a label without tokens: {sample}.")
    return sample


def _drawing(values: dict) -> CurveSettings:
    drawing = CurveSettings(**values)
    if drawing.measure not in MEASURES or drawing.statistic not in get_args(Statistic) or drawing.log not in (0, 1):
        raise ValueError(f"the session file asks for a drawing that there is not: {str(values)[:200]}.")
    return drawing


def _list(values: Any, limit: int) -> list:
    if not isinstance(values, list) or not 1 <= len(values) <= limit:
        raise ValueError(f"the session file holds {str(values)[:40]!r}, not a list of 1 to {limit} entries.")
    return values


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(map(_text, _list(values, MAX_NAMES)))


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise ValueError(f"the session file holds {str(value)[:40]!r}, not a whole number.")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float):
        raise ValueError(f"the session file holds {str(value)[:40]!r}, not a number.")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"the session file holds {str(value)[:40]!r}, not a text of up to {MAX_TEXT:,} characters.")
    return value
