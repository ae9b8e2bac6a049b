"""The rows of "What was found" in their order, and those that ask what a model can do: a function for each, from
records to a sentence. How the answer stands out is asked in `answer_snr`, what the subtraction does in `mechanism`.

Words that depend on a number's sign are claimed (`claim`), so that a record that turns refuses its sentence; numbers
are put in where they stand. What speaks against the paper stays.
"""

from __future__ import annotations

from collections.abc import Callable

from analyses.findings.answer_snr import (
    earlier_or_cleaner,
    early_probability,
    formation,
    inner_snr,
    inner_snr_of_tuned_pair,
    inner_snr_over_seeds,
    output_bits,
    output_snr,
    output_snr_by_task,
)
from analyses.findings.mechanism import (
    ablations,
    cancellation,
    cause,
    circuit,
    depth,
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
    LENGTHS,
    PLAIN,
    WEIGHTS,
    Row,
    accuracy_difference,
    cell,
    claim,
    listed,
    newest,
    ratio_over_seeds,
    results,
    rows_of,
    step_of_answers,
    texts_of,
    told,
)
from diffmamba_interp.analysis.results import estimate_from
from diffmamba_interp.statistics import MIN_SAMPLES


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
    inner_snr_of_tuned_pair,
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
    ablations,
    depth,
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
