"""What results say, in sentences: pure functions from records to a `Headline`, which pages draw above their figures.

Each names the prompts that it speaks of (n), says "not told apart" where an interval decides nothing, and puts what
speaks against the finding beside it. A difference is model minus baseline.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from app.shell.glossary import explained
from app.shell.wording import counted, estimated, prompts, quoted, said, signed_text, too_few
from diffmamba_interp.drawing.colours import short_name
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.figures.heads import NAMES, ranked_heads
from diffmamba_interp.implicit_attention import HeadScores
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.implicit_attention.span_measures import summarise_spans
from diffmamba_interp.lens import LensTrajectory
from diffmamba_interp.models.inspection import CheckpointReport
from diffmamba_interp.needle import NeedleTrajectory
from diffmamba_interp.needle.accuracy_grid import Cell
from diffmamba_interp.needle.curves import compare
from diffmamba_interp.needle.formation import comes_in, compare_formation, summarise_formation
from diffmamba_interp.spans import SPAN_CLASSES, Spans
from diffmamba_interp.stages import stage_words
from diffmamba_interp.statistics import MIN_SAMPLES, Estimate


@dataclass(frozen=True, kw_only=True)
class Headline:
    """says: the finding, the first sentence alone the shortest answer. against: what speaks against or limits it."""

    says: tuple[str, ...]
    against: tuple[str, ...] = ()

    def __add__(self, other: Headline) -> Headline:
        """Both, one after the other."""
        return Headline(says=self.says + other.says, against=self.against + other.against)


NOTHING = Headline(says=())
UNTIED = "A head of the minuend has no tie to the head of that number in the subtrahend."
MOST_NAMED = 80
"""Letters of a finding by which its place on the page is called."""


def needle_headline(trajectories: Sequence[NeedleTrajectory], shipped: Mapping[str, Any] | None = None) -> Headline:
    """When the answer comes in, model and baseline in this order, and whether that is cleaner or only earlier.

    shipped: results of `analyses/needle_snr` on the same weights, of which the calibrated gap at the output is told.
    """
    formations = summarise_formation(trajectories, criteria=("7 dB",), by=())
    of_model = [next(one for one in formations if one.model == read.model) for read in trajectories]
    (on_top, *_) = summarise_formation(trajectories[:1], criteria=("on top",), by=())
    n, lens = of_model[0].n, of_model[0].lens
    says = [
        f"The answer comes in {comes_in(of_model[0])} in {short_name(of_model[0].model)}"
        + "".join(f" ({short_name(one.model)}: {comes_in(one)})" for one in of_model[1:])
        + f": from there on it stands 7 dB or more above the wrong labels (median over prompts and its interval; "
        f"{lens} lens; {prompts(n)} of {_tokens(trajectories[0])}).",
        f"On top of the labels, by however little, it is {comes_in(on_top)}; Overview and Lens tell from where on it "
        "is on top of all tokens, in one prompt.",
    ]
    against = [
        f"In {n - round(one.share_formed.value * n)} of {n} prompts {short_name(one.model)} never gets there."
        for one in of_model
        if one.share_formed.value < 1
    ]
    if len(trajectories) == 2:
        with_baseline = _against_baseline(*trajectories)
        says += with_baseline.says
        against += with_baseline.against
    return Headline(says=tuple(says), against=(*against, *_calibrated(trajectories[0], shipped)))


def _tokens(read: NeedleTrajectory) -> str:
    fewest, most = (of(sample.n_tokens for sample in read.samples) for of in (min, max))
    return f"{fewest:,} to {most:,} tokens" if fewest < most else f"{most:,} tokens"


def _against_baseline(model: NeedleTrajectory, baseline: NeedleTrajectory) -> Headline:
    name, other = short_name(model.model), short_name(baseline.model)
    if model.stages != baseline.stages:
        return Headline(says=(), against=(f"{name} and {other} have other numbers of blocks: no stage is compared.",))
    if not set(model.lenses) & set(baseline.lenses):
        return Headline(says=(), against=(f"{name} and {other} are read by other lenses, and not compared.",))
    says: list[str] = []
    against: list[str] = []
    difference = compare_formation(baseline, model, criteria=("7 dB",), by=())[0]
    n = difference.n
    # The median, as in the table below the figures: one number for what is one quantity.
    sign = difference.median.sign(n)
    told = f"{estimated(difference.median, 1)} blocks (median)"
    if sign:
        where = says if sign < 0 else against
        where.append(f"By 7 dB it comes in {'earlier' if sign < 0 else 'later'} than in {other}: {told}, {prompts(n)}.")
    else:
        against.append(f"When it comes in is not told apart from {other}: {told}, {prompts(n)}{too_few(n)}.")
    if difference.n_both >= MIN_SAMPLES and difference.snr_db.sign(difference.n_both) < 0:
        against.append(
            f"Earlier is not cleaner: each model read after the block where its answer has come in, {name} stands out "
            f"by {estimated(difference.snr_db, 1)} dB against {other} (mean of the {difference.n_both} prompts in "
            "which it comes in in both; the curves compare them block by block)."
        )
    curve = compare(baseline, model, measures=("snr_db",), statistics=("mean",), by=())[0]
    output = Estimate(curve.value[-1], curve.low[-1], curve.high[-1])
    at_output = f"At the output the answer stands out by {estimated(output, 1)} dB (mean) against {other}"
    if output.sign(n) > 0:
        says.append(f"{at_output}, {prompts(n)}.")
    elif output.sign(n) < 0:
        against.append(f"{at_output}, {prompts(n)}: {other} is ahead there.")
    else:
        against.append(f"{at_output}: not told apart, {prompts(n)}{too_few(n)}.")
    return Headline(says=tuple(says), against=tuple(against))


def _calibrated(read: NeedleTrajectory, shipped: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Of the task that was read."""
    tasks = {sample.task for sample in read.samples}
    lengths = {sample.length for sample in read.samples}
    return calibrated_gaps(shipped, read.lenses[0], {"task": tasks.pop()} if len(tasks) == 1 else {}, lengths)


