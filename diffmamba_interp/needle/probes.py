"""Linear probes: can the answer be read from the residual stream at all, stage by stage, lens or no lens?

    p(label | x) = softmax over labels of W x + b          x: resid_pre of block i, or resid_post of the last, at the
                                                           last prompt position, each feature standardised
    W, b         = argmin of the mean -ln p(answer) + (l2 / 2) |W|^2, on the prompts of the other folds
    bits         = log2 K + log2 p(answer)                 K labels; read, like accuracy, on prompts that were held out

One probe for each stage, task and length (Alain and Bengio 2016, arXiv 1610.01644). l2 is chosen within the other
folds, on a quarter of them. Folds keep a story together: bAbI asks several questions of a story while it grows, so
prompts of a task whose first two facts are the same count as one. Beside every probe stands one of the same prompts
with their answers shuffled (after the control tasks of Hewitt and Liang 2019, arXiv 1909.03368): what a probe gets
right there, it would get right of anything.

As in `calibration`, fits count one more prompt, an average one of any answer, so that an answer that a fold lacks is
improbable and not impossible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from diffmamba_interp.argument_checks import Count, Resamples, Seed, checked
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.hook_names import block_point
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.needle.calibration import N_FOLDS, cross_validation_folds
from diffmamba_interp.needle.curves import Curve, GroupKey, PairedCurve, prompt_groups
from diffmamba_interp.needle.records import NeedleSample, ReadSample
from diffmamba_interp.needle.trajectory import BATCH_TOKENS, PIECE_TOKENS, plan_batches, read_prompts
from diffmamba_interp.needle.trajectory_records import Measure
from diffmamba_interp.resampling import N_RESAMPLES
from diffmamba_interp.stages import stage_names
from diffmamba_interp.statistics import bootstrap, holm, paired_test

PROBE, SHUFFLED = "probe", "shuffled answers"
MIN_STORIES = 10
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Of l2, with features of variance 1."""

VALIDATION_SHARE = 4
"""One in so many stories of the other folds chooses l2."""

GROUPED_BY: tuple[GroupKey, ...] = ("task", "length")
MAX_ITERATIONS = 200
_FACTS_OF_A_STORY = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeRecord(JsonRecord):
    """What probes of one model read from prompts that they were not fitted on.

    model: its name. stages: as in `stages.stage_names`; "output" is what leaves the last block, before the final norm.
    samples: the prompts. stories: which of them are of one story, by number. is_right, bits: of each prompt's answer;
    shuffled_right, shuffled_bits: of probes fitted and read with shuffled answers. l2: the strength chosen.
    n_folds, seed: as given.
    """

    model: str
    stages: tuple[str, ...]
    samples: tuple[ReadSample, ...]
    stories: Int[np.ndarray, " sample"]
    is_right: Bool[np.ndarray, "sample stage"]
    bits: Float[np.ndarray, "sample stage"]
    shuffled_right: Bool[np.ndarray, "sample stage"]
    shuffled_bits: Float[np.ndarray, "sample stage"]
    l2: Float[np.ndarray, "sample stage"]
    n_folds: int
    seed: int


