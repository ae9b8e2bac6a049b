"""What the records of the signal-to-noise analysis say, in results.json, figures and README.md: curves by stage with
intervals, paired differences, verdicts, and the relation to attention.

    python analyses/needle_snr/report.py      figures and README.md alone, from results.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analyses.needle_snr import relation, stages
from diffmamba_interp.analysis.page import RECORDS, Page, Results, made_with, points, text
from diffmamba_interp.analysis.results import N_RESAMPLES, Records, estimate_from, read_records
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.panels import Drawing, minus
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.figures.needle import stages_drawing
from diffmamba_interp.needle.curves import Curve, Group, PairedCurve
from diffmamba_interp.needle.findings import Verdict, judge, verdict_table
from diffmamba_interp.needle.trajectory_records import Measure
from diffmamba_interp.stages import stage_names
from diffmamba_interp.statistics import Interval, Statistic, bootstrap, holm, paired_test

BASELINE, MODEL = "mamba2", "diff-mamba2"
LENSES = ("tuned", "logit")
DRAWN: tuple[tuple[Measure, Statistic], ...] = (("snr_db", "mean"), ("snr_db", "median"), ("probability", "mean"))
COMPARED: tuple[tuple[Measure, Statistic], ...] = (("snr_db", "mean"), ("probability", "mean"))


def summarise(folder: Path, results: Results) -> dict[str, Any]:
    """Of all tasks by length, then of each task: verdicts, curves, differences and when answers form; the relation to
    attention; and what measures.py has measured.

    The stages of a curve are the same for all, and named once beside them.
    """
    records = read_records(folder / RECORDS)
    kinds = ("verdicts", "curves", "differences", "formations", "formation_differences")
    by_kind: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for group in groups(records):
        snr_db = {model: values_of(records, model, LENSES[0], group)["snr_db"] for model in (BASELINE, MODEL)}
        formed = stages.formation_of(snr_db, tasks_of(records, group), group)
        for kind, more in [*of_group(records, group).items(), *formed.items()]:
            by_kind[kind] += more
    attention = relation.lines_of(records, relation.attention(results["provenance"]))
    made = {name: results[name] for name in (stages.MEASURES_MADE,) if name in results}
    measures = stages.measures_of(folder, groups(records))
    names = {"stages": stage_names(n_stages(records) - 1)}
    return {**names, **by_kind, "attention": attention, **measures, **made}


def groups(records: Records) -> list[Group]:
    lengths = [str(int(length)) for length in sorted(set(records["length"].tolist()))]
    tasks = sorted(set(records["task"].tolist()))
    whole: list[Group] = [(("length", length),) for length in lengths]
    return [*whole, *((("task", task), ("length", length)) for task in tasks for length in lengths)]


def of_group(records: Records, group: Group) -> dict[str, list[dict[str, Any]]]:
    by_kind: dict[str, list[dict[str, Any]]] = {"verdicts": [], "curves": [], "differences": []}
    for lens in LENSES:
        first, second = (values_of(records, model, lens, group) for model in (BASELINE, MODEL))
        names = {"lens": lens, "group": group}
        for one in judge(first["snr_db"], second["snr_db"], names=(BASELINE, MODEL), n_resamples=N_RESAMPLES, **names):
            by_kind["verdicts"].append(one.to_dict())
        for model, values in ((BASELINE, first), (MODEL, second)):
            for measure, statistic in DRAWN:
                interval = bootstrap(values[measure], statistic=statistic, n_resamples=N_RESAMPLES)
                about = {"model": model, "measure": measure, "statistic": statistic, **names, **numbers(interval)}
                by_kind["curves"].append(without_stages(Curve(**about)))
        for measure, statistic in COMPARED:
            tested = paired_test(first[measure], second[measure], statistic=statistic, n_resamples=N_RESAMPLES)
            p_values = {"p_value": tuple(tested.p_value.tolist()), "p_holm": tuple(holm(tested.p_value).tolist())}
            about = {"model": MODEL, "baseline": BASELINE, "measure": measure, "statistic": statistic, **names}
            by_kind["differences"].append(without_stages(PairedCurve(**about, **numbers(tested), **p_values)))
    return by_kind


def without_stages(curve: Curve) -> dict[str, Any]:
    return {name: value for name, value in curve.to_dict().items() if name != "stages"}


def values_of(records: Records, model: str, lens: str, group: Group) -> dict[str, np.ndarray]:
    """Each measure, [prompt, stage], prompts in an order that both models share."""
    places = places_of(records, model, lens, group)

    def by_stage(name: str) -> np.ndarray:
        return np.stack([records[f"{name}_{stage}"][places] for stage in range(n_stages(records))], axis=1)

    return {"snr_db": by_stage("snr_db"), "probability": np.exp(by_stage("log_p"))}


def tasks_of(records: Records, group: Group) -> np.ndarray:
    """Of the prompts in the order of `values_of`."""
    return records["task"][places_of(records, BASELINE, LENSES[0], group)]


def places_of(records: Records, model: str, lens: str, group: Group) -> np.ndarray:
    """Lines of the prompts, in an order that both models share."""
    chosen = (records["model"] == model) & (records["lens"] == lens)
    for key, value in group:
        chosen &= records[key] == (float(value) if key == "length" else value)
    places = np.flatnonzero(chosen)
    return places[np.lexsort((records["story"][places], records["task"][places]))]


def n_stages(records: Records) -> int:
    return sum(name.startswith("snr_db_") for name in records)


def numbers(interval: Interval) -> dict[str, Any]:
    bounds: dict[str, Any] = {name: tuple(getattr(interval, name).tolist()) for name in ("value", "low", "high")}
    return {**bounds, "n": interval.n, "stages": stage_names(len(bounds["value"]) - 1)}


def figures(results: Results, title: str) -> dict[str, Drawing]:
    """Every figure by its name. Fig. 5 of the paper: `probability` and `probability_log`."""
    of_stages = {"stages": results["stages"]}
    curves = [Curve.from_dict(values | of_stages) for values in results["curves"]]
    paired = [PairedCurve.from_dict(values | of_stages) for values in results["differences"]]
    drawn = {}
    for measure in ("snr_db", "probability"):
        means = [curve for curve in curves if (curve.measure, curve.statistic) == (measure, "mean")]
        whole = [curve for curve in means if "task" not in dict(curve.group)]
        tasks = [curve for curve in means if "task" in dict(curve.group) and curve.lens == LENSES[0]]
        drawn[f"{measure}"] = stages_drawing(whole, title=title)
        drawn[f"{measure}_by_task"] = stages_drawing(tasks, title=f"{title}, {LENSES[0]} lens")
        if measure == "probability":
            drawn["probability_log"] = stages_drawing(whole, title=title, log=True)
    whole_paired = [curve for curve in paired if curve.measure == "snr_db" and "task" not in dict(curve.group)]
    drawn["difference"] = stages_drawing(whole_paired, title=f"{title}: {minus(MODEL, BASELINE)}")
    drawn |= stages.drawings(results, title)
    if results["attention"]:
        drawn["attention"] = relation_drawing(results["attention"], title)
    return drawn


def relation_drawing(lines: Sequence[dict[str, Any]], title: str) -> Drawing:
    panels = []
    for kind, words in (("after", "lens SNR after the block"), ("gain", "what the block adds")):
        for length in sorted({line["length"] for line in lines}):
            of_length = [line for line in lines if line["length"] == length]
            curves = {line["model"]: points(line[kind]) for line in of_length}
            ticks = [str(block) for block in range(len(of_length[0][kind]))]
            panels.append(Curves(title=f"{words}, {length_name(length)}", ticks=ticks, points=curves))
    return curves_drawing(panels, title=title, x_axis="block", y_axis="rank correlation with attention SNR")


def finding(results: Results, title: str) -> list[str]:
    judged = [Verdict.from_dict(values) for values in results["verdicts"]]
    whole = [one for one in judged if "task" not in dict(one.group)]
    lines = [f"{title}, all tasks together, the differential model less the plain one: {headline(whole)}", ""]
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
    said = [*stages.finding(results), *about_attention(results["attention"])]
    return [*lines, *(f"- {line}" for line in said), ""]


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
    said = []
    for line in lines:
        signs = [estimate_from(one).sign(line["n"]) for one in line["gain"]]
        said.append(
            f"`{line['model']}` at {length_name(line['length'])} (n = {line['n']}): rank correlation of a prompt's "
            f"mean attention SNR with the SNR of the output {text(line['output'], 2, signed=True)}. Blocks that add "
            f"more to the lens SNR where their attention SNR is higher: {signs.count(1)} of {len(signs)}; that add "
            f"less: {signs.count(-1)}."
        )
    return said


def section(results: Results) -> list[str]:
    judged = [Verdict.from_dict(values) for values in results["verdicts"]]
    verdicts = verdict_table([one for one in judged if one.lens == LENSES[0]])
    return [*verdicts, *stages.section(results), made_with(results), ""]


PAGE = Page(folder=Path(__file__).parent, summarise=summarise, figures=figures, finding=finding, section=section)


if __name__ == "__main__":
    PAGE.write()