def calibrated_gaps(
    shipped: Mapping[str, Any] | None, lens: str, task: Mapping[str, str], lengths: Collection[int] = ()
) -> tuple[str, ...]:
    """The gap at the output in calibrated bits, of a task and of all of them, length by length, from shipped results.

    task: told first. lengths: of the prompts that stand on the page: of others it is told only where these were not
    measured.
    """
    of_task, of_all = _gaps(shipped, lens, task), _gaps(shipped, lens, {})
    if not of_task:
        return ()
    told = {f"in {task['task']} alone" if task else "": of_task, "in all tasks together": of_all}
    parts = []
    for which, gaps in told.items():
        of_these = [words for length, words in gaps.items() if length in lengths] or [*gaps.values()]
        if which and of_these:
            parts.append(f"{which} {'; '.join(of_these)}")
    other = ", ".join(length_name(length) for length in lengths if length not in of_task)
    return (
        "At the output, once both models are calibrated (measured beforehand, on more prompts"
        + (f"; not at {other} tokens, as here" if other else "")
        + f"): {'. And '.join(parts)}.",
    )


def _gaps(shipped: Mapping[str, Any] | None, lens: str, task: Mapping[str, str]) -> dict[int, str]:
    """In words, by the length of the prompts. task: empty for all."""
    told: dict[int, str] = {}
    for one in [] if shipped is None else shipped.get("measure_means", []):
        of_task = {key: value for key, value in one["group"].items() if key != "length"} == task
        if one["measure"] == "calibrated_bits" and one["place"] == "output" and one["lens"] == lens and of_task:
            gap = Estimate(*one["difference"])
            verdict = {0: "no gap is left", 1: "a gap is left", -1: "the baseline is ahead"}[gap.sign(one["n"])]
            length = int(one["group"].get("length", 0))
            told[length] = f"{estimated(gap, 2)} bits at {length_name(length)} (n = {one['n']:,}): {verdict}"
    return told


def lens_headline(
    trajectories: Mapping[str, LensTrajectory],
    text: Callable[[int], str],
    column: int = -1,
    lens: str = "",
    answer: int | None = None,
) -> Headline:
    """What each model says at the end of one position, and from which block on the lens shows that.

    text: of a token id. column: of the positions that the trajectories hold. lens: its name. answer: the token that
    should be said, where it is known or marked.
    """
    told, tokens = [], []
    for name, read in trajectories.items():
        top = read.top_tokens[0, :, column, 0]
        since = int(np.flatnonzero(top != top[-1]).max(initial=-1)) + 1
        probability, there = (float(read.top_probabilities[0, stage, column, 0]) for stage in (-1, since))
        tokens.append(text(int(top[-1])))
        right = "" if answer in (None, int(top[-1])) else f"; the answer is {quoted(text(answer))}"
        told.append(
            f"{short_name(name)} says {quoted(tokens[-1])} (p {said(probability)}{right}), which is on top "
            f"{stage_words(since, len(read.stages))} (p {said(there)} then) and stays there"
        )
    if not told:
        return NOTHING
    against = [
        f"One position of one prompt{f', read by the {lens} lens' if lens else ''}. On top is likelier than any other "
        "token, by however little: Needle asks of many prompts from where on it is 7 dB above the wrong labels, "
        "which may be later."
    ]
    if len(set(tokens)) > 1:
        against.append("The models say different tokens: what each is sure of is not the same.")
    return Headline(says=(f"{'; '.join(told)}.",), against=tuple(against))


