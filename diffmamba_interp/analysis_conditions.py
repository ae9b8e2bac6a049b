"""Measuring the same prompts under several conditions, for analyses that intervene: one line per condition and prompt.

    right      1 where the answer is the most probable label, else 0
    log_prob   log p(answer)                                                    nats
    snr_db     10 log10( p(answer) / mean_k p(distractor_k) )                   dB
    share      p(answer) / sum_labels p = r / (r + K), r = 10^(snr_db / 10), K distractors; follows from the records

`read_prompts` measures, `Readings` aligns what was measured by prompt, `estimates` and `changes` put intervals on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diffmamba_interp.analysis_results import read_records
from diffmamba_interp.interventions import Intervention, intervene
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out import Lens
from diffmamba_interp.needle import NeedleSample
from diffmamba_interp.needle.trajectory import needle_trajectory
from diffmamba_interp.statistics import Estimate, bootstrap, paired_test

CLEAN = "clean"
ALL = "all"
"""Of `where`: all blocks at once. Of a task: all tasks together."""

MEASURES = {"right": "accuracy", "share": "label share", "log_prob": "log p, nats", "snr_db": "SNR, dB"}
"""What is measured at the model's output, with its name on axes."""

TEXT = ("model", "kind", "where", "task", "story")
BATCH_TOKENS = {"cpu": 8_192, "cuda": 131_072}
MAX_SAMPLES = {"cpu": 64, "cuda": 512}
N_RESAMPLES = 2_000

Columns = dict[str, list[Any]]


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


def read_prompts(
    model: HookedMamba, lens: Lens, samples: Sequence[NeedleSample], condition: Condition, *, name: str
) -> Columns:
    """One line per prompt: the measures at the output, and SNR by the lens at a quarter, half and three quarters.

    name: of the model. `snr_db_3` is the lens' reading of what enters block 3. A condition on a single block keeps
    `right` and `snr_db` alone, since there are many of them. Prompts without text are told apart by their stories.
    """
    device = model.embed.weight.device.type
    known = [sample if sample.prompt else replace(sample, prompt=sample.story_hash) for sample in samples]
    with intervene(model, condition.interventions):
        found = needle_trajectory(
            model, lens, known, name=name, batch_tokens=BATCH_TOKENS[device], max_samples=MAX_SAMPLES[device]
        )
    snr_db = found.snr_db[0]
    log_prob = found.measure("log_probability")[0, :, -1]
    if condition.where != ALL:
        log_prob, snr_db[:, :-1] = np.full(len(known), np.nan), np.nan
    n = len(known)
    same = {"model": name, "kind": condition.kind, "where": condition.where, "dose": condition.dose}
    columns: Columns = {key: [value] * n for key, value in same.items()}
    columns |= {
        "task": [sample.task for sample in known],
        "length": [sample.length for sample in known],
        "story": [sample.story_hash[:16] for sample in known],
        "n_labels": [len(sample.labels) for sample in known],
        "right": found.measure("is_right")[0, :, -1].astype(int).tolist(),
        "log_prob": log_prob.tolist(),
        "snr_db": snr_db[:, -1].tolist(),
    }
    for block in lens_blocks(model.cfg.n_layers):
        columns[f"snr_db_{block}"] = snr_db[:, block].tolist()
    return columns


def lens_blocks(n_layers: int) -> tuple[int, ...]:
    """The blocks at whose entrance the lens is read into the records."""
    return tuple(n_layers * quarter // 4 for quarter in (1, 2, 3))


def together(parts: Sequence[Columns], *, decimals: int) -> dict[str, np.ndarray]:
    """All lines, those of one prompt beside each other, which packs well.

    decimals: of signal-to-noise ratios at the entrances of blocks (dB); one more of the output's.
    """
    columns = {name: np.array([value for part in parts for value in part[name]]) for name in parts[0]}
    for name in columns:
        if name.startswith("snr_db"):
            columns[name] = columns[name].round(decimals + (name == "snr_db"))
    order = np.lexsort([columns[name] for name in ("dose", "where", "kind", "model", "story", "task", "length")])
    return {name: column[order] for name, column in columns.items()}


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
        return cls(read_records(path, text=TEXT))

    @property
    def cells(self) -> list[tuple[str, int]]:
        """(task, length), by length, all tasks together first."""
        found = {(task, length) for _, task, length in self._rows}
        found |= {(ALL, length) for _, length in found}
        return sorted(found, key=lambda cell: (cell[1], cell[0] != ALL, cell[0]))

    def keys(self, length: int) -> list[Key]:
        """Models and conditions that were measured at a length, sorted."""
        found = {key for key, _, own in self._rows if own == length}
        return sorted(found, key=lambda key: (key.model, key.kind, len(key.where), key.where, key.dose))

    def of(self, key: Key, task: str, length: int, measures: Sequence[str]) -> Float[np.ndarray, "prompt measure"]:
        """The measures of a cell's prompts. Raises KeyError if the cell was not measured under that condition."""
        rows = self._rows_of(key, task, length)
        return np.stack([self.records[measure][rows].astype(np.float64) for measure in measures], axis=-1)

    def stories(self, key: Key, task: str, length: int) -> list[str]:
        """Which prompts `of` gives, in its order."""
        own = self._rows_of(key, task, length)
        return [f"{self.records['task'][row]} {self.records['story'][row]}" for row in own]

    def _rows_of(self, key: Key, task: str, length: int) -> list[int]:
        tasks = sorted({own for _, own, at in self._rows if at == length}) if task == ALL else [task]
        missing = [one for one in tasks if (key, one, length) not in self._rows]
        if missing:
            raise KeyError(f"{key} was not measured on {', '.join(missing)} at length {length}.")
        return [
            row
            for one in tasks
            for row in sorted(self._rows[key, one, length], key=lambda row: str(self.records["story"][row]))
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
