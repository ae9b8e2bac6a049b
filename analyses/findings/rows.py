"""The rows of "What was found": a function for each, from records to a sentence.

Words that depend on a number's sign are claimed (`claim`), so that a record that turns refuses its sentence; numbers
are put in where they stand. What speaks against the paper stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analyses.findings.sources import (
    DIFFERENTIAL,
    PLAIN,
    accuracy_difference,
    cell,
    claim,
    newest,
    probability_ratio,
    ratio_over_seeds,
    results,
    rows_of,
    step_of_answers,
    text_difference,
    told,
)
from diffmamba_interp.analysis.results import estimate_from
from diffmamba_interp.statistics import MIN_SAMPLES, Estimate

WEIGHTS, FIVE, FOUR = "these weights", "five seeds", "four seeds"
INNER, OUTPUT = "SNR over the inner stages", "SNR at the output"
FORMED, AT_FORMATION = "median stage from which SNR stays above 7 dB", "SNR at the stage of formation (7 dB)"
LENGTHS = {"0": "0k", "1024": "1k"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """holds_for: "these weights", or how many training seeds. n: of what the interval is drawn over."""

    question: str
    answer: str
    holds_for: str
    n: str
    page: str


def inner_snr_over_seeds() -> Row:
    told_of, ahead = [], []
    for length, name in LENGTHS.items():
        seeds = results("needle_seeds")["lengths"][length]
        (difference,) = seeds["difference"][INNER]
        claim(not estimate_from(difference).excludes_zero, f"inner SNR at {name} is not told apart over seeds")
        each = np.subtract(seeds["runs"][INNER][DIFFERENTIAL], seeds["runs"][INNER][PLAIN])
        ahead.append(int((each > 0).sum()))
        told_of.append(f"{told(difference, 1, unit='dB')} at {name}")
    claim(ahead == [4, 4], "with four seeds of five the differential model is ahead at both lengths")
    answer = f"Not shown: {', '.join(told_of)}; higher with four seeds of five, lower with the fifth."
    return Row(
        question="Does the answer stand out more inside Diff-Mamba (Fig. 5)? SNR over the inner stages, tuned lenses",
        answer=answer,
        holds_for=FIVE,
        n=f"5 pairs, {results('needle_seeds')['n']['0']:,} prompts a length",
        page="needle_seeds",
    )


def earlier_or_cleaner() -> Row:
    parts, zero = [], results("needle_seeds")["lengths"]["0"]
    for measure, unit, words in (
        (FORMED, "stages", "stage from which 7 dB are kept"),
        (AT_FORMATION, "dB", "SNR at that stage"),
    ):
        (difference,) = zero["difference"][measure]
        claim(not estimate_from(difference).excludes_zero, f"{measure} is not told apart over seeds")
        parts.append(f"{words} {told(difference, 1, unit=unit)}")
    return Row(
        question="Is the answer cleaner there, or formed earlier?",
        answer=f"Not told apart at 0k: {', '.join(parts)}.",
        holds_for=FIVE,
        n="5 pairs",
        page="needle_seeds",
    )


def formation() -> Row:
    kept = [one for one in results("needle_snr/paper")["formation_differences"] if one["criterion"] == "7 dB"]
    parts, both = [], []
    for length, name in LENGTHS.items():
        one = cell(kept, group={"length": length})
        median, clean, lead = (bounds(one[key]) for key in ("median", "snr_db", "inner_db"))
        claim(median.high < 0, f"the answer forms earlier in the shipped Diff-Mamba at {name}")
        claim(clean.high < 0, f"plain Mamba-2 is cleaner at formation at {name}")
        timing = sorted(part["value"] / lead.value for part in one["timing_db"])
        parts.append(
            f"at {name} the median stage from which 7 dB are kept {told(median, 0)}, SNR at that stage "
            f"{told(clean, 1, unit='dB')}, and {timing[0]:.0%} to {timing[1]:.0%} of the lead over the inner stages is "
            "timing"
        )
        both.append(f"{one['n_both']:,}")
    return Row(
        question="The same in the shipped pair",
        answer=f"Earlier, and not cleaner: {'; '.join(parts)}.",
        holds_for=WEIGHTS,
        n=f"{kept[0]['n']:,} prompts a length; {' and '.join(both)} in which both form",
        page="needle_snr",
    )


def inner_snr() -> Row:
    verdicts = results("needle_snr/paper")["verdicts"]
    parts = []
    for length, name in LENGTHS.items():
        one = cell(verdicts, lens="tuned", place="inner stages", group={"length": length})
        claim(one["winner"] == DIFFERENTIAL, f"inner SNR at {name} is higher in Diff-Mamba")
        parts.append(f"{told([one['difference_db'], one['low'], one['high']], 1, unit='dB')} at {name}")
        n = one["n"]
    novels = results("retrieval/paper")["text"][PLAIN]["novels"]["n_documents"]
    claim(novels == 2, "the novels of the evaluation split are two")
    return Row(
        question="The same in the shipped pair",
        answer=f"Yes: {', '.join(parts)}. Its fillers are two held-out novels; for twenty others see below.",
        holds_for=WEIGHTS,
        n=f"{n:,} prompts a length",
        page="needle_snr",
    )


def early_probability() -> Row:
    tuned = {length: probability_ratio("needle_snr/paper", "tuned", int(length)) for length in LENGTHS}
    logit = {length: probability_ratio("needle_snr/paper", "logit", int(length)) for length in LENGTHS}
    stages = results("needle_snr/paper")["stages"]
    inner = slice(1, -1)
    parts = []
    for length, name in LENGTHS.items():
        values = [one.value for one in tuned[length][inner]]
        largest = 1 + int(np.argmax(values))
        claim(stages[largest] == "after block 4", f"the ratio at {name} is largest after block 4")
        parts.append(f"{told(tuned[length][largest], 1, signed=False)} at {name}")
    most = max(one.value for length in LENGTHS for one in logit[length][inner])
    claim(most < 100, "no ratio reaches two orders of magnitude")
    first, first_filler = tuned["0"][1], tuned["1024"][1]
    claim(first.high < 1 < first_filler.low, "after block 0 plain is ahead without filler, and behind with it")
    return Row(
        question="Is the answer's probability orders of magnitude higher in early layers?",
        answer=(
            f"Not seen: the ratio of geometric means is largest after block 4, {', '.join(parts)} (tuned lens; logit "
            f"lens up to {most:.1f}); after block 0 plain Mamba-2 is ahead at 0k ({told(first, 2, signed=False)}), "
            f"Diff-Mamba at 1k ({told(first_filler, 2, signed=False)})."
        ),
        holds_for=WEIGHTS,
        n="2,242 prompts a length",
        page="needle_snr",
    )


def output_snr() -> Row:
    over_seeds = [results("needle_seeds")["lengths"][length]["difference"][OUTPUT][0] for length in LENGTHS]
    claim(not any(estimate_from(one).excludes_zero for one in over_seeds), "output SNR is not told apart over seeds")
    parts = [f"{told(one, 1, unit='dB')} at {name}" for one, name in zip(over_seeds, LENGTHS.values(), strict=True)]
    return Row(
        question="Does it stand out more at the output?",
        answer=f"Not told apart: {', '.join(parts)}.",
        holds_for=FIVE,
        n="5 pairs, 2,242 prompts a length",
        page="needle_seeds",
    )


def output_snr_by_task() -> Row:
    verdicts = [
        one
        for one in results("needle_snr/paper")["verdicts"]
        if one["place"] == "output" and one["lens"] == "tuned" and "task" in one["group"]
    ]
    parts = []
    for length, name in LENGTHS.items():
        own = [one for one in verdicts if one["group"]["length"] == length]
        estimates = [Estimate(one["difference_db"], one["low"], one["high"]) for one in own]
        by_task = [f"{one['group']['task']} {told(e, 1)}" for one, e in zip(own, estimates, strict=True)]
        parts.append(f"at {name} {', '.join(by_task)}")
    ahead = [f"{one['group']['task']} {LENGTHS[one['group']['length']]}" for one in verdicts if one["winner"] == PLAIN]
    claim(ahead, "plain Mamba-2 is ahead at the output somewhere")
    return Row(
        question="The same in the shipped pair, task by task",
        answer=f"It depends on the task: {'; '.join(parts)} dB. Plain Mamba-2 is ahead in {listed(ahead)}.",
        holds_for=WEIGHTS,
        n="242 (qa4) or 500 prompts a cell",
        page="needle_snr",
    )


def output_bits() -> Row | None:
    means = [
        one
        for one in results("needle_snr/paper")["measure_means"]
        if (one["lens"], one["measure"], one["place"]) == ("tuned", "calibrated_bits", "output")
    ]
    if not means:
        return None
    parts = []
    for length, name in LENGTHS.items():
        whole = cell(means, group={"length": length})
        by_task = [one for one in means if "task" in one["group"] and one["group"]["length"] == length]
        of_tasks = ", ".join(f"{one['group']['task']} {told(one['difference'])}" for one in by_task)
        apart = "" if estimate_from(whole["difference"]).excludes_zero else " (not told apart)"
        parts.append(f"{told(whole['difference'], unit='bits')}{apart} at {name}{f' ({of_tasks})' if by_task else ''}")
    return Row(
        question="The same in bits about the answer, calibrated",
        answer=f"{'; '.join(parts)}.",
        holds_for=WEIGHTS,
        n=f"{cell(means, group={'length': '0'})['n']:,} prompts a length",
        page="needle_snr",
    )


def learning() -> Row:
    zero = results("training")["lengths"]["0"]["step_of_accuracy"]["0.5"]
    filler = results("training")["lengths"]["1024"]["step_of_accuracy"]["0.5"]
    ratios = [ratio_over_seeds(one[PLAIN], one[DIFFERENTIAL]) for one in (zero, filler)]
    claim(all(ratio.low > 1 for ratio in ratios), "retrieval forms earlier in Diff-Mamba over seeds")
    return Row(
        question="Does retrieval form earlier in training?",
        answer=(
            f"Yes: accuracy on held-out prompts passes 0.5 after {told(ratios[0], 1, signed=False)} times fewer steps "
            f"at 0k and {told(ratios[1], 1, signed=False)} times fewer at 1k."
        ),
        holds_for=FOUR,
        n="4 pairs, read along the way",
        page="training",
    )


def learning_curve() -> Row:
    steps = {model: [step_of_answers(seed, model) for seed in range(5)] for model in (PLAIN, DIFFERENTIAL)}
    ratio = ratio_over_seeds(steps[PLAIN], steps[DIFFERENTIAL])
    claim(ratio.low > 1, "answers in training pass 0.5 earlier in Diff-Mamba over seeds")
    shown = [f"{steps[model][0]:,.0f}" for model in (DIFFERENTIAL, PLAIN)]
    return Row(
        question="Does it learn faster (Fig. 3)?",
        answer=(
            f"The answers of the training rows, yes: accuracy passes 0.5 after {told(ratio, 1, signed=False)} times "
            f"fewer steps (the shipped pair: step {shown[0]} against {shown[1]})."
        ),
        holds_for=FIVE,
        n="5 pairs",
        page="retrieval/training",
    )


def after_training() -> Row:
    parts = []
    for length, name in LENGTHS.items():
        difference = results("training")["lengths"][length]["difference"]["accuracy"][-1]
        claim(not estimate_from(difference).excludes_zero, f"accuracy at {name} is not told apart at the end")
        parts.append(f"{told(difference)} at {name}")
    return Row(
        question="Does it retrieve better after the last step?",
        answer=f"Not told apart: accuracy {', '.join(parts)}.",
        holds_for=FIVE,
        n="5 pairs; 60 prompts a task at 0k, 30 at 1k",
        page="training",
    )


def retrieval() -> Row:
    rows, cells = rows_of("retrieval/paper"), results("retrieval/paper")["cells"]
    whole = {
        length: accuracy_difference(rows, PLAIN, DIFFERENTIAL, length=length) for length in (0, 1024, 2048, 4096, 8192)
    }
    claim(not whole[0].excludes_zero, "without filler the two are not told apart")
    claim(whole[1024].high < 0 and whole[2048].high < 0, "plain Mamba-2 is better at 1k and 2k")
    claim(whole[4096].low > 0 and whole[8192].low > 0, "Diff-Mamba is better at 4k and 8k")
    better = [one["task"] for one in cells if one["length"] == 4096 and one["difference"]["low"] > 0]
    claim(better == ["qa1", "qa4"], "at 4k Diff-Mamba is better in qa1 and qa4")
    rest = accuracy_difference(rows, PLAIN, DIFFERENTIAL, length=4096, without=better)
    claim(rest.value < 0, "without qa1 and qa4 it is not better at 4k")
    n = {length: sum(row.length == length and row.model == PLAIN for row in rows) for length in whole}
    return Row(
        question="Does the shipped pair retrieve better in long context (Fig. 4)?",
        answer=(
            f"Only far beyond the trained 1k: {told(whole[4096], 3)} at 4k, which rests on qa1 and qa4 (the other "
            f"three: {told(rest, 3)}), {told(whole[8192], 3)} at 8k. Plain Mamba-2 is better at 1k, "
            f"{told(whole[1024], 3)}, and 2k, {told(whole[2048], 3)}; without filler {told(whole[0], 3)}."
        ),
        holds_for=WEIGHTS,
        n=f"{n[0]:,}, {n[1024]:,}, {n[2048]:,}, {n[4096]:,}, {n[8192]:,} prompts at 0k to 8k",
        page="retrieval",
    )


def held_out_text() -> Row:
    over_seeds = {
        name.split("/")[-1].split("_")[0]: values["difference"][-1]
        for name, values in results("training")["bits_per_byte"].items()
    }
    claim(not any(estimate_from(one).excludes_zero for one in over_seeds.values()), "text is not told apart over seeds")
    return Row(
        question="Does it model held-out text better? Bits per byte",
        answer=f"Not told apart: Pile {told(over_seeds['pile'], 3)}, novels {told(over_seeds['novels'], 3)}.",
        holds_for=FOUR,
        n="4 pairs, whole held-out streams",
        page="training",
    )


def held_out_text_of_the_pair() -> Row:
    plain, differential, difference, n = text_difference("retrieval/paper")
    claim(difference.high < 0, "the shipped Diff-Mamba needs fewer bits on The Pile")
    text = results("retrieval/paper")["text"][PLAIN]
    return Row(
        question="The same in the shipped pair, on held-out documents of The Pile",
        answer=f"Yes: {differential:.3f} against {plain:.3f}, {told(difference, 3)}.",
        holds_for=WEIGHTS,
        n=f"{n} subsets, {text['pile']['n_bytes'] / 1000:.0f} kB",
        page="retrieval",
    )


def over_allocation() -> Row:
    cells = results("overallocation/paper")["cells"]
    whole = {length: cell(cells, task="all", length=length) for length in (0, 1024, 4096, 8192)}

    def share(length: int, measure: str = "noise") -> Estimate:
        return estimate_from(whole[length]["differences"]["difference - plain"][measure])

    claim(share(0).low > 0 and share(1024).high < 0, "the noise share is larger without filler and smaller at 1k")
    claim(share(1024, "contrast_noise").low > 0 > share(4096, "contrast_noise").high, "the contrast's turns by 4k")
    snr = {length: share(length, "snr_db") for length in whole}
    claim(snr[4096].high < 0 < snr[8192].low, "the needle stands out more in plain Mamba-2 up to 4k")
    return Row(
        question="Does it spend less on irrelevant context? Noise share of contributions",
        answer=(
            f"Mixed. To the answer's logit {told(share(0), 3)} at 0k, {told(share(1024), 3)} at 1k, "
            f"{told(share(8192), 3)} at 8k. Against the other labels' logits {told(share(1024, 'contrast_noise'), 3)} "
            f"at 1k, less only from 4k on, {told(share(4096, 'contrast_noise'), 3)}; and up to 4k the needle stands "
            f"out more in plain Mamba-2 ({told(snr[4096], 1, unit='dB')} at 4k)."
        ),
        holds_for=WEIGHTS,
        n=f"{whole[1024]['n']:,} prompts a length",
        page="overallocation",
    )


def cause() -> Row:
    found = results("lambda_causality/paper")
    zero = cell(found["cells"], task="all", length=0)
    removed, doubled = (cell(zero["all"], factor=factor)["change"] for factor in (0.0, 2.0))
    first = cell(zero["blocks"], where="0")["change"]
    claim(first["right"][0] < 0.45 * removed["right"][0], "half of the accuracy is block 0's")
    claim(first["snr_db"][0] < 0.5 * removed["snr_db"][0], "most of the SNR is block 0's")
    (filler,) = found["with_filler"]
    tasks = sorted({one["task"] for one in found["cells"] if one["length"] and one["task"] != "all"})
    claim(not estimate_from(filler["change"]["right"]).excludes_zero, "filler makes the loss of accuracy no worse")
    claim(filler["change"]["snr_db"][1] > 0, "filler makes the loss of SNR smaller")
    return Row(
        question="Does the subtraction cause it?",
        answer=(
            f"Without it (lambda 0) accuracy changes by {told(removed['right'])} and SNR by "
            f"{told(removed['snr_db'], 1, unit='dB')}, half of the accuracy and most of the SNR in block 0 alone "
            f"({told(first['right'])}, {told(first['snr_db'], 1, unit='dB')}); twice lambda changes accuracy by "
            f"{told(doubled['right'])}. Filler makes that no worse (asked of {listed(tasks)} alone: accuracy "
            f"{told(filler['change']['right'], 3)}), so it is dependence on the subtrahend rather than proof of filler "
            "being cancelled."
        ),
        holds_for=WEIGHTS,
        n=f"{zero['n']:,} prompts, {filler['n']:,} with filler",
        page="lambda_causality",
    )


def cancellation() -> Row:
    found = results("cancellation/paper")
    heads = cell(found["heads"], length=1024)
    counted = [
        estimate_from(one)
        for row, kept in zip(heads["removed_noise"], heads["counts"], strict=True)
        for one, counts in zip(row, kept, strict=True)
        if counts
    ]
    removing = sum(one.low > 0 for one in counted)
    claim(removing == 0, "no head removes noise token by token")
    whole = cell(found["cells"], task="all", length=1024, direction="answer")
    claim(whole["removed_noise"][2] < 0, "the difference writes more noise than the minuend, size by size")
    return Row(
        question="Does the subtrahend cancel noise token by token?",
        answer=(
            f"Not seen: of {len(counted)} heads that write noise at 1k none removes some, and the sizes that the "
            f"difference writes are larger than the minuend's (removed share {told(whole['removed_noise'])}). Sums of "
            "sizes rise by construction: see the next row."
        ),
        holds_for=WEIGHTS,
        n=f"{whole['n']:,} prompts",
        page="cancellation",
    )


def circuit() -> Row:
    folder = newest("circuit", "paper", "builtin")
    whole = {
        model: cell(results(folder)["cells"], task="all", length=0, model=model) for model in (PLAIN, DIFFERENTIAL)
    }
    heads = {model: one["heads"] for model, one in whole.items()}
    first = {model: max(of, key=lambda name, of=of: of[name][0]) for model, of in heads.items()}
    claim(first[DIFFERENTIAL] == "3 minuend, head 1", "head 1 of block 3's minuend brings most of the label")
    others = [values for name, values in heads[DIFFERENTIAL].items() if name != first[DIFFERENTIAL]]
    claim(
        max(values[2] for values in others) < heads[DIFFERENTIAL][first[DIFFERENTIAL]][1], "no other head comes near it"
    )
    claim(first[PLAIN].startswith("10, "), "block 10 of plain Mamba-2 brings the label")
    several = [values for values in heads[PLAIN].values() if values[1] > 0.03]
    early, late = (whole[DIFFERENTIAL]["whole"][f"{block} subtrahend"] for block in (0, 3))
    claim(late[2] < 0.01 < early[1], "the subtrahend of block 3 carries none of the label, that of block 0 some")
    minuend = whole[DIFFERENTIAL]["whole"]["0 minuend"]
    claim(early[2] < minuend[1], "in block 0 the minuend carries more of it")
    return Row(
        question="Which heads bring the needle's label to the answer? Share that comes back by patching swapped facts",
        answer=(
            f"In Diff-Mamba one, head 1 of block 3's minuend: {told(heads[DIFFERENTIAL][first[DIFFERENTIAL]])}; in "
            f"Mamba-2 {len(several)} of block 10, the largest {told(heads[PLAIN][first[PLAIN]])}. Of the subtrahends "
            f"that of block 3 carries none of it ({told(late)}), that of block 0 {told(early)}, where the minuend "
            f"carries {told(minuend)}."
        ),
        holds_for=WEIGHTS,
        n=f"{whole[PLAIN]['n']} and {whole[DIFFERENTIAL]['n']} pairs of prompts",
        page="circuit",
    )


def faithful_account() -> Row:
    folder = newest("faithfulness", "paper", "builtin")
    whole = {
        model: cell(results(folder)["cells"], task="all", length=0, model=model) for model in (PLAIN, DIFFERENTIAL)
    }
    gaps = {
        model: {name: areas["over_random"] for name, areas in one["areas"].items() if name not in ("random", "recency")}
        for model, one in whole.items()
    }
    better = {model: one["contribution_less_hidden"] for model, one in whole.items()}
    for model, of_model in gaps.items():
        claim(better[model][1] > 0, "contributions hold better than hidden attention")
        claim(all(values[1] > 0 for values in of_model.values()), "every account is better than a random order")
    said = [
        f"{told(better[model])} in {name} (over a random order {told(gaps[model]['contribution'])} and "
        f"{told(gaps[model]['hidden'])})"
        for model, name in ((DIFFERENTIAL, "Diff-Mamba"), (PLAIN, "Mamba-2"))
    ]
    return Row(
        question="Which account of what is read holds when the tokens are knocked out? Insertion less deletion area",
        answer=f"All beat a random order, and contributions beat hidden attention: {', '.join(said)}.",
        holds_for=WEIGHTS,
        n=f"{whole[DIFFERENTIAL]['n']} and {whole[PLAIN]['n']} prompts",
        page="faithfulness",
    )


def noise_variance() -> Row:
    folder = newest("noise_variance", "unseen", "builtin")
    found = results(folder)
    whole, enough = found["whole"], min(found["n_stories"], found["n_fillers"])
    alike, kept = estimate_from(whole["cancelled"]), estimate_from(whole["kept"])
    words = {1: "Partly: the branches' noise is alike", -1: "No: the branches' noise adds up", 0: "Not seen"}
    if enough < MIN_SAMPLES or kept.low <= 1 <= kept.high:
        steadier = "Whether the difference varies more or less than the minuend alone is undecided"
    else:
        steadier = f"The difference varies {'less' if kept.high < 1 else 'more'} than the minuend alone"
    return Row(
        question="Does it cancel the net noise of filler, as it varies from filler to filler?",
        answer=(
            f"{words[alike.sign(enough)]}, cancelled share of the variance {told(alike)}. {steadier}, variance kept "
            f"{told(kept, signed=False)}; the needle over that spread {told(whole['snr_gained_db'], 1, unit='dB')} "
            f"against the minuend alone. In {texts_of(folder)}."
        ),
        holds_for=WEIGHTS,
        n=f"{found['n_stories']} stories in {found['n_fillers']} texts, {found['n']} prompts",
        page="noise_variance",
    )


def heads() -> Row:
    found = results(newest("heads", "paper", "builtin"))
    aggregating, sinking, shared = [], [], []
    for model, name in ((PLAIN, "Mamba-2"), (DIFFERENTIAL, "Diff-Mamba")):
        of, chosen = cell(found["cells"], model=model, task="all", length=0)["sets"], found["chosen"][model]
        aggregate, sink = (of[kind]["excess"] for kind in ("aggregate", "sink"))
        claim(aggregate["snr_db"][2] < 0, f"{name} loses SNR without the heads that aggregate the needle")
        aggregating.append(f"{name} {told(aggregate['right'])} and {told(aggregate['snr_db'], 1, unit='dB')}")
        sinking.append(f"{name} {told(sink['right'])} and {told(sink['snr_db'], 1, unit='dB')}")
        shared.append(str(sum(head in chosen["aggregate"] for head in chosen["sink"])))
    n_heads, n = len(found["chosen"][PLAIN]["aggregate"]), found["cells"][0]["n"]
    return Row(
        question="Which heads carry retrieval, and does a state sink?",
        answer=(
            f"The {n_heads} (5 %) that read most of the needle's end at the answer; zeroed, accuracy and SNR change "
            f"beyond matched heads by {'; '.join(aggregating)}. Of the {n_heads} with the longest steps at full stops "
            f"and line breaks, what they read there taken out: {'; '.join(sinking)}; a full stop also ends the needle, "
            f"and {' and '.join(shared)} of these heads are among the former."
        ),
        holds_for=WEIGHTS,
        n=f"{n} prompts without filler",
        page="heads",
    )


def robustness() -> Row:
    cells = results("noise_robustness/paper")["cells"]
    zero, filler = (cell(cells, task="all", length=length) for length in (0, 1024))
    tasks = sorted({one["task"] for one in cells if one["length"] and one["task"] != "all"})
    at_ten = [cell(one["gaussian"], dose=10.0)["less_loss"] for one in (zero, filler)]
    random = cell(filler["tokens"], dose=1.0)["less_loss"]
    claim(min(one["right"][1] for one in (*at_ten, random)) > 0, "it loses less accuracy at 10 dB and in random filler")
    claim(at_ten[0]["snr_db"][2] < 0 < at_ten[1]["snr_db"][1], "its SNR falls faster at 0k and more slowly at 1k")
    return Row(
        question="Does it bear noise better?",
        answer=(
            f"Accuracy, somewhat: it loses less by {told(at_ten[0]['right'])} at 0k and {told(at_ten[1]['right'])} at "
            f"1k under Gaussian noise 10 dB below the stream, by {told(random['right'])} in random filler. Its SNR "
            f"falls faster at 0k ({told(at_ten[0]['snr_db'], 1, unit='dB')} at 10 dB). All at 1k is of "
            f"{listed(tasks)}."
        ),
        holds_for=WEIGHTS,
        n=f"{zero['n']:,} prompts at 0k, {filler['n']:,} at 1k",
        page="noise_robustness",
    )


def unseen_novels() -> Row:
    folder = newest("unseen_novels", "unseen", "builtin")
    whole = cell(results(folder)["cells"], task="all")
    parts = [
        f"{words} {told(whole[measure]['difference'], decimals, unit=unit)}"
        for measure, words, decimals, unit in (
            ("snr_inner_db", "Inner SNR", 1, "dB"),
            ("snr_output_db", "at the output", 1, "dB"),
            ("right", "accuracy", 3, ""),
            ("noise_answer", "noise share", 3, ""),
            ("noise_contrast", "against the other labels", 3, ""),
        )
    ]
    return Row(
        question="Do SNR, accuracy and noise come out like this in other fillers? Intervals over stories and texts",
        answer=f"{', '.join(parts)}. In {texts_of(folder)}.",
        holds_for=WEIGHTS,
        n=f"{whole['n_stories']} stories in {whole['n_fillers']} texts, {whole['n']:,} prompts",
        page="unseen_novels",
    )


def long_context() -> Row:
    folder = newest("long_context", "unseen", "paper")
    found = results(folder)
    curves, trained = found["curves"], found["bounds"].index(1024)
    beyond, p_values = [estimate_from(one) for one in curves["difference"][trained:]], curves["p_values"][trained:]
    signs = {one.excludes_zero * (1 if one.value > 0 else -1) for one in beyond}
    words = {-1: "lower in Diff-Mamba in every bin", 1: "lower in plain Mamba-2 in every bin", 0: "not told apart"}
    who = words[signs.pop()] if len(signs) == 1 else "lower in one or the other by position"
    weak = f"; {found['n_sources']} novels are weak evidence" if found["n_sources"] < MIN_SAMPLES else ""
    harmed = [
        model
        for model in (PLAIN, DIFFERENTIAL)
        if any(estimate_from(one).high < 0 for one in curves["gain"][model][trained:])
    ]
    gains = [min(estimate_from(one).low for one in curves["gain"][model][trained:]) for model in (PLAIN, DIFFERENTIAL)]
    degrade = (
        f"Neither degrades: the older past does harm in no bin (at most {max(0.0, -min(gains)):.3f} nats)"
        if not harmed
        else f"{listed([f'`{name}`' for name in harmed])} degrades"
    )
    return Row(
        question="Loss far beyond the trained length (Fig. 6)?",
        answer=(
            f"From 1k to 64k tokens {who} (the last: {told(beyond[-1], 3, unit='nats')}; p {min(p_values):.2g} to "
            f"{max(p_values):.2g}{weak}). {degrade}. In {texts_of(folder)}."
        ),
        holds_for=WEIGHTS,
        n=f"{found['n_sources']} novels, {found['n_pieces']} pieces",
        page="long_context",
    )


def conversion() -> Row:
    rows, models = rows_of("conversion"), results("conversion")["models"]
    bits = {name: values["bits_per_byte"]["pile_eval"] for name, values in models.items()}
    after = {
        way: [accuracy_difference(rows, "plain after", f"{way} after", length=length) for length in (0, 1024)]
        for way in ("by_component", "published")
    }
    claim(not any(one.excludes_zero for one in after["by_component"]), "by component retrieval comes back")
    claim(all(one.high < 0 for one in after["published"]), "by the published alignment it stays below")
    claim(bits["plain after"] < min(bits["by_component after"], bits["published after"]), "text stays worse")
    n = sum(row.model == "plain after" and row.length == 0 for row in rows)
    return Row(
        question="Is it enough to convert a trained Mamba-2?",
        answer=(
            "No gain after 20 million tokens: by component retrieval comes back to the plain model's "
            f"({', '.join(told(one, 3) for one in after['by_component'])} at 0k and 1k), by the published alignment it "
            f"stays below ({', '.join(told(one, 3) for one in after['published'])}); held-out Pile text stays worse "
            f"({bits['by_component after']:.3f} and {bits['published after']:.3f} against {bits['plain after']:.3f} "
            "bits per byte)."
        ),
        holds_for=WEIGHTS,
        n=f"{n:,} prompts a length",
        page="conversion",
    )


def bounds(values: Mapping[str, float]) -> Estimate:
    """An estimate that results.json holds by name."""
    return Estimate(values["value"], values["low"], values["high"])


def texts_of(folder: str) -> str:
    """Which text a recipe's results are of, in words."""
    recipe = folder.split("/")[1]
    return {
        "unseen": "novels that no training saw",
        "paper": "novels kept from the language models",
        "builtin": "generated texts, too few to decide anything",
    }[recipe]


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


ROWS: tuple[Callable[[], Row | None], ...] = (
    inner_snr_over_seeds,
    inner_snr,
    earlier_or_cleaner,
    formation,
    early_probability,
    output_snr,
    output_snr_by_task,
    output_bits,
    learning,
    learning_curve,
    after_training,
    retrieval,
    held_out_text,
    held_out_text_of_the_pair,
    unseen_novels,
    over_allocation,
    cause,
    cancellation,
    noise_variance,
    circuit,
    faithful_account,
    heads,
    robustness,
    long_context,
    conversion,
)
"""In the order of the table: questions over seeds first, what one pair shows beside them. None: not measured yet."""
