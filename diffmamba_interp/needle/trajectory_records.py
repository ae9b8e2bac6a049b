"""`NeedleTrajectory`: what a lens makes of the answer and its distractors at every stage of a model, per prompt.

    log p_i(label)   log-probability of all the label's tokens at stage i, the product of their conditionals
    snr_i            p_i(answer) / mean_k p_i(distractor_k),  in dB 10 log10 snr_i
    share_i(label)   p_i(label) / sum_k p_i(label_k), which does not favour short labels
    per token        p_i(label)^(1 / number of its tokens), the geometric mean of its conditionals
    formed_i         1 if snr_j is 7 dB or more (3, 10; the answer is on top) at stage i and all later j, else 0
    calibrated bits  log2(number of labels) + log2 share_i(answer) at a temperature of its own (see `calibration`)

Section 4.4 of the Diff-Mamba paper (arXiv 2507.06204), which shows the probability of one token; the whole answer, its
distractors and the signal-to-noise ratio are additions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from diffmamba_interp.argument_checks import Between, checked
from diffmamba_interp.files.tables import read_table, write_table
from diffmamba_interp.needle.calibration import calibrate
from diffmamba_interp.needle.records import ReadSample
from diffmamba_interp.stages import stays_clear
from diffmamba_interp.statistics import DB_PER_NAT, snr_db

Measure = Literal[
    "snr_db",
    "snr",
    "probability",
    "log_probability",
    "label_share",
    "per_token_probability",
    "label_rank",
    "vocabulary_rank",
    "is_right",
    "entropy_nats",
    "kl_to_final_nats",
    "formed_3db",
    "formed_7db",
    "formed_10db",
    "formed_on_top",
    "calibrated_bits",
]
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True, kw_only=True, eq=False)
class NeedleTrajectory:
    """One model, one or more lenses, every prompt and stage: "embedding", after each block but the last, "output".

    model: its name. lenses: names of what read the stages. stages: see `stages.stage_names`; the
    last one is the model's own output, the same under every lens. samples: the prompts, in the order given.
    log_probs: of each whole label after the prompt, in nats. token_ranks: of each label's first token in the
    vocabulary, 1 for the most probable; equal logits share the mean of their ranks.
    entropy_nats: of the prediction at the last prompt position. kl_to_final_nats: KL(output || stage) there.
    The label axis is as wide as the largest label set; beyond a prompt's own labels it holds NaN.
    """

    model: str
    lenses: tuple[str, ...]
    stages: tuple[str, ...]
    samples: tuple[ReadSample, ...]
    log_probs: Float[np.ndarray, "lens sample stage label"]
    token_ranks: Float[np.ndarray, "lens sample stage label"]
    entropy_nats: Float[np.ndarray, "lens sample stage"]
    kl_to_final_nats: Float[np.ndarray, "lens sample stage"]

    @property
    def answers(self) -> Int[np.ndarray, " sample"]:
        """Index of each prompt's answer among its labels."""
        return np.array([sample.answer_index for sample in self.samples], dtype=np.int64)

    @property
    def label_ranks(self) -> Float[np.ndarray, "lens sample stage label"]:
        """Rank among the labels, 1 for the most probable; equally probable ones share the mean of their ranks."""
        ranks = np.full(self.log_probs.shape, np.nan)
        for label in range(self.log_probs.shape[-1]):
            of_label = self.log_probs[..., label, None]
            ties = (self.log_probs == of_label).sum(axis=-1) - 1
            ranks[..., label] = 1 + (self.log_probs > of_label).sum(axis=-1) + ties / 2
        return np.where(np.isnan(self.log_probs), np.nan, ranks)

    @property
    def label_shares(self) -> Float[np.ndarray, "lens sample stage label"]:
        """Probability of each label among the labels, in [0, 1]."""
        log_probs = self.log_probs64
        return np.exp(log_probs - _log_sum(log_probs)[..., None])

    @property
    def per_token_log_probs(self) -> Float[np.ndarray, "lens sample stage label"]:
        """Mean log-probability of a label's tokens, in nats."""
        width = self.log_probs.shape[-1]
        counts = np.full((len(self.samples), width), np.nan)
        for row, sample in zip(counts, self.samples, strict=True):
            row[: len(sample.n_label_tokens)] = sample.n_label_tokens
        return self.log_probs64 / counts[None, :, None, :]

    @property
    def snr_db(self) -> Float[np.ndarray, "lens sample stage"]:
        """Signal-to-noise ratio, 10 log10 of p(answer) / mean_k p(distractor_k)."""
        log_probs = self.log_probs64
        distractors = log_probs.copy()
        np.put_along_axis(distractors, self.answers[None, :, None, None], np.nan, axis=-1)
        n_distractors = (~np.isnan(distractors)).sum(axis=-1)
        return snr_db(self.of_answer(log_probs), _log_sum(distractors), n_distractors)

    def measure(self, name: Measure) -> Float[np.ndarray, "lens sample stage"]:
        """One number per lens, prompt and stage, about the answer, in float64; `MEASURED` says of each what it is.

        Raises ValueError for another name.
        """
        if name not in MEASURES:
            raise ValueError(f"there is no measure {name!r}: choose one of {', '.join(MEASURES)}.")
        return np.asarray(MEASURED[name].of(self), dtype=np.float64)

    def of_answer(
        self, by_label: Float[np.ndarray, "lens sample stage label"]
    ) -> Float[np.ndarray, "lens sample stage"]:
        """What the answer has of something that every label has."""
        return np.take_along_axis(by_label, self.answers[None, :, None, None], axis=-1)[..., 0]

    def lens_index(self, lens: str | None = None) -> int:
        """Place of a lens; `None` serves a trajectory with one lens. Raises ValueError."""
        if lens is None and len(self.lenses) == 1:
            return 0
        if lens not in self.lenses:
            raise ValueError(f"the trajectory was read with {', '.join(self.lenses)}, not with {lens!r}: name one.")
        return self.lenses.index(lens)

    def select(self, indices: Sequence[int] | Int[np.ndarray, " n"]) -> NeedleTrajectory:
        """Some of the prompts, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        arrays: dict[str, Any] = {name: getattr(self, name)[:, chosen] for name in ARRAYS}
        return replace(self, samples=tuple(self.samples[int(i)] for i in chosen), **arrays)

    @classmethod
    def join(cls, parts: Sequence[NeedleTrajectory]) -> NeedleTrajectory:
        """Prompts of several trajectories of one model, one after another.

        Raises ValueError if there are none, or if they differ in model, lenses or stages.
        """
        if not parts:
            raise ValueError("there are no trajectories to join: give at least one.")
        first = parts[0]
        for part in parts:
            for name in ("model", "lenses", "stages"):
                if getattr(part, name) != getattr(first, name):
                    raise ValueError(
                        f"the trajectories differ in {name}: {getattr(first, name)!r} and {getattr(part, name)!r}. "
                        "Join only those of one model, read with the same lenses."
                    )
        arrays: dict[str, Any] = joined([vars(part) for part in parts])
        return replace(first, samples=tuple(sample for part in parts for sample in part.samples), **arrays)

    def to_records(self) -> list[dict[str, Any]]:
        """One row of plain values per lens, prompt and stage; see the function of this name."""
        return to_records(self)

    def save(self, path: str | Path, *, decimals: int | None = None) -> None:
        """Write the rows as .parquet, .csv, .csv.gz, .json or .json.gz; see `save_trajectory`."""
        save_trajectory(self, path, decimals=decimals)

    @classmethod
    def load(cls, path: str | Path) -> NeedleTrajectory:
        """What `save` wrote."""
        return load_trajectory(path)

    @property
    def log_probs64(self) -> Float[np.ndarray, "lens sample stage label"]:
        """`log_probs` in float64."""
        return self.log_probs.astype(np.float64)


class Measured(NamedTuple):
    """A measure. title: what it is, with its unit, for axes and tables. of: its values, [lens, sample, stage].

    scale: "probability" for what a logarithmic axis suits as well, "logarithm" for what is one, and may be negative.
    reported: whether `evaluate_needle` gives it curves, a row in the table and a figure; the explorer offers all.

    To add one, name it in `Measure` and describe it in `MEASURED`; nothing else knows the list. What the arrays of a
    trajectory do not hold yet is read in `trajectory._at_prompt_end`, and kept in a field and in `ARRAYS`.
    """

    title: str
    of: Callable[[NeedleTrajectory], np.ndarray]
    scale: Literal["linear", "probability", "logarithm"] = "linear"
    reported: bool = False


_FORMED = "share formed: {}"

MEASURED: Mapping[Measure, Measured] = {
    "snr_db": Measured("signal-to-noise ratio, dB", lambda t: t.snr_db, "logarithm", reported=True),
    "snr": Measured("signal-to-noise ratio", lambda t: np.exp(t.snr_db / DB_PER_NAT)),
    "probability": Measured(
        "probability of the answer", lambda t: np.exp(t.of_answer(t.log_probs64)), "probability", reported=True
    ),
    "log_probability": Measured(
        "log-probability of the answer, nats", lambda t: t.of_answer(t.log_probs64), "logarithm"
    ),
    "label_share": Measured(
        "probability of the answer among the labels", lambda t: t.of_answer(t.label_shares), "probability"
    ),
    "per_token_probability": Measured(
        "probability of the answer per token", lambda t: np.exp(t.of_answer(t.per_token_log_probs)), "probability"
    ),
    "label_rank": Measured("rank of the answer among the labels", lambda t: t.of_answer(t.label_ranks)),
    "vocabulary_rank": Measured("rank of the answer's first token", lambda t: t.of_answer(t.token_ranks)),
    "is_right": Measured(
        "share of prompts with the answer on top of the labels", lambda t: t.of_answer(t.label_ranks) == 1
    ),
    "entropy_nats": Measured("entropy, nats", lambda t: t.entropy_nats),
    "kl_to_final_nats": Measured("KL to the output, nats", lambda t: t.kl_to_final_nats),
    "formed_3db": Measured(_FORMED.format("SNR stays above 3 dB"), lambda t: stays_clear(t.snr_db >= 3)),
    "formed_7db": Measured(_FORMED.format("SNR stays above 7 dB"), lambda t: stays_clear(t.snr_db >= 7), reported=True),
    "formed_10db": Measured(_FORMED.format("SNR stays above 10 dB"), lambda t: stays_clear(t.snr_db >= 10)),
    "formed_on_top": Measured(
        _FORMED.format("the answer stays on top"), lambda t: stays_clear(t.of_answer(t.label_ranks) == 1)
    ),
    "calibrated_bits": Measured(
        "calibrated bits about the answer", lambda t: calibrate(t.log_probs, t.samples).bits, reported=True
    ),
}

BY_LABEL = ("log_probs", "token_ranks")
ARRAYS = (*BY_LABEL, "entropy_nats", "kl_to_final_nats")
"""What was measured, by field."""

_DERIVED: tuple[Measure, ...] = ("probability", "label_share", "label_rank", "snr_db")
_OF_SAMPLE = ("task", "length", "depth", "needle_depth", "seed", "n_tokens", "labels", "answer", "n_label_tokens")


def _columns(dtype: str) -> dict[str, pa.DataType]:
    """The columns of a table whose numbers were measured in `dtype`."""
    number = pa.type_for_alias(dtype)
    return {
        **dict.fromkeys(("model", "lens", "stage", "sample", "task", "answer", "dtype"), pa.string()),
        **dict.fromkeys(("stage_index", "length", "seed", "n_tokens"), pa.int64()),
        "needle_depth": pa.float64(),
        **{name: number for name in (*ARRAYS, *_DERIVED) if name not in BY_LABEL},
        "depth": pa.list_(pa.float64()),
        **dict.fromkeys(BY_LABEL, pa.list_(number)),
        "labels": pa.list_(pa.string()),
        "n_label_tokens": pa.list_(pa.int64()),
    }


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The arrays of several parts in one, along the sample axis; label axes are filled up with NaN to the widest."""
    width = max(part["log_probs"].shape[-1] for part in parts)

    def widened(name: str, array: np.ndarray) -> np.ndarray:
        missing = width - array.shape[-1] if name in BY_LABEL else 0
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)], constant_values=np.nan) if missing else array

    return {name: np.concatenate([widened(name, part[name]) for part in parts], axis=1) for name in ARRAYS}