@checked
@torch.no_grad()
def probe_answers(
    model: HookedMamba,
    samples: Sequence[NeedleSample],
    *,
    name: str = "model",
    n_folds: Count = N_FOLDS,
    seed: Seed = 0,
    batch_tokens: Count | None = None,
    max_samples: Count = 64,
) -> ProbeRecord:
    """Fit and read a probe of the answer at every stage, for each task and length, by cross-validation over stories.

    Args:
        model: hooks that are attached to it take effect.
        samples: prompts of any lengths and tasks, with at least ten stories of each task and length; a hundred say
            something.
        name: the model's, for records and figures.
        n_folds: parts of the stories of a task and length, each read by probes fitted on the others.
        seed: shuffles the answers of the line beside.
        batch_tokens, max_samples: as in `needle_trajectory`.

    Raises:
        ValueError: no samples or a sample given twice, too few stories, one fold, or prompts of one task with
            different labels.
    """
    if not samples:
        raise ValueError("there are no samples to read: give at least ten stories of a task and length.")
    described = tuple(ReadSample.of(sample) for sample in samples)
    if len({sample.id for sample in described}) < len(described):
        raise ValueError("a sample is given twice: it would stand in a fold and be fitted on. Give each once.")
    stories = stories_of(samples)
    cells = _cells(described, stories, n_folds)
    resid = residuals(model, samples, batch_tokens=batch_tokens, max_samples=max_samples)
    shape = resid.shape[:2]
    right, shuffled_right = np.zeros(shape, bool), np.zeros(shape, bool)
    bits, shuffled_bits, l2 = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    rng = np.random.default_rng(seed)
    for indices in cells:
        answers = np.array([described[i].answer_index for i in indices])
        n_labels = len(described[indices[0]].labels)
        shuffled = rng.permutation(answers)
        for stage in range(shape[1]):
            at = indices, stage
            x = resid[indices, stage]
            right[at], bits[at], l2[at] = cross_validated(x, answers, n_labels, stories[indices], n_folds)
            shuffled_right[at], shuffled_bits[at], _ = cross_validated(x, shuffled, n_labels, stories[indices], n_folds)
    return ProbeRecord(
        model=name,
        stages=stage_names(model.cfg.n_layers),
        samples=described,
        stories=stories,
        is_right=right,
        bits=bits,
        shuffled_right=shuffled_right,
        shuffled_bits=shuffled_bits,
        l2=l2,
        n_folds=n_folds,
        seed=seed,
    )


@checked
def summarise_probes(
    records: Sequence[ProbeRecord], *, n_resamples: Resamples = N_RESAMPLES, seed: Seed = 0
) -> list[Curve]:
    """Accuracy ("is_right") and bits ("calibrated_bits") by stage, of each record, task and length.

    Their lens is "probe", or "shuffled answers" for the line beside. Intervals are 95 % bootstraps over stories.
    """
    curves = []
    for record in records:
        for group, indices in prompt_groups(record.samples, GROUPED_BY).items():
            for lens, measure, values in _readings(record):
                interval = bootstrap(
                    values[indices], clusters=record.stories[indices].tolist(), n_resamples=n_resamples, seed=seed
                )
                curves.append(
                    Curve(
                        model=record.model,
                        lens=lens,
                        measure=measure,
                        statistic="mean",
                        group=group,
                        stages=record.stages,
                        n=interval.n,
                        **_bounds(interval.stacked),
                    )
                )
    return curves


@checked
def compare_probes(
    first: ProbeRecord, second: ProbeRecord, *, n_resamples: Resamples = N_RESAMPLES, seed: Seed = 0
) -> list[PairedCurve]:
    """Second minus first on the same prompts, of probes of the real answers; intervals and tests over stories.

    Raises ValueError if prompts, folds or numbers of stages differ.
    """
    places = {sample.id: i for i, sample in enumerate(second.samples)}
    if {sample.id for sample in first.samples} != set(places) or first.n_folds != second.n_folds:
        raise ValueError("first and second are probes of other prompts or folds: probe the same samples with both.")
    if first.stages != second.stages:
        raise ValueError(
            f"first and second have {len(first.stages)} and {len(second.stages)} stages: only models of equally many "
            "blocks can be compared stage by stage."
        )
    order = np.array([places[sample.id] for sample in first.samples])
    curves = []
    for group, indices in prompt_groups(first.samples, GROUPED_BY).items():
        other_readings = {(lens, measure): values[order] for lens, measure, values in _readings(second)}
        for lens, measure, values in _readings(first):
            if lens == SHUFFLED:
                continue
            tested = paired_test(
                values[indices],
                other_readings[lens, measure][indices],
                clusters=first.stories[indices].tolist(),
                n_resamples=n_resamples,
                seed=seed,
            )
            curves.append(
                PairedCurve(
                    model=second.model,
                    baseline=first.model,
                    lens=lens,
                    measure=measure,
                    statistic="mean",
                    group=group,
                    stages=first.stages,
                    n=tested.n,
                    **_bounds(tested.stacked),
                    p_value=tuple(tested.p_value.tolist()),
                    p_holm=tuple(holm(tested.p_value).tolist()),
                )
            )
    return curves


