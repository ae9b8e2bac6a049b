"""Measuring under interventions: any function of a model, read clean and read again with hooks in force.

    record = compare(AnswerReading(tokens=tokens, answers=answers), model, SetLambda(value=0.0))
    print(record.effect("answer_logit"))

A `read` takes the model and returns one value per sample, [sample] or [sample, ...], or several by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from diffmamba_interp.argument_checks import checked, fitting
from diffmamba_interp.interventions.intervention import Intervention, Interventions, as_tuple, describe, intervene
from diffmamba_interp.interventions.records import InterventionRecord, SweepRecord
from diffmamba_interp.interventions.targets import Blocks
from diffmamba_interp.models.language_model import HookedMamba

Read = Callable[[HookedMamba], Any]
Sample = TypeVar("Sample")


@checked
def compare(read: Read, model: HookedMamba, interventions: Interventions) -> InterventionRecord:
    """Read the model as it is, and with the interventions in force.

    Args:
        read: a function of the model: `AnswerReading`, or any other, for example
            `lambda model: [score.probability for score in score_labels(model, samples)]`.
            If it has an attribute `units`, reading -> unit, the record keeps it.
        model: hooks that are attached to it already take effect on both.
        interventions: one or more; a list of several acts in that order.

    Raises:
        ValueError: what the interventions raise, or a read that does not give one value per sample.
    """
    clean = readings(read(model))
    with intervene(model, interventions):
        intervened = readings(read(model))
    _require_same_shapes(clean, intervened)
    return InterventionRecord(
        interventions=tuple(describe(one) for one in as_tuple(interventions)),
        clean=clean,
        intervened=intervened,
        units=dict(getattr(read, "units", {})),
    )


@checked
def compare_each(
    read: Callable[[HookedMamba, list[Sample]], Any],
    model: HookedMamba,
    samples: Sequence[Sample],
    interventions_for: Callable[[Sample], Interventions],
    *,
    on_progress: Callable[[int], None] | None = None,
) -> InterventionRecord:
    """As `compare`, with interventions of each sample's own, such as a knock-out of its needle.

    `read(model, samples)` gives one value per sample; under interventions it is called with one sample at a time,
    so that they cannot strike another one. `on_progress` is called with 1 after each of those. The record
    describes the first sample's interventions.

    Raises ValueError if there are no samples, and as `compare` does.
    """
    if not samples:
        raise ValueError("there are no samples: give at least one.")
    clean = readings(read(model, list(samples)))
    each = []
    for sample in samples:
        with intervene(model, fitting("what interventions_for returned", interventions_for(sample), Interventions)):
            each.append(readings(read(model, [sample])))
        if on_progress is not None:
            on_progress(1)
    intervened = {name: np.concatenate([one[name] for one in each]) for name in clean}
    _require_same_shapes(clean, intervened)
    return InterventionRecord(
        interventions=tuple(describe(one) for one in as_tuple(interventions_for(samples[0]))),
        clean=clean,
        intervened=intervened,
        units=dict(getattr(read, "units", {})),
    )


@checked
def sweep(
    read: Read,
    model: HookedMamba,
    make: Callable[[float, Blocks], Interventions],
    *,
    doses: Sequence[float],
    groups: Sequence[Blocks] = (None,),
    dose: str = "dose",
    on_progress: Callable[[int], None] | None = None,
) -> SweepRecord:
    """Read the model once clean and once for every dose in every group of blocks.

    Args:
        read, model: as in `compare`.
        make: the intervention for a dose and a group, for example
            `lambda factor, blocks: ScaleLambda(factor=factor, blocks=blocks)`; or several, which act in that order.
        doses: values of what is varied. groups: blocks to change together: `range(model.cfg.n_layers)` for each
            on its own, `(None,)` for all at once.
        dose: what is varied, with its unit, for axis titles.
        on_progress: called with 1 after each of the readings.

    Raises:
        ValueError: no doses or no groups, and as `compare` does.
    """
    if not len(doses) or not len(groups):
        raise ValueError(f"there are {len(doses)} doses and {len(groups)} groups of blocks: give at least one of each.")
    clean = readings(read(model))
    rows: list[dict[str, np.ndarray]] = []
    for group in groups:
        for one in doses:
            with intervene(model, fitting("what make returned", make(float(one), group), Interventions)):
                rows.append(readings(read(model)))
            _require_same_shapes(clean, rows[-1])
            if on_progress is not None:
                on_progress(1)
    shape = (len(groups), len(doses))
    return SweepRecord(
        dose=dose,
        doses=tuple(float(one) for one in doses),
        groups=tuple(_as_group(group) for group in groups),
        clean=clean,
        intervened={name: np.stack([row[name] for row in rows]).reshape(*shape, *clean[name].shape) for name in clean},
        units=dict(getattr(read, "units", {})),
    )


def dosed(
    kind: Callable[..., Intervention],
    parameter: str,
    *,
    after: Mapping[Blocks, Sequence[Intervention]] | None = None,
    **settings: Any,
) -> Callable[[float, Blocks], list[Intervention]]:
    """The interventions of a dose and a group of blocks, as `sweep` takes them.

    kind: what is dosed, as `ScaleLambda`. parameter: of it, the dose. after: for a group of blocks what else is changed
    before it. settings: other parameters of `kind`.
    """

    def make(dose: float, blocks: Blocks) -> list[Intervention]:
        return [*(after or {}).get(blocks, ()), kind(**{parameter: dose}, blocks=blocks, **settings)]

    return make


def readings(read: Any) -> dict[str, np.ndarray]:
    """What a read returned as arrays by name, in float64; a single one is called "value".

    Raises ValueError unless all of them have the same number of samples, at least one.
    """
    by_name = read if isinstance(read, Mapping) else {"value": read}
    arrays = {str(name): _as_array(value) for name, value in by_name.items()}
    counts = {name: len(value) if value.ndim else None for name, value in arrays.items()}
    if len(set(counts.values())) != 1 or not next(iter(counts.values())):
        raise ValueError(
            f"read gave {', '.join(f'{name}: shape {value.shape}' for name, value in arrays.items()) or 'nothing'}: "
            "it must give arrays whose first axis is the sample, all of the same length, at least 1."
        )
    return arrays


def _as_array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=np.float64)


def _as_group(blocks: Blocks) -> tuple[int, ...] | None:
    if blocks is None:
        return None
    return (blocks,) if isinstance(blocks, int) else tuple(blocks)


def _require_same_shapes(clean: Mapping[str, np.ndarray], intervened: Mapping[str, np.ndarray]) -> None:
    shapes = [{name: value.shape for name, value in values.items()} for values in (clean, intervened)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"read gave {shapes[0]} on the model as it is, but {shapes[1]} under the intervention: it must measure "
            "the same samples each time."
        )
