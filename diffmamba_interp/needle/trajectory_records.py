"""`NeedleTrajectory`: what a lens makes of the answer and its distractors at every stage of a model, per prompt.

    log p_i(label)   log-probability of all the label's tokens at stage i, the product of their conditionals
    snr_i            p_i(answer) / mean_k p_i(distractor_k),  in dB 10 log10 snr_i
    share_i(label)   p_i(label) / sum_k p_i(label_k), which does not favour short labels
    per token        p_i(label)^(1 / number of its tokens), the geometric mean of its conditionals

Section 4.4 of the Diff-Mamba paper (arXiv 2507.06204), which shows the probability of one token; the whole answer, its
distractors and the signal-to-noise ratio are additions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from diffmamba_interp.needle.records import Depth, NeedleSample
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
]
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True, kw_only=True)
class ReadSample:
    """What a trajectory says about a prompt, beside what the model made of it.

    id: from task, length, depth, prompt, answer and labels: the same for every model and tokenizer.
    task, length, depth, seed, n_tokens: as in `NeedleSample`.
    needle_depth: mean place of the supporting facts, as a share of the context's tokens, in [0, 1).
    labels: of the task. answer: which of them is right. n_label_tokens: tokens of each label.
    """

    id: str
    task: str
    length: int
    depth: Depth
    needle_depth: float
    seed: int
    n_tokens: int
    labels: tuple[str, ...]
    answer: str
    n_label_tokens: tuple[int, ...]

    @property
    def answer_index(self) -> int:
        """Place of the answer among the labels."""
        return self.labels.index(self.answer)

    @classmethod
    def of(cls, sample: NeedleSample) -> ReadSample:
        """The description of `sample`. Raises ValueError if its answer cannot be told from its distractors."""
        _require_distinct_labels(sample)
        depths = [sample.fact_depths[index] for index in sample.supporting]
        return cls(
            id=_identity(sample),
            task=sample.task,
            length=sample.length,
            depth=sample.depth,
            needle_depth=round(sum(depths) / len(depths), 6) if depths else 0.0,
            seed=sample.seed,
            n_tokens=sample.n_tokens,
            labels=sample.labels,
            answer=sample.answer,
            n_label_tokens=tuple(map(len, sample.label_tokens)),
        )


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
            own = self.log_probs[..., label, None]
            ties = (self.log_probs == own).sum(axis=-1) - 1
            ranks[..., label] = 1 + (self.log_probs > own).sum(axis=-1) + ties / 2
        return np.where(np.isnan(self.log_probs), np.nan, ranks)

    @property
    def label_shares(self) -> Float[np.ndarray, "lens sample stage label"]:
        """Probability of each label among the labels, in [0, 1]."""
        log_probs = self._log_probs64
        return np.exp(log_probs - _log_sum(log_probs)[..., None])

    @property
    def per_token_log_probs(self) -> Float[np.ndarray, "lens sample stage label"]:
        """Mean log-probability of a label's tokens, in nats."""
        width = self.log_probs.shape[-1]
        counts = np.full((len(self.samples), width), np.nan)
        for row, sample in zip(counts, self.samples, strict=True):
            row[: len(sample.n_label_tokens)] = sample.n_label_tokens
        return self._log_probs64 / counts[None, :, None, :]

    @property
    def snr_db(self) -> Float[np.ndarray, "lens sample stage"]:
        """Signal-to-noise ratio, 10 log10 of p(answer) / mean_k p(distractor_k)."""
        log_probs = self._log_probs64
        distractors = log_probs.copy()
        self._put_answers(distractors, np.nan)
        n_distractors = (~np.isnan(distractors)).sum(axis=-1)
        return snr_db(self._of_answer(log_probs), _log_sum(distractors), n_distractors)

    def measure(self, name: Measure) -> Float[np.ndarray, "lens sample stage"]:
        """One number per lens, prompt and stage, about the answer, in float64.

        snr_db, snr: signal-to-noise ratio, in dB and as it is. probability, log_probability (nats): of the whole
        answer; per_token_probability: geometric mean over its tokens; label_share: among the labels.
        label_rank: among the labels; vocabulary_rank: of its first token; is_right: 1 where no label is as probable
        as the answer, else 0. entropy_nats, kl_to_final_nats: of the prediction. Raises ValueError for another name.
        """
        if name not in MEASURES:
            raise ValueError(f"there is no measure {name!r}: choose one of {', '.join(MEASURES)}.")
        if name in ("entropy_nats", "kl_to_final_nats"):
            return np.asarray(getattr(self, name), dtype=np.float64)
        if name == "snr_db":
            return self.snr_db
        if name == "snr":
            return np.exp(self.snr_db / DB_PER_NAT)
        by_label = {
            "probability": lambda: np.exp(self._log_probs64),
            "log_probability": lambda: self._log_probs64,
            "label_share": lambda: self.label_shares,
            "per_token_probability": lambda: np.exp(self.per_token_log_probs),
            "label_rank": lambda: self.label_ranks,
            "vocabulary_rank": lambda: self.token_ranks.astype(np.float64),
            "is_right": lambda: (self.label_ranks == 1).astype(np.float64),
        }
        return self._of_answer(by_label[name]())

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
        width = max(part.log_probs.shape[-1] for part in parts)
        arrays: dict[str, Any] = {
            name: np.concatenate(
                [widened(getattr(part, name), width if name in BY_LABEL else None) for part in parts], 1
            )
            for name in ARRAYS
        }
        return replace(first, samples=tuple(sample for part in parts for sample in part.samples), **arrays)

    def to_records(self) -> list[dict[str, Any]]:
        """One row of plain values per lens, prompt and stage; see `trajectory_files.to_records`."""
        from diffmamba_interp.needle.trajectory_files import to_records

        return to_records(self)

    def save(self, path: str | Path, *, decimals: int | None = None) -> None:
        """Write the rows as .parquet, .csv, .csv.gz, .json or .json.gz; see `trajectory_files.save_trajectory`."""
        from diffmamba_interp.needle.trajectory_files import save_trajectory

        save_trajectory(self, path, decimals=decimals)

    @classmethod
    def load(cls, path: str | Path) -> NeedleTrajectory:
        """What `save` wrote."""
        from diffmamba_interp.needle.trajectory_files import load_trajectory

        return load_trajectory(path)

    @property
    def _log_probs64(self) -> np.ndarray:
        return self.log_probs.astype(np.float64)

    def _of_answer(self, by_label: np.ndarray) -> np.ndarray:
        return np.take_along_axis(by_label, self.answers[None, :, None, None], axis=-1)[..., 0]

    def _put_answers(self, by_label: np.ndarray, value: float) -> None:
        np.put_along_axis(by_label, self.answers[None, :, None, None], value, axis=-1)


