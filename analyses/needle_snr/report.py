"""README.md and figures of the signal-to-noise analysis, written from its results alone.

python analyses/needle_snr/report.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.needle_snr.summary import BASELINE, LENSES, MODEL
from diffmamba_interp.analysis.results import estimate_from, read_results
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.panels import Drawing, minus
from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.figures.needle import stages_drawing
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.needle.curves import Curve, PairedCurve
from diffmamba_interp.needle.findings import Verdict, verdict_table

HERE = Path(__file__).parent
TITLES = {
    "paper": "Held-out bAbI stories in held-out novels",
    "builtin": "Generated stories in generated text",
}
RELATION = "attention.svg"

Results = dict[str, Any]


def write(out: Path = HERE) -> None:
    """Figures beside each results.json, and README.md over those that there are."""
    found = {
        name: read_results(out / name / "results.json") for name in TITLES if (out / name / "results.json").exists()
    }
    for name, results in found.items():
        write_figures(out / name, results, TITLES[name])
    findings = [line for name, results in found.items() for line in finding(name, results)]
    sections = [line for name, results in found.items() for line in section(name, results)]
    write_text(out / "README.md", "\n".join([*HEAD, *findings, *HOW, *sections, *LIMITS]) + "\n")


def write_figures(folder: Path, results: Results, title: str) -> None:
    for name, drawing in figures(results, title).items():
        write_text(folder / name, to_svg(drawing))


def figures(results: Results, title: str) -> dict[str, Drawing]:
    """Every figure by the name of its file. Fig. 5 of the paper: `probability.svg` and `probability_log.svg`."""
    stages = {"stages": results["stages"]}
    curves = [Curve.from_dict(values | stages) for values in results["curves"]]
    paired = [PairedCurve.from_dict(values | stages) for values in results["differences"]]
    drawn = {}
    for measure in ("snr_db", "probability"):
        own = [curve for curve in curves if (curve.measure, curve.statistic) == (measure, "mean")]
        whole = [curve for curve in own if "task" not in dict(curve.group)]
        tasks = [curve for curve in own if "task" in dict(curve.group) and curve.lens == LENSES[0]]
        drawn[f"{measure}.svg"] = stages_drawing(whole, title=title)
        drawn[f"{measure}_by_task.svg"] = stages_drawing(tasks, title=f"{title}, {LENSES[0]} lens")
        if measure == "probability":
            drawn["probability_log.svg"] = stages_drawing(whole, title=title, log=True)
    whole_paired = [curve for curve in paired if curve.measure == "snr_db" and "task" not in dict(curve.group)]
    drawn["difference.svg"] = stages_drawing(whole_paired, title=f"{title}: {minus(MODEL, BASELINE)}")
    if results["attention"]:
        drawn[RELATION] = relation_drawing(results["attention"], title)
    return drawn


def relation_drawing(lines: Sequence[dict[str, Any]], title: str) -> Drawing:
    panels = []
    for kind, words in (("after", "lens SNR after the block"), ("gain", "what the block adds")):
        for length in sorted({line["length"] for line in lines}):
            own = [line for line in lines if line["length"] == length]
            points = {
                line["model"]: [(one.value, one.low, one.high) for one in map(estimate_from, line[kind])]
                for line in own
            }
            ticks = [str(block) for block in range(len(own[0][kind]))]
            panels.append(Curves(title=f"{words}, {length_name(length)}", ticks=ticks, points=points))
    return curves_drawing(panels, title=title, x_axis="block", y_axis="rank correlation with attention SNR")


def finding(name: str, results: Results) -> list[str]:
    judged = [Verdict.from_dict(values) for values in results["verdicts"]]
    whole = [one for one in judged if "task" not in dict(one.group)]
    lines = [f"{TITLES[name]}, all tasks together, the differential model less the plain one: {headline(whole)}", ""]
    for place in ("inner stages", "output"):
        for lens in LENSES if place == "inner stages" else LENSES[:1]:
            own = [one for one in whole if (one.place, one.lens) == (place, lens)]
            who = f"inner stages, {lens} lens" if place == "inner stages" else "the models' own output"
            lines.append(f"- Signal-to-noise ratio, {who}: {'; '.join(map(sentence, own))}.")
    single = [one for one in judged if "task" in dict(one.group) and one.lens == LENSES[0]]
    for place in ("inner stages", "output"):
        own = [one for one in single if one.place == place]
        more, less = (sum(one.winner == model for one in own) for model in (MODEL, BASELINE))
        lines.append(
            f"- Task by task, {place}: higher in `{MODEL}` in {more}, in `{BASELINE}` in {less}, undecided in "
            f"{len(own) - more - less} of {len(own)} cells."
        )
    return [*lines, *(f"- {line}" for line in about_attention(results["attention"])), ""]


def headline(whole: Sequence[Verdict]) -> str:
    """In words, whether the paper's claim about intermediate representations holds on this pair."""
    winners = {one.winner for one in whole if (one.place, one.lens) == ("inner stages", LENSES[0])}
    if winners == {MODEL}:
        return "**the claim holds**, the differential model's blocks are less noisy at every length (tuned lens)."
    if winners == {BASELINE}:
        return "**the opposite holds**, the differential model's blocks are noisier at every length (tuned lens)."
    if winners == {None}:
        return "**undecided**, the two models' blocks cannot be told apart at this n (tuned lens)."
    if BASELINE not in winners:
        return "**the claim holds where they can be told apart**, and not at every length (tuned lens); see below."
    if MODEL not in winners:
        return "**the opposite holds where they can be told apart**, and not at every length (tuned lens); see below."
    return "**mixed**, which model's blocks are less noisy depends on the length (tuned lens); see below."


