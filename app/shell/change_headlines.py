"""What changing a model did, in sentences: as `headlines`, from records of interventions.

    share of a change, of one block alone    (clean - block alone) / (clean - all blocks)     of log-probabilities

Such shares need not sum to 1: blocks act through one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from app.shell.headlines import Headline
from app.shell.readings import in_words
from app.shell.wording import NEAR_ONE, placed, prompts, said
from diffmamba_interp.drawing.colours import short_name
from diffmamba_interp.figures.faithfulness import ranking_name
from diffmamba_interp.interventions import FaithfulnessRecord, InterventionRecord, PatchGrid, SweepRecord
from diffmamba_interp.interventions.faithfulness import RANDOM
from diffmamba_interp.interventions.records import LOG_PROBABILITY, PROBABILITY
from diffmamba_interp.statistics import MIN_SAMPLES

LARGE = 1e-3
"""Smaller changes of a probability are called none."""

SHARED_FROM = 0.1
"""Of a smaller change of a log-probability no share is told: a block's would be hundreds of per cent."""

ONE_PROMPT = "One prompt decides nothing about others."
NO_CANCELLING = "That the model depends on its subtraction does not show that the subtraction cancels noise."
OF_THE_SUBTRACTION = ("ScaleLambda", "SetLambda", "AblateBranch", "SwapBranches")
"""Kinds of changes after which the subtraction is another one."""

TOGETHER = "Shares of single blocks need not sum to 100 %: blocks act through one another."


def differ(before: float, after: float) -> bool:
    """Whether a probability has changed, and two decimals show its two values as different ones."""
    is_small = abs(after - before) < LARGE and abs(math.log(max(after, 1e-30) / max(before, 1e-30))) < 0.1
    two_decimals = (said(1.0 if value >= NEAR_ONE else value) for value in (before, after))
    return not is_small and len(set(two_decimals)) > 1


def intervention_headline(record: InterventionRecord) -> Headline:
    """What the change does to the answer at the output."""
    n = len(record.clean[PROBABILITY])
    before, after = (float(values[PROBABILITY].mean()) for values in (record.clean, record.intervened))
    if not record.interventions:
        return Headline(says=(f"Nothing is changed: the answer has the probability {said(before)} ({prompts(n)}).",))
    what = "; ".join(in_words(change) for change in record.interventions)
    if not differ(before, after):
        says = f"The change ({what}) leaves the answer's probability at {said(before)} ({prompts(n)})"
    else:
        verb = "raises" if after > before else "lowers"
        says = (
            f"The change ({what}) {verb} the answer's probability from {said(before)} to {said(after)} ({prompts(n)})"
        )
    if "snr_db" in record.clean:
        ratios = [float(values["snr_db"].mean()) for values in (record.clean, record.intervened)]
        says += f", and its ratio to the wrong labels from {decibels(ratios[0])} to {decibels(ratios[1])}"
    of_it = any(change["kind"] in OF_THE_SUBTRACTION for change in record.interventions)
    against = ([NO_CANCELLING] if of_it else []) + ([ONE_PROMPT] if n < MIN_SAMPLES else [])
    return Headline(says=(f"{says}.",), against=tuple(against))


