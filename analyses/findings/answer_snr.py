"""The rows that ask whether the answer stands out more, and when it forms: see `rows.py`."""

from __future__ import annotations

import numpy as np

from analyses.findings.sources import (
    DIFFERENTIAL,
    FIVE,
    LENGTHS,
    PLAIN,
    WEIGHTS,
    Row,
    bounds,
    cell,
    claim,
    listed,
    probability_ratio,
    results,
    told,
)
from diffmamba_interp.analysis.results import estimate_from
from diffmamba_interp.statistics import Estimate

INNER, OUTPUT = "SNR over the inner stages", "SNR at the output"
FORMED, AT_FORMATION = "median stage from which SNR stays above 7 dB", "SNR at the stage of formation (7 dB)"


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


def inner_snr_of_tuned_pair() -> Row:
    found = results("answer_tuning/paper")
    claim(found["seeds"] == [0, 1, 2], "the pair was tuned with three seeds")
    inner, output, right = (found["measures"][name] for name in (INNER, OUTPUT, "accuracy"))
    claim(inner["difference"][1] > 0 and inner["over_prompts"][1] > 0, "inner SNR is higher in the tuned Diff-Mamba")
    claim(output["difference"][1] > 0 and output["over_prompts"][1] > 0, "so is SNR at the output")
    claim(right["difference"][2] < 0 and right["over_prompts"][2] < 0, "the tuned Mamba-2 answers more prompts rightly")
    behind = {task: one for task, one in found["tasks"].items() if one[OUTPUT]["over_prompts"][2] < 0}
    claim(list(behind) == ["qa2"], "at the output the tuned Diff-Mamba is behind in qa2 alone")
    least = min(found["tasks"], key=lambda task: found["tasks"][task]["accuracy"]["over_prompts"][0])
    claim(least == "qa2", "and there it loses most accuracy")
    return Row(
        question="The same after fine-tuning on the answers, as the paper ran it (A.3.2, A.4), at 0k",
        answer=f"Yes: {told(inner['over_prompts'], 1, unit='dB')}, and {told(output['over_prompts'], 1, unit='dB')} at "
        f"the output, but {told(behind['qa2'][OUTPUT]['over_prompts'], 1, unit='dB')} there in qa2; and plain Mamba-2 "
        f"answers more prompts rightly, {told(right['over_prompts'], 3)}, most of it in qa2. Three seeds of the tuning "
        "agree in all of it.",
        holds_for=WEIGHTS,
        n=f"{found['n']:,} prompts",
        page="answer_tuning",
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
