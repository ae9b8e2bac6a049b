"""When the answer forms, from the records of SNR; calibrated bits and linear probes, from those of measures.py.

    formation   needle.formation: SNR at or above 3, 7, 10 dB from a stage on, by the tuned lens
    bits        log2 K + log2 p(answer among the K labels), by the tuned lens calibrated on other prompts, and by probes
    probes      needle.probes: linear classifiers of the answer, beside those of shuffled answers

Intervals of formation are bootstraps over prompts, as those of SNR; of bits and probes over stories as told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis.page import table
from diffmamba_interp.analysis.results import N_RESAMPLES, Records, read_records
from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.drawing.panels import Drawing
from diffmamba_interp.figures.needle import group_name, probes_drawing, stages_drawing
from diffmamba_interp.needle.curves import Curve, Group, PairedCurve
from diffmamba_interp.needle.formation import (
    CRITERIA,
    Clearness,
    Criterion,
    Formation,
    FormationDifference,
    estimate_difference,
    estimate_formation,
    formation_table,
)
from diffmamba_interp.needle.probes import PROBE, SHUFFLED
from diffmamba_interp.needle.trajectory_records import Measure
from diffmamba_interp.stages import stage_names, stays_clear
from diffmamba_interp.statistics import Estimate, bootstrap, holm, paired_test

MODELS = ("mamba2", "diff-mamba2")
TUNED, SHOWN = "tuned", "7 dB"
THRESHOLDS_DB: dict[Criterion, float] = {"3 dB": 3.0, "7 dB": 7.0, "10 dB": 10.0}
MEASURES_FILE, MEASURES_MADE = "measures.parquet", "measures_made_with"
"""Records that measures.py makes, and what they were made with, in results.json."""

NO_BITS = -999
READINGS: tuple[Measure, ...] = ("is_right", "calibrated_bits")


def formation_of(snr_db: Mapping[str, np.ndarray], tasks: np.ndarray, group: Group) -> dict[str, list[dict[str, Any]]]:
    """Of one group, by the tuned lens: formations, differences, and the share formed by stage.

    snr_db: [prompt, stage] of each model; tasks: of the prompts. A group of one task has the criterion that is shown.
    """
    found: dict[str, list[dict[str, Any]]] = {"formations": [], "formation_differences": [], "curves": []}
    for criterion in (SHOWN,) if "task" in dict(group) else THRESHOLDS_DB:
        read = {m: Clearness(snr_db=db, is_clear=db >= THRESHOLDS_DB[criterion]) for m, db in snr_db.items()}
        about = {"lens": TUNED, "criterion": criterion, "group": group}
        for model, one in read.items():
            formed = estimate_formation(one, about={"model": model, **about}, n_resamples=N_RESAMPLES)
            found["formations"].append(formed.to_dict())
        names = {"baseline": MODELS[0], "model": MODELS[1]}
        pair = (read[model] for model in MODELS)
        difference = estimate_difference(*pair, tasks, about={**names, **about}, n_resamples=N_RESAMPLES)
        found["formation_differences"].append(difference.to_dict())
        if criterion == SHOWN and "task" not in dict(group):
            for model, one in read.items():
                interval = bootstrap(stays_clear(one.is_clear).astype(float), n_resamples=N_RESAMPLES)
                found["curves"].append(curve_of(interval, model, TUNED, CRITERIA[criterion], group))
    return found


def curve_of(interval: Any, model: str, lens: str, measure: Measure, group: Group) -> dict[str, Any]:
    """A curve as results.json holds it, without the stages that all share."""
    bounds: dict[str, Any] = {n: tuple(getattr(interval, n).tolist()) for n in ("value", "low", "high")}
    about: dict[str, Any] = {"model": model, "lens": lens, "measure": measure, "statistic": "mean", "group": group}
    values: dict[str, Any] = {**about, **bounds, "n": interval.n, "stages": stage_names(len(bounds["value"]) - 1)}
    curve: Curve = Curve(**values)
    if hasattr(interval, "p_value"):
        p: dict[str, Any] = {
            "p_value": tuple(interval.p_value.tolist()), "p_holm": tuple(holm(interval.p_value).tolist()),
        }  # fmt: skip
        curve = PairedCurve(baseline=MODELS[0], **p, **values)
    return {name: value for name, value in curve.to_dict().items() if name != "stages"}


def measures_of(folder: Path, groups: Sequence[Group]) -> dict[str, Any]:
    """Curves of bits and accuracy, and their differences; empty where measures.py has not been run."""
    path = folder / MEASURES_FILE
    if not path.exists():
        return {"measure_curves": [], "measure_differences": [], "measure_means": []}
    records = read_records(path)
    curves, differences, means = [], [], []
    for group in groups:
        for lens in (TUNED, PROBE, SHUFFLED):
            pair = [readings(records, model, lens, group) for model in MODELS]
            told = pair[0].pop("told").tolist()
            pair[1].pop("told")
            draws: dict[str, Any] = {"clusters": told, "n_resamples": N_RESAMPLES}
            for measure in pair[0]:
                if "task" not in dict(group):
                    for model, one in zip(MODELS, pair, strict=True):
                        curves.append(curve_of(bootstrap(one[measure], **draws), model, lens, measure, group))
                if lens == SHUFFLED:
                    continue
                a, b = (one[measure] for one in pair)
                if "task" not in dict(group):
                    tested = paired_test(a, b, **draws)
                    differences.append(curve_of(tested, MODELS[1], lens, measure, group))
                a, b = (np.stack([v[:, 1:-1].mean(axis=1), v[:, -1]], axis=1) for v in (a, b))
                difference = paired_test(a, b, **draws)
                for place, name in enumerate(("inner stages", "output")):
                    means.append({
                        "group": dict(group), "lens": lens, "measure": measure, "place": name, "n": len(a),
                        "values": [float(v[:, place].mean()) for v in (a, b)],
                        "difference": difference.estimates[place], "p_value": float(difference.p_value[place]),
                    })  # fmt: skip
    return {"measure_curves": curves, "measure_differences": differences, "measure_means": means}


def readings(records: Records, model: str, lens: str, group: Group) -> dict[Any, np.ndarray]:
    """Each measure, [prompt, stage], and which prompts were told as one story, in an order that all share."""
    chosen = (records["model"] == model) & (records["lens"] == lens)
    for key, value in group:
        chosen &= records[key] == (float(value) if key == "length" else value)
    places = np.flatnonzero(chosen)
    places = places[np.lexsort((records["story"][places], records["task"][places]))]
    n_stages = sum(name.startswith("on_top_") for name in records)

    def by_stage(name: str) -> np.ndarray:
        return np.stack([records[f"{name}_{stage}"][places] for stage in range(n_stages)], axis=1)

    found: dict[Any, np.ndarray] = {"is_right": by_stage("on_top"), "told": records["told"][places]}
    tenths = by_stage("tenth_bits")
    return found if (tenths == NO_BITS).all() else {**found, "calibrated_bits": tenths / 10}


def drawings(results: Mapping[str, Any], title: str) -> dict[str, Drawing]:
    """Share formed by stage; where there are records of them, bits and accuracy by lens and probes."""
    stages = {"stages": results["stages"]}
    formed = [Curve.from_dict(one | stages) for one in results["curves"] if one["measure"] == CRITERIA[SHOWN]]
    whole = [curve for curve in formed if "task" not in dict(curve.group)]
    drawn = {"formed": stages_drawing(whole, title=title)}
    curves = [Curve.from_dict(named(one) | stages) for one in results["measure_curves"]]
    differences = [PairedCurve.from_dict(named(one) | stages) for one in results["measure_differences"]]
    if curves:
        drawn["bits"] = probes_drawing(curves, measure="calibrated_bits", title=title)
        drawn["bits_difference"] = probes_drawing(differences, measure="calibrated_bits", title=title)
        drawn["probes"] = probes_drawing(curves, title=title)
    return drawn


def named(curve: Mapping[str, Any]) -> dict[str, Any]:
    """With the lens as a line's name has it."""
    return {**curve, "lens": f"{TUNED} lens"} if curve["lens"] == TUNED else dict(curve)