def attention_headline(record: AttentionRecord, spans: Spans, row: int = -1) -> Headline:
    """How much of a row falls on the needle, and what the subtraction does to that; the largest source without one.

    row: number of the record's row. Of a record with heads, their mean.
    """
    position = int(record.rows[0, row])
    pictures = summarise_spans(record, spans, row)
    n_needle = sum(min(end, position + 1) - start for start, end in spans.needle if start <= position)
    if not n_needle:
        return _largest_source(record, row, position)
    at = SPAN_CLASSES.index("needle")
    share = {name: float(np.nanmean(np.asarray(value[..., at]))) for name, value in pictures.share.items()}
    alike = n_needle / (position + 1)
    where = f"In block {record.block}{_heads(record)}, of what position {position} reads"
    limits = [
        f"One prompt; shares are of magnitudes, whatever the sign. Reading all {position + 1} tokens alike would give "
        f"the needle {alike:.0%}."
    ]
    if record.kind == "hidden":
        limits.append("Hidden attention leaves out gates, norms and output projection: what is read need not be used.")
    if "weights" in share:
        return Headline(
            says=(f"{where} {share['weights']:.0%} lies on the needle; nothing is subtracted.",), against=tuple(limits)
        )
    before, after = share["minuend"], share["difference"]
    verb = "raises" if after > before + 0.01 else "lowers" if after < before - 0.01 else "leaves"
    to = f"{before:.0%}" if verb == "leaves" else f"from {before:.0%} to {after:.0%}"
    says = f"{where} the subtraction {verb} the needle's share {'at ' if verb == 'leaves' else ''}{to}."
    if len(record.heads) == 1 and not record.reduce:
        limits.append(UNTIED)
    if verb == "lowers":
        limits.insert(0, "The subtraction takes more from the needle than from the rest here.")
    return Headline(says=(says,), against=tuple(limits))


def _largest_source(record: AttentionRecord, row: int, position: int) -> Headline:
    name, picture = list(record.pictures.items())[-1]
    signed = picture[0].select(record.row_axis - 1, row).detach().float().cpu().numpy()[..., : position + 1]
    signed, values = (part.mean(axis=0) if record.per_head else part for part in (signed, np.abs(signed)))
    if not values.sum() > 0:
        return Headline(says=(f"Nothing is read at position {position} in block {record.block}.",))
    source = int(values.argmax())
    strings = record.token_strings[0] if record.token_strings else None
    text = f" ({quoted(strings[source])})" if strings else ""
    return Headline(
        says=(
            f"In block {record.block}{_heads(record)}, position {position} reads most from position {source}{text}, "
            f"with a {'negative' if signed[source] < 0 else 'positive'} value ({signed_text(signed[source])}): "
            f"{values[source] / values.sum():.0%} of the magnitudes in the row of the {short_name(name)}.",
        ),
        against=("One prompt, and no needle is marked in it: mark one to ask for its share.",),
    )


def _heads(record: AttentionRecord) -> str:
    if record.kind != "hidden" or record.reduce:
        return ""
    return f", head {record.heads[0]}" if len(record.heads) == 1 else ", the mean over heads"


def heads_headline(scores: HeadScores, measure: str) -> Headline:
    """The head of the largest number, beside what is usual."""
    ranked = ranked_heads(scores, measure, 1)
    if not ranked:
        return Headline(says=(f"No head has a {NAMES[measure]} in this prompt.",))
    first = ranked[0]
    mean = scores.mean(measure)
    known = mean[np.isfinite(mean)]
    part = f", {short_name(first.branch)}" if first.branch else ""
    says = (
        f"The largest {NAMES[measure]} is that of block {first.block}{part}, head {first.head}: {said(first.value)}; "
        f"half of the {len(known)} heads have {said(float(np.median(known)))} or less."
    )
    against = ["One prompt; a number of a head does not say that the model uses it: switch it off to see."]
    if measure in scores.uniform:
        alike = float(scores.uniform[measure].mean())
        if first.value <= alike:
            against.insert(0, f"Reading all tokens alike would give {said(alike)}: no head stands out.")
        else:
            says += f" Reading all tokens alike would give {said(alike)}."
    return Headline(says=(says,), against=tuple(against))