def to_records(trajectory: NeedleTrajectory, *, decimals: int | None = None) -> list[dict[str, Any]]:
    """One row of plain values per lens, prompt and stage.

    model, lens, stage, stage_index; the fields of `ReadSample` (`id` as `sample`); log_probs and token_ranks by label;
    entropy_nats, kl_to_final_nats; for reading, probability, label_share, label_rank and snr_db of the answer; dtype
    of the numbers. `decimals` rounds what was measured, which makes smaller files; what is derived keeps as many
    significant digits.
    """
    if decimals is not None:
        rounded: dict[str, Any] = {name: np.round(getattr(trajectory, name), decimals) for name in ARRAYS}
        trajectory = replace(trajectory, **rounded)
    dtype = trajectory.log_probs.dtype
    arrays = {name: _shortest(getattr(trajectory, name)) for name in ARRAYS}
    derived = {name: trajectory.measure(name).astype(dtype) for name in _DERIVED}
    arrays |= {
        name: _shortest(values if decimals is None else _significant(values, decimals))
        for name, values in derived.items()
    }
    rows = []
    for k, lens in enumerate(trajectory.lenses):
        for s, sample in enumerate(trajectory.samples):
            described = {name: getattr(sample, name) for name in _OF_SAMPLE}
            described |= {name: list(value) for name, value in described.items() if isinstance(value, tuple)}
            for i, stage in enumerate(trajectory.stages):
                row = {"model": trajectory.model, "lens": lens, "stage": stage, "stage_index": i, "sample": sample.id}
                numbers = {name: values[k, s, i].tolist() for name, values in arrays.items()}
                numbers |= {name: numbers[name][: len(sample.labels)] for name in BY_LABEL}
                rows.append({**row, **described, **numbers, "dtype": str(dtype)})
    return rows