def subtraction_headline(record: SweepRecord, model: str, token: str = "") -> Headline:
    """What no subtraction does to the answer.

    record: lambda times 0 in all blocks, then in each on its own. token: what was asked for where no answer is known.
    """
    what = f"the probability of {token}," if token else "the answer's probability"
    clean = float(record.clean[PROBABILITY].mean())
    n = len(record.clean[PROBABILITY])
    at = record.doses.index(0.0)
    without = record.intervened[PROBABILITY][:, at].mean(axis=-1)
    whole, alone = float(without[0]), without[1:]
    raised = raised_alone(record, "its" if token else "the answer's")
    if not differ(clean, whole):
        return Headline(
            says=(f"λ 0 in every block leaves {what} in {short_name(model)} at {said(clean)} ({prompts(n)}).",),
            against=("So it does not hang on the subtraction.", *raised),
        )
    says = f"λ 0 in every block takes {what} in {short_name(model)} from {said(clean)} to {said(whole)}"
    logs = record.intervened[LOG_PROBABILITY][:, at].mean(axis=-1) - float(record.clean[LOG_PROBABILITY].mean())
    against = [NO_CANCELLING]
    if whole > clean:
        against.insert(0, "Without the subtraction it is likelier.")
    if len(alone) > 1:
        share = logs[1:] / logs[0]
        largest = int(share.argmax())
        block, value, most = (record.groups[largest + 1] or (0,))[0], float(alone[largest]), float(share[largest])
        if not differ(clean, value) or most <= 0:
            says += "; no block alone moves it that way"
        elif abs(logs[0]) < SHARED_FROM:
            says += f"; one block, {block}, alone to {said(value)}"
        else:
            of_that = "more than all of that" if most > 1 else f"{most:.0%} of that"
            says += f"; one block, {block}, alone to {said(value)}, {of_that} in log-probability"
            against.append(TOGETHER)
    return Headline(says=(f"{says} ({prompts(n)}).",), against=(*against, *raised))


def raised_alone(record: SweepRecord, whose: str = "the answer's") -> tuple[str, ...]:
    """What λ 0 in one block alone raises most, of a sweep of λ: the subtraction there works against the answer.

    whose: "its" where the sentence before names what was asked for.
    """
    at, told = record.doses.index(0.0), []
    alone = [place for place, group in enumerate(record.groups) if group and len(group) == 1]
    for measure, what, text in (
        (PROBABILITY, f"{whose} probability", said),
        ("snr_db", f"{whose} ratio to the wrong labels", decibels),
    ):
        if measure not in record.clean or not alone:
            continue
        clean, values = float(record.clean[measure].mean()), record.intervened[measure][:, at].mean(axis=-1)
        best = max(alone, key=lambda place: values[place])
        value = float(values[best])
        shows = differ(clean, value) if measure == PROBABILITY else text(clean) != text(value)
        if value > clean and shows:
            block = (record.groups[best] or (0,))[0]
            told.append(f"in block {block} alone raises {what} from {text(clean)} to {text(value)}")
    if not told:
        return ()
    return (f"λ 0 {', and '.join(told)}: the subtraction there works against it.",)


def patched_quantity(against: object) -> str:
    """What a grid is read by. against: the wrong answers whose logit is subtracted; None for none."""
    return "the answer's logit" + ("" if against is None else " less the wrong answer's")


def patching_headline(grid: PatchGrid, places: Sequence[str], of: str = "") -> Headline:
    """The cell that brings most of the answer back. of: what is read, where its tokens can be named."""
    recovered, of = grid.recovered[0], of or patched_quantity(grid.against)
    if not np.isfinite(recovered).any():
        return Headline(says=(f"The two prompts have the same value of {of}: there is nothing to bring back.",))
    row, column = divmod(int(np.nanargmax(recovered)), recovered.shape[1])
    name = f"block {grid.blocks[row]}"
    if grid.branches and (branch := grid.branches[row]):
        name += f", {short_name(branch)}"
    if grid.heads:
        name += f", head {grid.heads[row]}"
    how = "By the one-pass estimate one" if grid.estimated else "One"
    return Headline(
        says=(
            f"{how} value, {name} at {placed(places[column])}, brings back {recovered[row, column]:.0%} of {of}"
            + (", more than all of it." if recovered[row, column] > 1 else "."),
        ),
        against=(
            "One pair of prompts (n = 1); 100% is the distance between them. A value that brings the answer back may "
            "only pass it on.",
        ),
    )