def retrieval_headline(cells: Sequence[Cell]) -> Headline:
    """In which cells the second model is right more often than the first, and in which less."""
    if not cells:
        return NOTHING
    compared = [(cell, cell.difference) for cell in cells if cell.difference is not None]
    fewest, most = (of(cell.n for cell in cells) for of in (min, max))
    n = f"{counted(most) if fewest == most else f'{fewest:,} to {most:,} prompts'} a cell"
    if not compared:
        best = max(cells, key=lambda cell: cell.models[0].accuracy - cell.chance)
        worst = min(cells, key=lambda cell: cell.models[0].accuracy - cell.chance)
        name = short_name(best.models[0].model)
        no_better = sum(cell.models[0].low <= cell.chance for cell in cells)
        return Headline(
            says=(f"{name} is right in {_accuracy(best)} at best, and in {_accuracy(worst)} at worst ({n}).",),
            against=(f"In {no_better} of {len(cells)} cells that is not told apart from guessing.",)
            if no_better
            else (),
        )
    first, second = (short_name(model.model) for model in compared[0][0].models)
    signs = [difference.sign(cell.n) for cell, difference in compared]
    ahead, behind = signs.count(1), signs.count(-1)
    of_cells = f"{len(compared)} cells" if len(compared) > 1 else "one cell"
    says = f"{second} is right more often than {first} in {ahead} of {of_cells}, less often in {behind} ({n})."
    if not ahead + behind:
        where = of_cells if len(compared) == 1 else f"any of {of_cells}"
        says = f"{second} and {first} are not told apart in {where} ({n})."
    told = {
        sign: [f"{cell.task} at {length_name(cell.length)} {estimated(d, 2)}"
               for (cell, d), own in zip(compared, signs, strict=True) if own == sign]
        for sign in (1, -1)
    }  # fmt: skip
    more = [f"It is ahead in {', '.join(told[1])}."] if ahead else []
    # Neither list is cut short.
    against = [f"It is behind in {', '.join(told[-1])}."] if behind else []
    few = sum(cell.n < MIN_SAMPLES for cell, _ in compared)
    undecided = signs.count(0) - few
    if undecided:
        against.append(f"In {undecided} the interval holds 0.")
    if few:
        against.append(f"In {few} there are fewer than {MIN_SAMPLES} prompts, which decide nothing.")
    if len(compared) > 1:
        against.append("Intervals are not corrected for the number of cells.")
    return Headline(says=(says, *more), against=tuple(against))


def _accuracy(cell: Cell) -> str:
    return f"{cell.models[0].accuracy:.0%} of {cell.task} at {length_name(cell.length)}"


def models_headline(reports: Mapping[str, CheckpointReport]) -> Headline:
    """How much each model subtracts."""
    told, against = [], []
    for name, report in reports.items():
        lambdas = [block.lambda_ for block in report.blocks if block.lambda_ is not None]
        n = sum(block.kind == "differential" for block in report.blocks)
        if not n:
            told.append(f"{short_name(name)} subtracts nothing in its {len(report.blocks)} blocks")
            continue
        span = f", λ from {min(lambdas):.2f} to {max(lambdas):.2f}" if lambdas else ", with a λ for every token"
        told.append(f"{short_name(name)} subtracts in {n} of {len(report.blocks)} blocks{span}")
        saturated = sum(bool(block.saturated) for block in report.blocks)
        if saturated:
            against.append(f"In {saturated} blocks of {short_name(name)} λ is saturated: training hardly moves it.")
    return Headline(says=(f"{'; '.join(told)}.",) if told else (), against=tuple(against))


def headline_html(headline: Headline) -> str:
    """The first sentence large, what speaks against it in a line of its own."""
    if not headline.says and not headline.against:
        return ""
    first = "".join(f'<p class="says">{explained(sentence)}</p>' for sentence in headline.says[:1])
    more = explained(" ".join(headline.says[1:]))
    against = explained(" ".join(headline.against))
    # Of several on a page each has its own name.
    name = html.escape([*headline.says, *headline.against][0][:MOST_NAMED])
    return (
        f'<section class="headline" aria-label="Found: {name}">'
        + first
        + (f"<p>{more}</p>" if more else "")
        + (f'<p class="against"><b>Against it:</b> {against}</p>' if against else "")
        + "</section>"
    )


def draw_headline(headline: Headline) -> None:
    """Above a page's figures; nothing where there is nothing to say."""
    drawn = headline_html(headline)
    if drawn:
        st.html(drawn)