def from_records(rows: Iterable[Mapping[str, Any]]) -> NeedleTrajectory:
    """The inverse of `to_records`. Raises ValueError on missing columns, or rows that are no whole trajectory."""
    rows = list(rows)
    missing = [name for name in _columns("float64") if name not in _DERIVED and any(name not in row for row in rows)]
    if missing or not rows:
        raise ValueError(f"these are no records of a needle trajectory: {len(rows)} rows, without {missing}.")
    models, dtypes = ({str(row[name]) for row in rows} for name in ("model", "dtype"))
    if len(models) > 1 or len(dtypes) > 1:
        raise ValueError(f"the rows are of several models or dtypes, {sorted(models | dtypes)}: give those of one.")
    lenses = list(dict.fromkeys(str(row["lens"]) for row in rows))
    samples = {str(row["sample"]): row for row in rows}
    stages = {int(row["stage_index"]): str(row["stage"]) for row in rows}
    if len(rows) != len(lenses) * len(samples) * len(stages):
        raise ValueError(
            f"{len(rows)} rows are no whole trajectory: {len(lenses)} lenses, {len(samples)} prompts and "
            f"{len(stages)} stages make {len(lenses) * len(samples) * len(stages)}."
        )
    places = {id_: index for index, id_ in enumerate(samples)}
    width = max(len(row["labels"]) for row in samples.values())
    shape = (len(lenses), len(samples), len(stages))
    arrays = {
        name: np.full((*shape, width) if name in BY_LABEL else shape, np.nan, next(iter(dtypes))) for name in ARRAYS
    }
    for row in rows:
        at = lenses.index(str(row["lens"])), places[str(row["sample"])], int(row["stage_index"])
        for name, array in arrays.items():
            array[(*at, slice(0, len(row["labels"]))) if name in BY_LABEL else at] = row[name]
    return NeedleTrajectory(
        model=models.pop(),
        lenses=tuple(lenses),
        stages=tuple(stages[index] for index in sorted(stages)),
        samples=tuple(_read_sample(row) for row in samples.values()),
        **arrays,
    )