@torch.no_grad()
def residuals(
    model: HookedMamba, samples: Sequence[NeedleSample], *, batch_tokens: int | None = None, max_samples: int = 64
) -> Float[np.ndarray, "sample stage d_model"]:
    """The residual stream at the last prompt position: what enters every block, and what leaves the last; float64."""
    if batch_tokens is None:
        batch_tokens = BATCH_TOKENS.get(model.embed.weight.device.type, BATCH_TOKENS["cpu"])
    n_layers = model.cfg.n_layers
    points = [*(block_point(block, "resid_pre") for block in range(n_layers)), block_point(n_layers - 1, "resid_post")]
    plan = plan_batches(samples, batch_tokens, max_samples=max_samples, piece_tokens=PIECE_TOKENS)
    resid = np.empty((len(samples), n_layers + 1, model.cfg.d_model))
    for indices in plan:
        ends = read_prompts(model, [samples[i] for i in indices], PIECE_TOKENS, points)
        resid[indices] = torch.stack(ends.resid, dim=1)[:, :, 0].double().cpu().numpy()
    return resid


def stories_of(samples: Sequence[NeedleSample]) -> Int[np.ndarray, " sample"]:
    """Numbers of the stories: prompts of a task that begin with the same two facts share theirs."""
    keys = []
    for sample in samples:
        spans = sample.fact_spans[:_FACTS_OF_A_STORY]
        keys.append((sample.task, *(sample.prompt[span.char_start : span.char_end] for span in spans)))
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)


def cross_validated(
    x: Float[np.ndarray, "sample feature"],
    answers: Int[np.ndarray, " sample"],
    n_labels: int,
    stories: Int[np.ndarray, " sample"],
    n_folds: int,
) -> tuple[Bool[np.ndarray, " sample"], Float[np.ndarray, " sample"], Float[np.ndarray, " sample"]]:
    """Whether each answer is on top of the labels, bits about it, and l2, by probes fitted on the other stories."""
    folds = cross_validation_folds(stories.tolist(), n_folds)
    right, bits, l2 = np.zeros(len(x), bool), np.zeros(len(x)), np.zeros(len(x))
    for fold in range(folds.max() + 1):
        others, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        probe = fit_best(x[others], answers[others], n_labels, stories[others])
        log_p = probe.log_probs(x[held_out])
        of_answer = log_p[np.arange(len(held_out)), answers[held_out]]
        right[held_out] = (log_p >= of_answer[:, None]).sum(axis=1) == 1
        bits[held_out] = np.log2(n_labels) + of_answer / np.log(2)
        l2[held_out] = probe.l2
    return right, bits, l2


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """weight, bias: of standardised features, (x - mean) / scale; a feature that does not vary has scale infinity."""

    weight: Float[np.ndarray, "feature label"]
    bias: Float[np.ndarray, " label"]
    mean: Float[np.ndarray, " feature"]
    scale: Float[np.ndarray, " feature"]
    l2: float

    def log_probs(self, x: Float[np.ndarray, "sample feature"]) -> Float[np.ndarray, "sample label"]:
        """Of every label, in nats."""
        return _log_softmax((x - self.mean) / self.scale @ self.weight + self.bias)


def fit_best(
    x: Float[np.ndarray, "sample feature"],
    answers: Int[np.ndarray, " sample"],
    n_labels: int,
    stories: Int[np.ndarray, " sample"],
    strengths: Sequence[float] = STRENGTHS,
) -> Probe:
    """The probe of the strength whose loss is least on a quarter of the stories, fitted on all."""
    is_chosen_on = cross_validation_folds([f"choice {story}" for story in stories], VALIDATION_SHARE) == 0
    within = np.flatnonzero(~is_chosen_on)
    losses, probe = [], None
    for l2 in sorted(strengths, reverse=True):
        probe = fit_probe(x[within], answers[within], n_labels, l2, start=probe)
        log_p = probe.log_probs(x[is_chosen_on])
        losses.append((-log_p[np.arange(len(log_p)), answers[is_chosen_on]].mean(), -l2))
    return fit_probe(x, answers, n_labels, -min(losses)[1])