def finding(results: Mapping[str, Any]) -> list[str]:
    """When answers form, how clean they are there, what of the lead is timing; bits and probes at both places."""
    lines = []
    formations = [Formation.from_dict(one) for one in results["formations"]]
    for one in map(FormationDifference.from_dict, results["formation_differences"]):
        if "task" in dict(one.group) or one.criterion != SHOWN:
            continue
        first, second = (
            next(f for f in formations if (f.model, f.criterion, f.group) == (model, SHOWN, one.group))
            for model in MODELS
        )
        where = length_name(int(dict(one.group)["length"]))
        lines.append(
            f"The answer forms (SNR of 7 dB or more from there on, tuned lens) at {where} at the median stage "
            f"{second.median.text(0)} in `{second.model}` and {first.median.text(0)} in `{first.model}` (of 0 to "
            f"{first.n_stages - 1}), and never in {1 - second.share_formed.value:.0%} and "
            f"{1 - first.share_formed.value:.0%} of the prompts. At its own stage of formation the answer stands out "
            f"by {second.snr_db.value:.1f} and {first.snr_db.value:.1f} dB: {one.snr_db.text(1, signed=True)} dB over "
            f"the {one.n_both} prompts in which both form. {timing_text(one)}"
        )
    for one in results["measure_means"]:
        if "task" in one["group"] or (one["lens"], one["measure"]) == (TUNED, "is_right"):
            continue
        unit = "bits about the answer" if one["measure"] == "calibrated_bits" else "accuracy"
        how = "calibrated, tuned lens" if one["lens"] == TUNED else "linear probes"
        where = "the models' own output" if one["place"] == "output" and one["lens"] == TUNED else one["place"]
        first_value, second_value = one["values"]
        lines.append(
            f"{unit[0].upper()}{unit[1:]} ({how}), {where}, at {length_name(int(one['group']['length']))}: "
            f"{second_value:.2f} against {first_value:.2f}, {Estimate(*one['difference']).text(2, signed=True)} "
            f"(n = {one['n']})."
        )
    return lines