@checked
def save_trajectory(
    trajectory: NeedleTrajectory, path: str | Path, *, decimals: Annotated[int, Between(0.0, 15.0)] | None = None
) -> None:
    """Write `to_records` as .parquet, .csv, .csv.gz, .json or .json.gz; the same rows give the same bytes.

    decimals: of what was measured; all by default. Raises ValueError for another suffix.
    """
    rows = to_records(trajectory, decimals=decimals)
    write_table(path, rows, _columns(rows[0]["dtype"]))


@checked
def load_trajectory(path: str | Path) -> NeedleTrajectory:
    """What `save_trajectory` wrote. Raises ValueError for a file of another kind, or one that is damaged."""
    kind = "table of a needle trajectory"
    rows = read_table(path, _columns("float64"), kind=kind)
    try:
        return from_records(rows)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is no {kind}, or a damaged one: {error}") from error


def _read_sample(row: Mapping[str, Any]) -> ReadSample:
    values = {name: row[name] for name in _OF_SAMPLE} | {"id": str(row["sample"])}
    depth = values["depth"]
    if isinstance(depth, list):
        values["depth"] = depth[0] if len(depth) == 1 else tuple(depth)
    for name in ("labels", "n_label_tokens"):
        values[name] = tuple(values[name])
    return ReadSample(**values)


def _shortest(array: np.ndarray) -> np.ndarray:
    """In float64, the shortest decimals that stand for the same numbers in the array's own dtype."""
    return array if array.dtype == np.float64 else array.astype(str).astype(np.float64)


def _significant(array: np.ndarray, digits: int) -> np.ndarray:
    """Rounded to so many significant digits, in the array's dtype."""
    size = np.floor(np.log10(np.abs(array), where=array != 0, out=np.zeros(array.shape)))
    scale = 10.0 ** (digits - 1 - size)
    return (np.round(array * scale) / scale).astype(array.dtype)


def _log_sum(log_probs: np.ndarray) -> np.ndarray:
    """log of the sum of the probabilities over the last axis; NaN counts as probability 0."""
    return np.logaddexp.reduce(np.where(np.isnan(log_probs), -np.inf, log_probs), axis=-1)
