"""Which model reads the needle and which the noise, and what the subtraction does to both: as `headlines`, of the
exact contributions of every token to the answer's logit, block by block.

A block counts where the paired difference over prompts has p < 0.05, corrected for the number of blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from app.shell.headlines import NOTHING, Headline
from app.shell.needle_runs import NeedleReading
from app.shell.wording import estimated, prompts, too_few
from diffmamba_interp.drawing.colours import short_name
from diffmamba_interp.figures.allocation import allocation_by_block
from diffmamba_interp.figures.needle import SIGNIFICANT
from diffmamba_interp.statistics import MIN_SAMPLES, bootstrap, holm, paired_test

Measures = Mapping[str, Mapping[str, np.ndarray]]
"""By measure and picture or class, [prompt, block]."""

POINTS = (100, "percentage points")
UNITS = {"snr_db": (1, "dB"), "over_allocation": POINTS, "cancelled": POINTS}
"""What a measure is multiplied with, and the unit of a difference."""


def last_reads_headline(readings: Sequence[NeedleReading]) -> Headline:
    """Model and baseline in this order, of what the last position reads; nothing where that was not asked for."""
    read = {
        short_name(one.trajectory.model): allocation_by_block(one.allocation)
        for one in readings
        if one.allocation is not None
    }
    if not read:
        return NOTHING
    sizes = {measures["snr_db"]["net"].shape for measures in read.values()}
    told = against_baseline(*read.items()) if len(read) == 2 and len(sizes) == 1 else NOTHING
    for name, measures in read.items():
        if np.isfinite(measures["snr_db"]["minuend"]).any():
            told += subtracted(name, measures)
        elif len(read) == 1 or len(sizes) > 1:
            told += most_read(name, measures)
    n = sizes.pop()[0]
    rule = f"A block counts where p < {SIGNIFICANT:g}, corrected for the number of blocks; {prompts(n)}{too_few(n)}."
    if not told.says:
        nothing = f"In no block a difference counts in what {' and '.join(read)} read of needle and noise."
        told = Headline(says=(nothing,), against=told.against)
    return told + Headline(says=(rule,), against=("What goes to one logit is not all that is read.",))


def against_baseline(model: tuple[str, Measures], baseline: tuple[str, Measures]) -> Headline:
    """The needle over the other tokens, and the share of the noise, in what both write."""
    (name, first), (other, second) = model, baseline
    needle, noise = (
        [f"{name} reads {how} of {what} than {other}" for how in ("more", "less")]
        for what in ("the needle, over the other tokens,", "distractors and filler")
    )
    written = ("net", "net")
    return (
        by_block(second, first, "snr_db", written, needle)
        + by_block(second, first, "over_allocation", written, noise, wanted=-1)
        + Headline(says=(), against=("Blocks of one number need not do the same in both models.",))
    )


def subtracted(name: str, measures: Measures) -> Headline:
    """What is written against the minuend alone, and whether the needle or the distractors are cancelled."""
    needle = [f"The subtraction in {name} {how} the needle over the other tokens" for how in ("raises", "lowers")]
    cancelled = [f"It cancels {how} of the distractors than of the needle" for how in ("more", "less")]
    return by_block(measures, measures, "snr_db", ("minuend", "net"), needle) + by_block(
        measures, measures, "cancelled", ("needle", "distractors"), cancelled
    )


def most_read(name: str, measures: Measures) -> Headline:
    """The block in which the needle stands out most."""
    values = measures["snr_db"]["net"]
    blocks = np.flatnonzero(np.isfinite(values).all(axis=0))
    if not len(blocks):
        return NOTHING
    estimates = bootstrap(values[:, blocks]).estimates
    at = max(range(len(blocks)), key=lambda place: estimates[place].value)
    return Headline(
        says=(
            f"{name} reads the needle, over the other tokens, most in block {blocks[at]}: "
            f"{estimated(estimates[at], 1)} dB.",
        )
    )


def by_block(
    first: Measures, second: Measures, measure: str, of: tuple[str, str], told: Sequence[str], *, wanted: int = 1
) -> Headline:
    """Second minus first by block, in words: in how many blocks it counts, and where it is largest.

    of: what is taken of each. told: where it is above 0, and where below. wanted: the sign that is a finding; the
    other, and neither, speaks against it.
    """
    values = [measures[measure][name] for measures, name in zip((first, second), of, strict=True)]
    blocks = np.flatnonzero(np.isfinite(values).all(axis=(0, 1)))
    if not len(blocks):
        return NOTHING
    factor, unit = UNITS[measure]
    test = paired_test(*(factor * one[:, blocks] for one in values))
    p = holm(test.p_value)
    says: list[str] = []
    against: list[str] = []
    for sign, words in zip((1, -1), told, strict=True):
        counts = (sign * test.value > 0) & (p < SIGNIFICANT) & (test.n >= MIN_SAMPLES)
        if counts.any():
            at = int(np.argmax(np.where(counts, sign * test.value, -np.inf)))
            many = f"{counts.sum()} of {len(blocks)} blocks, most in" if counts.sum() > 1 else "one block,"
            side = says if sign == wanted else against
            side.append(f"{words} in {many} block {blocks[at]} ({estimated(test.estimates[at], 1)} {unit}).")
    if not says and not against:
        against = [f"Not told apart in any block, p {p.min():.2g} or more: {told[0][0].lower()}{told[0][1:]}."]
    return Headline(says=tuple(says), against=tuple(against))
