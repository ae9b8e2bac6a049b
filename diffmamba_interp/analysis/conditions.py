"""Measuring the same prompts under several conditions, for analyses that intervene: one line per condition and prompt.

    right      1 where the answer is the most probable label, else 0
    log_prob   log p(answer)                                                    nats
    snr_db     10 log10( p(answer) / mean_k p(distractor_k) )                   dB
    share      p(answer) / sum_labels p = r / (r + K), r = 10^(snr_db / 10), K distractors; follows from the records

`read_conditions` measures, `Readings` aligns what was measured by prompt, `estimates` and `changes` put intervals on
it.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diffmamba_interp.analysis.page import ALL, table, text
from diffmamba_interp.analysis.prompts import PromptOptions, keep_lines, prompt_question
from diffmamba_interp.analysis.question import Asked, Question
from diffmamba_interp.analysis.results import N_RESAMPLES, read_records
from diffmamba_interp.interventions import Intervention, intervene
from diffmamba_interp.lens import LogitLens, demo_lens_folder, load_demo_lens
from diffmamba_interp.lens.card import lens_sha256
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out import Lens
from diffmamba_interp.needle import NeedleSample
from diffmamba_interp.needle.trajectory import needle_trajectory
from diffmamba_interp.statistics import Estimate, bootstrap, paired_test

CLEAN = "clean"
DECIMALS = {"right": 3, "share": 3, "log_prob": 2, "snr_db": 1}
"""Of measures on a page."""

MEASURES = {"right": "accuracy", "share": "label share", "log_prob": "log p, nats", "snr_db": "SNR, dB"}
"""What is measured at the model's output, with its name on axes."""

ORDER = ("length", "task", "story", "model", "kind", "where", "dose")
"""The lines of one prompt stand beside each other."""

BATCH_TOKENS = {"cpu": 8_192, "cuda": 131_072}
MAX_SAMPLES = {"cpu": 64, "cuda": 512}


