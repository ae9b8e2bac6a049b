"""The rows of "What was found": a function for each, from records to a sentence.

Words that depend on a number's sign are claimed (`claim`), so that a record that turns refuses its sentence; numbers
are put in where they stand. What speaks against the paper stays.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from analyses.findings.mechanism import (
    cancellation,
    cause,
    circuit,
    faithful_account,
    heads,
    noise_variance,
    over_allocation,
    robustness,
)
from analyses.findings.sources import (
    DIFFERENTIAL,
    FIVE,
    FOUR,
    PLAIN,
    WEIGHTS,
    Row,
    accuracy_difference,
    bounds,
    cell,
    claim,
    listed,
    newest,
    probability_ratio,
    ratio_over_seeds,
    results,
    rows_of,
    step_of_answers,
    texts_of,
    told,
)
from diffmamba_interp.analysis.results import estimate_from
from diffmamba_interp.statistics import MIN_SAMPLES, Estimate

INNER, OUTPUT = "SNR over the inner stages", "SNR at the output"
FORMED, AT_FORMATION = "median stage from which SNR stays above 7 dB", "SNR at the stage of formation (7 dB)"
LENGTHS = {"0": "0k", "1024": "1k"}


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
    whole = cell(results("held_out_text/paper")["cells"], source="all")
    difference = estimate_from(whole["difference"])
    claim(difference.high < 0, "the shipped Diff-Mamba needs fewer bits on The Pile")
    plain, differential = whole[PLAIN][0], whole[DIFFERENTIAL][0]
    return Row(
        question="The same in the shipped pair, on held-out documents of The Pile",
        answer=f"Yes: {differential:.3f} against {plain:.3f}, {told(difference, 3)}.",
        holds_for=WEIGHTS,
        n=f"{whole['n']} documents, {whole['n_bytes'] / 1e6:.1f} MB",
        page="held_out_text",
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
