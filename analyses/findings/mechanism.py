"""The rows that ask what the subtraction does inside the shipped pair: see `rows.py`."""

from __future__ import annotations

from analyses.findings.sources import (
    DIFFERENTIAL,
    FIVE,
    PLAIN,
    SIX,
    WEIGHTS,
    Row,
    cell,
    claim,
    listed,
    newest,
    results,
    texts_of,
    told,
)
from diffmamba_interp.analysis.results import estimate_from
from diffmamba_interp.statistics import MIN_SAMPLES, Estimate


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
    aggregating, sinking, far, shared = [], [], [], []
    for model, name in ((PLAIN, "Mamba-2"), (DIFFERENTIAL, "Diff-Mamba")):
        near, filler = (cell(found["cells"], model=model, task="all", length=length) for length in (0, 1024))
        of, chosen = near["sets"], found["chosen"][model]
        aggregate, sink = (of[kind]["excess"] for kind in ("aggregate", "sink"))
        claim(aggregate["snr_db"][2] < 0, f"{name} loses SNR without the heads that aggregate the needle")
        aggregating.append(f"{name} {told(aggregate['right'])} and {told(aggregate['snr_db'], 1, unit='dB')}")
        sinking.append(f"{name} {told(sink['right'])} and {told(sink['snr_db'], 1, unit='dB')}")
        far.append(f"{name} {told(filler['sets']['sink']['excess']['right'])}")
        shared.append(str(sum(head in chosen["aggregate"] for head in chosen["sink"])))
    n_heads = len(found["chosen"][PLAIN]["aggregate"])
    return Row(
        question="Which heads carry retrieval, and does a state sink?",
        answer=(
            f"The {n_heads} (5 %) that read most of the needle's end at the answer; zeroed, accuracy and SNR change "
            f"beyond matched heads by {'; '.join(aggregating)}. Of the {n_heads} with the longest steps at full stops "
            f"and line breaks, what they read there taken out: {'; '.join(sinking)} "
            f"(accuracy at 1k: {'; '.join(far)}); a full stop also ends the needle, and {' and '.join(shared)} "
            "of these heads are among the former."
        ),
        holds_for=WEIGHTS,
        n=f"{near['n']} prompts at 0k, {filler['n']} at 1k",
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


def ablations() -> Row:
    found = results("ablations/paper")
    names = {
        "diff-mamba-exp": "Diff-Mamba re-parameterised",
        "diff-mamba": "Diff-Mamba",
        "diff-mamba-bare": "without its norm",
        "diff-s6": "subtracting scans alone (Diff-S6)",
        "alternate": "every other block alone",
    }
    cells = {name: cell(found["cells"], cell=name) for name in names}
    claim(all(len(one["seeds"]) == 5 for one in cells.values()), "five seeds of each kind of model were trained")
    gains = {
        name: {measure: one["measures"][measure]["difference"] for measure in ("accuracy", "pile_test")}
        for name, one in cells.items()
    }
    with_norm = [gains[name] for name in ("diff-mamba", "diff-mamba-exp")]
    claim(all(one["accuracy"][1] > 0 for one in with_norm), "Diff-Mamba with its norm answers more over seeds")
    claim(all(one["pile_test"][2] < 0 for one in with_norm), "Diff-Mamba with its norm models text better over seeds")
    others = [gains[name] for name in ("diff-mamba-bare", "diff-s6", "alternate")]
    claim(all(one["accuracy"][1] < 0 and one["pile_test"][2] > 0 for one in others), "the others gain nothing")
    orderings = {one["says"]: one["gains"] for one in found["claims"]}
    norm = orderings["normalisation helps Diff-Mamba"]["accuracy"]
    claim(norm[1] > 0, "the norm helps Diff-Mamba's accuracy over seeds")
    parts = [
        f"{words} {told(gains[name]['accuracy'])} and {told(gains[name]['pile_test'], 3)}"
        for name, words in names.items()
    ]
    measures = cells["diff-mamba"]["measures"]
    return Row(
        question="Which of its parts matter (Table 2, Fig. 10) while retrieval forms? 1,000 steps; accuracy at 0k and "
        "bits per byte of The Pile, less plain Mamba-2's",
        answer=f"Whole mixers, in all blocks, and the norm (it brings {told(norm)} accuracy): {'; '.join(parts)}.",
        holds_for=FIVE,
        n=f"5 pairs, {measures['accuracy']['n_samples']:,} prompts, {measures['pile_test']['n_samples']} documents",
        page="ablations",
    )


def depth() -> Row:
    found = results("ablations/depth")["depth"]
    gains, growth = found["gains"], found["growth"]
    claim(found["seeds"] == list(range(6)), "six seeds were trained at both depths")
    claim(gains["6"][1] < 0 < gains["6"][2], "Diff-Mamba is not told apart from Mamba at 6 blocks")
    claim(gains["12"][2] < 0, "Diff-Mamba is behind Mamba at 12 blocks")
    claim(growth[1] < 0, "the gain is not shown to grow with depth")
    parts = [f"{told([-bound for bound in (g[0], g[2], g[1])], 3)} at {n} blocks" for n, g in gains.items()]
    return Row(
        question="Does the gain grow with depth (Table 1)? Byte-level models of novels, 1,000 steps; bits "
        "per byte less plain Mamba-2's",
        answer=f"Not seen, and no gain: {', '.join(parts)}.",
        holds_for=SIX,
        n="6 pairs a depth, 96 pieces of novels",
        page="ablations",
    )