@dataclass(frozen=True, kw_only=True)
class LensOptions(PromptOptions):
    """Of a question that reads with a lens."""

    lens: str = "tuned"
    """"tuned" or "logit"."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """kind: what is varied; "clean" for nothing. where: `ALL` or the block. dose: how much, in the unit of the kind.

    interventions: in force while the prompts are read.
    """

    kind: str
    where: str = ALL
    dose: float = float("nan")
    interventions: tuple[Intervention, ...] = ()


@dataclass(frozen=True)
class Key:
    """A model under a condition; the dose of a clean one does not matter."""

    model: str
    kind: str
    where: str = ALL
    dose: float = 0.0


def condition_question(**fields: Any) -> Question:
    """A question about prompts under conditions, whose `measure` gives what `read_conditions` does."""
    keep = functools.partial(keep_lines, order=ORDER, snr_decimals=(4, 0))
    return prompt_question(**{"options": LensOptions, "about": lenses_of, "keep": keep, **fields})


def lenses_of(asked: Asked) -> dict[str, Any]:
    """Which lens was read, and the sums of those of the pair."""
    lens = asked.options.lens
    if lens not in ("tuned", "logit"):
        raise ValueError(f'lens is {lens!r}: it must be "tuned" or "logit".')
    tuned = {name: lens_sha256(demo_lens_folder(name)) for name in DEMO_NAMES} if lens == "tuned" else {}
    return {"lens": lens, "lenses": tuned}


def read_conditions(
    asked: Asked, name: DemoName, model: HookedMamba, readings: Iterable[tuple[Condition, Sequence[NeedleSample]]]
) -> dict[str, list[Any]]:
    """The lines of `read_prompts` for each condition and the prompts that are read under it."""
    lens = load_demo_lens(name, model) if asked.options.lens == "tuned" else LogitLens.from_model(model)
    columns: dict[str, list[Any]] = defaultdict(list)
    for condition, samples in readings:
        for key, values in read_prompts(model, lens, samples, condition, name=name).items():
            columns[key] += values
    return columns


def read_prompts(
    model: HookedMamba, lens: Lens, samples: Sequence[NeedleSample], condition: Condition, *, name: str
) -> dict[str, list[Any]]:
    """One line per prompt: the measures at the output, and SNR by the lens at a quarter, half and three quarters.

    name: of the model. `snr_db_3` is the lens' reading of what enters block 3. A condition on a single block keeps
    `right` and `snr_db` alone, since there are many of them. Prompts without text are told apart by their stories.
    """
    device = model.embed.weight.device.type
    known = [sample if sample.prompt else replace(sample, prompt=sample.story_hash) for sample in samples]
    with intervene(model, condition.interventions):
        trajectory = needle_trajectory(
            model, lens, known, name=name, batch_tokens=BATCH_TOKENS[device], max_samples=MAX_SAMPLES[device]
        )
    snr_db = trajectory.snr_db[0]
    log_prob = trajectory.measure("log_probability")[0, :, -1]
    if condition.where != ALL:
        log_prob, snr_db[:, :-1] = np.full(len(known), np.nan), np.nan
    n = len(known)
    same = {"model": name, "kind": condition.kind, "where": condition.where, "dose": condition.dose}
    columns: dict[str, list[Any]] = {key: [value] * n for key, value in same.items()}
    columns |= {
        "task": [sample.task for sample in known],
        "length": [sample.length for sample in known],
        "story": [sample.story_key for sample in known],
        "n_labels": [len(sample.labels) for sample in known],
        "right": trajectory.measure("is_right")[0, :, -1].astype(int).tolist(),
        "log_prob": log_prob.tolist(),
        "snr_db": snr_db[:, -1].tolist(),
    }
    for block in lens_blocks(model.cfg.n_layers):
        columns[f"snr_db_{block}"] = snr_db[:, block].tolist()
    return columns


def lens_blocks(n_layers: int) -> tuple[int, ...]:
    """The blocks at whose entrance the lens is read into the records."""
    return tuple(n_layers * quarter // 4 for quarter in (1, 2, 3))


class Readings:
    """Records by model, condition, task and length; the prompts of a cell are in one order under every condition."""

    def __init__(self, records: Mapping[str, np.ndarray]) -> None:
        ratio = 10 ** (np.minimum(records["snr_db"], 300.0) / 10)
        self.records = {**records, "share": ratio / (ratio + records["n_labels"] - 1)}
        self._rows: dict[tuple[Key, str, int], list[int]] = defaultdict(list)
        columns = (records[name].tolist() for name in ("model", "kind", "where", "dose", "task", "length"))
        for row, (model, kind, where, dose, task, length) in enumerate(zip(*columns, strict=True)):
            key = Key(model, kind, where, 0.0 if kind == CLEAN else dose)
            self._rows[key, task, int(length)].append(row)

    @classmethod
    def read(cls, path: Path) -> Readings:
        """From a file of records."""
        return cls(read_records(path))

    @property
    def lens_measures(self) -> tuple[str, ...]:
        """What the lens read on the way, in the order of the blocks."""
        names = [name for name in self.records if name.startswith("snr_db_") and np.isfinite(self.records[name]).any()]
        return tuple(sorted(names, key=lambda name: int(name.removeprefix("snr_db_"))))

    @property
    def cells(self) -> list[tuple[str, int]]:
        """(task, length), by length, all tasks together first."""
        cells = {(task, length) for _, task, length in self._rows}
        cells |= {(ALL, length) for _, length in cells}
        return sorted(cells, key=lambda cell: (cell[1], cell[0] != ALL, cell[0]))

    def keys(self, length: int) -> list[Key]:
        """Models and conditions that were measured at a length, sorted."""
        keys = {key for key, _, at in self._rows if at == length}
        return sorted(keys, key=lambda key: (key.model, key.kind, len(key.where), key.where, key.dose))

    def of(self, key: Key, task: str, length: int, measures: Sequence[str]) -> Float[np.ndarray, "prompt measure"]:
        """The measures of a cell's prompts. Raises KeyError if the cell was not measured under that condition."""
        rows = self._rows_of(key, task, length)
        return np.stack([self.records[measure][rows].astype(np.float64) for measure in measures], axis=-1)

    def stories(self, key: Key, task: str, length: int) -> list[str]:
        """Which prompts `of` gives, in its order."""
        rows = self._rows_of(key, task, length)
        return [f"{self.records['task'][row]} {self.records['story'][row]}" for row in rows]

    def _rows_of(self, key: Key, task: str, length: int) -> list[int]:
        tasks = sorted({name for _, name, at in self._rows if at == length}) if task == ALL else [task]
        missing = [name for name in tasks if (key, name, length) not in self._rows]
        if missing:
            raise KeyError(f"{key} was not measured on {', '.join(missing)} at length {length}.")
        return [
            row
            for name in tasks
            for row in sorted(self._rows[key, name, length], key=lambda row: str(self.records["story"][row]))
        ]


def estimates(values: Float[np.ndarray, "prompt column"]) -> list[Estimate]:
    """Each column's mean with its 95 % bootstrap interval over prompts."""
    return bootstrap(values, n_resamples=N_RESAMPLES).estimates


def changes(
    before: Float[np.ndarray, "prompt column"], after: Float[np.ndarray, "prompt column"]
) -> tuple[list[Estimate], list[float]]:
    """Mean of after minus before, prompt by prompt, with its 95 % interval; sign-flip p-values beside them."""
    tested = paired_test(before, after, n_resamples=N_RESAMPLES)
    return tested.estimates, [float(p) for p in tested.p_value]


def by_name(measures: Iterable[str], values: Sequence[Any]) -> dict[str, Any]:
    """What was found of each measure, in their order."""
    return dict(zip(measures, values, strict=True))


def lens_table(
    names: Sequence[str], heads: Sequence[str], rows: Iterable[tuple[Sequence[str], Mapping[str, Any]]]
) -> list[str]:
    """Lines on the SNR that the lens reads on the way; none if it read nothing.

    names: the lens' measures. heads: of what tells rows apart. rows: that, and the estimates by measure.
    """
    if not names:
        return []
    blocks = [name.removeprefix("snr_db_") for name in names]
    return [
        "SNR (dB) as the lens reads it on the way, all tasks:",
        "",
        *table(
            [*heads, f"entering block {blocks[0]}", *blocks[1:], "output"],
            [[*start, *(text(values[name], 1) for name in (*names, "snr_db"))] for start, values in rows],
        ),
        "",
    ]


def text_of(values: Mapping[str, Any], measure: str, *, signed: bool = False) -> str:
    """An estimate of a measure as pages have it."""
    return text(values[measure], DECIMALS[measure], signed=signed)