def sweep_headline(record: SweepRecord) -> Headline:
    """At which dose, in which blocks, the answer is likeliest and least likely."""
    values = record.intervened[PROBABILITY].mean(axis=-1)
    n = len(record.clean[PROBABILITY])
    clean = float(record.clean[PROBABILITY].mean())
    if len(record.groups) > 1 and 0.0 in record.doses:
        return _most_carried(record, values[:, record.doses.index(0.0)], clean, n)
    places = [divmod(int(at), values.shape[1]) for at in (values.argmin(), values.argmax())]
    low, high = (float(values[place]) for place in places)
    if not differ(low, high):
        return Headline(says=(f"No dose moves the answer's probability from {said(clean)} ({prompts(n)}).",))

    def where(place: Sequence[int]) -> str:
        group, dose = place
        blocks = record.groups[group]
        of = "" if len(record.groups) == 1 or not blocks else f" in block {', '.join(map(str, blocks))}"
        return f"at {record.doses[dose]:g}{of}"

    return Headline(
        says=(
            f"The answer is least likely, {said(low)}, {where(places[0])}, and likeliest, {said(high)}, "
            f"{where(places[1])}; unchanged {said(clean)} ({record.dose}; {prompts(n)}).",
        ),
        against=(ONE_PROMPT,) if n < MIN_SAMPLES else (),
    )


def under(headline: Headline, changes: str) -> Headline:
    """The headline with its condition. changes: what else is changed, in words; empty for nothing."""
    if not changes:
        return headline
    first, *rest = headline.says
    return Headline(says=(f"With {changes}: {first[0].lower()}{first[1:]}", *rest), against=headline.against)


def _most_carried(record: SweepRecord, without: np.ndarray, clean: float, n: int) -> Headline:
    """Of blocks that were each taken to dose 0 on their own, the one without which the answer loses most."""

    def lowers(at: int) -> bool:
        return bool(without[at] < clean) and differ(clean, float(without[at]))

    of_lambda = record.dose.startswith("λ")
    dose = "λ 0" if of_lambda else f"0 ({record.dose})"
    first, second, *_ = np.argsort(without, kind="stable")
    block, other = (", ".join(map(str, record.groups[at] or ())) for at in (first, second))
    whose = f"The λ of block {block}" if of_lambda else f"Block {block}"
    if not lowers(first):
        says = f"{dose} in no block on its own takes anything from the answer's {said(clean)}"
    else:
        says = (
            f"{whose} carries most: {dose} in it alone takes the answer's probability from {said(clean)} to "
            f"{said(float(without[first]))}"
        )
        if lowers(second):
            says += f"; next is block {other}, which takes it to {said(float(without[second]))}"
    told = [f"{says} ({prompts(n)})."]
    if "snr_db" in record.clean:
        ratios = record.intervened["snr_db"].mean(axis=-1)[:, record.doses.index(0.0)]
        low, high = (", ".join(map(str, record.groups[at] or ())) for at in (ratios.argmin(), ratios.argmax()))
        told.append(
            f"The answer's ratio to the wrong labels, {decibels(record.clean['snr_db'].mean())}, is lowest with "
            f"{dose} in block {low}, {decibels(ratios.min())}, and highest with it in block {high}, "
            f"{decibels(ratios.max())}."
        )
    against = [ONE_PROMPT] if n < MIN_SAMPLES else []
    return Headline(says=tuple(told), against=(*(raised_alone(record) if of_lambda else ()), *against, TOGETHER))


def faithfulness_headline(record: FaithfulnessRecord) -> Headline:
    """Which ranking of the tokens holds best, by insertion less deletion area."""
    gap = dict(zip(record.rankings, record.gap.mean(axis=0).tolist(), strict=True))
    n = len(record.gap)
    best, *rest = sorted(gap, key=lambda name: -gap[name])
    others = ", ".join(f"{ranking_name(name)} {gap[name]:.2f}" for name in rest)
    against = [ONE_PROMPT] if n < MIN_SAMPLES else []
    if best == RANDOM:
        against.insert(0, "No ranking is better than a random order here.")
    return Headline(
        says=(
            f"{ranking_name(best).capitalize()} holds best: insertion less deletion area {gap[best]:.2f}; {others} "
            f"({prompts(n)}).",
        ),
        against=tuple(against),
    )


def decibels(value: float) -> str:
    """With the minus of the figures' axes."""
    return f"{float(value):.1f} dB".replace("-", "−")