def fit_probe(
    x: Float[np.ndarray, "sample feature"],
    answers: Int[np.ndarray, " sample"],
    n_labels: int,
    l2: float,
    *,
    start: Probe | None = None,
) -> Probe:
    """Multinomial logistic regression with ridge penalty `l2`, by L-BFGS. start: where to begin, of the same `x`.

    Of fewer prompts than features, only the span of the prompts is searched, since W lies in it.
    """
    from scipy.optimize import minimize

    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-9 * np.abs(x).max(initial=1e-300), scale, np.inf)
    z = (x - mean) / scale
    basis = np.linalg.svd(z, full_matrices=False)[2].T if len(z) < z.shape[1] else None
    z = z if basis is None else z @ basis
    n, width = z.shape
    target = np.eye(n_labels)[answers]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = flat[:-n_labels].reshape(width, n_labels), flat[-n_labels:]
        log_p, log_any = _log_softmax(z @ weight + bias), _log_softmax(bias)
        value = -(target * log_p).sum() / n - log_any.mean() / n + 0.5 * l2 * (weight**2).sum()
        slope = (np.exp(log_p) - target) / n
        of_bias = slope.sum(axis=0) + (np.exp(log_any) - 1 / n_labels) / n
        return value, np.concatenate([(z.T @ slope + l2 * weight).ravel(), of_bias])

    begin = np.zeros((width + 1) * n_labels)
    if start is not None:
        weight = start.weight if basis is None else basis.T @ start.weight
        begin = np.concatenate([weight.ravel(), start.bias])
    options = {"maxiter": MAX_ITERATIONS, "gtol": 1e-5, "ftol": 1e-9}
    flat = minimize(loss, begin, jac=True, method="L-BFGS-B", options=options).x
    weight = flat[:-n_labels].reshape(width, n_labels)
    return Probe(
        weight=weight if basis is None else basis @ weight, bias=flat[-n_labels:], mean=mean, scale=scale, l2=l2
    )


def _cells(samples: Sequence[ReadSample], stories: np.ndarray, n_folds: int) -> list[np.ndarray]:
    """Indices of the prompts of each task and length. Raises ValueError where no probes can be fitted."""
    if n_folds < 2:
        raise ValueError(f"n_folds is {n_folds}: a probe is fitted on other folds, so give at least 2.")
    cells = prompt_groups(samples, GROUPED_BY)
    for group, indices in cells.items():
        where, n_stories = " at length ".join(value for _, value in group), len(set(stories[indices].tolist()))
        if n_stories < MIN_STORIES:
            raise ValueError(
                f"samples hold {n_stories} stories of {where}: give at least {MIN_STORIES}, since probes are fitted on "
                "some and read on others (prompts that begin with the same two facts are one story)."
            )
        if n_stories < n_folds:
            raise ValueError(f"n_folds is {n_folds}, but there are {n_stories} stories of {where}: give fewer folds.")
        if len({samples[i].labels for i in indices}) > 1:
            raise ValueError(f"samples of {where} have different labels: a probe needs one set of answers.")
    return [np.array(indices) for indices in cells.values()]


def _readings(record: ProbeRecord) -> list[tuple[str, Measure, np.ndarray]]:
    """Name of the curve, measure, values [sample, stage]."""
    return [
        (PROBE, "is_right", record.is_right.astype(float)),
        (PROBE, "calibrated_bits", record.bits),
        (SHUFFLED, "is_right", record.shuffled_right.astype(float)),
        (SHUFFLED, "calibrated_bits", record.shuffled_bits),
    ]


def _bounds(stacked: Float[np.ndarray, "3 stage"]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(row) for name, row in zip(("value", "low", "high"), stacked.tolist(), strict=True)}


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