def timing_text(one: FormationDifference) -> str:
    """How much of the lead is timing, as either model's SNR by stage of formation is taken."""
    shares = sorted(part.value / one.inner_db.value for part in one.timing_db)
    each = " or ".join(part.text(1, signed=True) for part in one.timing_db)
    return (
        f"Of the lead over the inner stages, {one.inner_db.text(1, signed=True)} dB, timing is {each} dB, "
        f"{shares[0]:.0%} to {shares[1]:.0%}."
    )


def section(results: Mapping[str, Any]) -> list[str]:
    """Tables: formation by group, then bits and accuracy of lens and probes."""
    formations = [Formation.from_dict(one) for one in results["formations"]]
    differences = [FormationDifference.from_dict(one) for one in results["formation_differences"]]
    lines = ["", *formation_table(formations, differences), ""]
    if results["measure_means"]:
        heads = ("tasks, length", "n", "read by", "what", "where", *MODELS, "difference [95 % CI]", "p")
        rows = [
            (
                group_name(tuple(one["group"].items())), one["n"],
                "tuned lens" if one["lens"] == TUNED else one["lens"],
                "bits" if one["measure"] == "calibrated_bits" else "accuracy", one["place"],
                *(f"{value:.2f}" for value in one["values"]),
                Estimate(*one["difference"]).text(2, signed=True), f"{one['p_value']:.2g}",
            )
            for one in results["measure_means"]
        ]  # fmt: skip
        made = results[MEASURES_MADE]
        lines += [
            *table(heads, rows), "",
            f"Bits and probes: seed {made['seed']}, on {made['device']}, torch {made['versions']['torch']}.", "",
        ]  # fmt: skip
    return lines