def sentence(one: Verdict) -> str:
    who = f"higher in `{one.winner}`" if one.winner else "undecided"
    interval = f"{one.difference_db:+.2f} dB [{one.low:+.2f}, {one.high:+.2f}]"
    return f"{who} at {length_name(int(dict(one.group)['length']))} ({interval}, p = {one.p_value:.2g}, n = {one.n})"


def about_attention(lines: Sequence[dict[str, Any]]) -> list[str]:
    """How far reading the needle and answering rightly go together, prompt by prompt."""
    found = []
    for line in lines:
        output = estimate_from(line["output"])
        signs = [estimate_from(one).sign(line["n"]) for one in line["gain"]]
        found.append(
            f"`{line['model']}` at {length_name(line['length'])} (n = {line['n']}): rank correlation of a prompt's "
            f"mean attention SNR with the SNR of the output {output.text(2, signed=True)}. Blocks that add more to the "
            f"lens SNR where their attention SNR is higher: {signs.count(1)} of {len(signs)}; that add less: "
            f"{signs.count(-1)}."
        )
    return found


def section(name: str, results: Results) -> list[str]:
    made = results["provenance"]
    judged = [Verdict.from_dict(values) for values in results["verdicts"]]
    names = [one for one in figures(results, "") if one != RELATION]
    pictures = [f"![{one.removesuffix('.svg')}]({name}/{one})" for one in names]
    if results["attention"]:
        pictures.append(f"![attention]({name}/{RELATION})")
    digests = [
        f"{kind} {model} `{digest}`"
        for kind, of in (("model", "models"), ("lens", "lenses"))
        for model, digest in made[of].items()
    ]
    return [
        f"## {TITLES[name]} (recipe `{name}`)",
        "",
        *(line for picture in pictures for line in (picture, "")),
        *verdict_table([one for one in judged if one.lens == LENSES[0]]),
        "",
        f"Seed {made['seed']}, on {made['device']}, torch {made['versions']['torch']}. Sha256: {', '.join(digests)}.",
        "",
    ]


HEAD = [
    "# Does the answer stand out more in Diff-Mamba's blocks?",
    "",
    "The Diff-Mamba paper (arXiv 2507.06204, section 4.4, Fig. 5) reads the needle's probability from every block by a",
    "tuned lens and concludes that the differential model's intermediate representations are less noisy. This measures",
    "it on the bundled pair: the ratio to the distractors beside the probability, with error bars, filler and both",
    "lenses.",
    "",
    "## Finding",
    "",
]
HOW = [
    "## How it was measured",
    "",
    "Both models read the same prompts: the facts alone (0k), or hidden in filler. At the last position the residual",
    "stream after every block is read by the bundled tuned lens and by the logit lens. Signal is the probability of",
    "the whole answer, noise the mean probability of the task's other labels; SNR is 10 log10 of their ratio, averaged",
    "over prompts in dB. `inner stages` is the mean over all stages but the embedding and the output: one number per",
    "prompt, so that nothing need be corrected for the number of blocks. At the output no lens is involved.",
    "",
    "Intervals are 95 % percentile bootstraps over prompts; differences are paired by prompt; p is of a two-sided",
    "sign-flip test of 2,000 flips (none is below 0.0005), not corrected for the number of rows. A model is called",
    "higher where the interval leaves out zero and there are at least 10 prompts. Both lenses' means and the medians",
    "are in `results.json`.",
    "",
    "Attention SNR is that of `analyses/overallocation`, on up to 100 of these prompts of a task and length: what a",
    "needle token adds to the answer's logit over what another token adds, in absolute terms, per block. Its relation",
    "to the lens SNR is Spearman's correlation over prompts, ranked within tasks. It is left out where that analysis",
    "has not been run on these weights.",
    "",
    "    python analyses/needle_snr/run.py --recipe builtin",
    "    python analyses/needle_snr/run.py --recipe paper --data FOLDER --device cuda",
    "",
    "`records.parquet` holds every prompt's SNR (dB) and log-probability of the answer (nats) by model, lens and",
    "stage; a prompt is known by task, length and story, as in `analyses/retrieval`. This page is written by",
    "`report.py` from `results.json`. For other models and lenses: `python -m diffmamba_interp.evaluate_needle`.",
    "",
]
LIMITS = [
    "## Limits",
    "",
    "- One training seed of each model and of each lens: the intervals hold for these weights.",
    "- A lens shows what a linear map can read out, not what the model uses; each model has a lens of its own, so an",
    "  inner difference may be the lens's. The logit lens, which is not trained, stands beside it for that reason.",
    "- The mean over the inner stages is high where the answer is formed early: it says when as much as how cleanly.",
    "  The curves by stage show which; at the output both models have finished.",
    "- A ratio in dB has no bound: prompts that a model is certain about weigh much in a mean; see the medians.",
    "- A ratio says nothing about how much probability labels have at all: for that see the probability.",
    "- Correlations over prompts are no effects.",
]


if __name__ == "__main__":
    write()