BY_LABEL = ("log_probs", "token_ranks")
ARRAYS = (*BY_LABEL, "entropy_nats", "kl_to_final_nats")


def widened(array: np.ndarray, width: int | None) -> np.ndarray:
    """The array with its last axis filled up with NaN to `width`; as it is for None."""
    if width is None or array.shape[-1] == width:
        return array
    extra = [(0, 0)] * (array.ndim - 1) + [(0, width - array.shape[-1])]
    return np.pad(array, extra, constant_values=np.nan)


def _log_sum(log_probs: np.ndarray) -> np.ndarray:
    """log of the sum of the probabilities over the last axis; NaN counts as probability 0."""
    return np.logaddexp.reduce(np.where(np.isnan(log_probs), -np.inf, log_probs), axis=-1)


def _require_distinct_labels(sample: NeedleSample) -> None:
    where = f"the sample with the question {sample.question!r}"
    if sample.answer not in sample.labels:
        raise ValueError(f"{where} has the answer {sample.answer!r}, which is none of its labels {sample.labels}.")
    if len(sample.label_tokens) != len(sample.labels):
        raise ValueError(f"{where} has {len(sample.labels)} labels, but tokens for {len(sample.label_tokens)}.")
    if not all(sample.label_tokens):
        raise ValueError(f"{where} has a label without tokens: every label needs at least one.")
    if len(sample.labels) < 2:
        raise ValueError(f"{where} has one label: a signal-to-noise ratio needs a distractor, too.")
    answer = sample.labels.index(sample.answer)
    words = [" ".join(label.split()).casefold() for label in sample.labels]
    for other, label in enumerate(sample.labels):
        if other != answer and (
            words[other] == words[answer] or sample.label_tokens[other] == sample.label_tokens[answer]
        ):
            raise ValueError(
                f"{where} has the distractor {label!r}, which is equal to its answer {sample.answer!r} (as a word or "
                "in tokens): its probability would count as signal and as noise. Take it out of the labels."
            )
    if len(set(sample.label_tokens)) != len(sample.label_tokens):
        raise ValueError(f"{where} holds a distractor twice, which would count double: {sample.labels}.")


def _identity(sample: NeedleSample) -> str:
    parts = (sample.task, str(sample.length), str(sample.depth), sample.prompt, sample.answer, *sample.labels)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
