"""What the records say: curves by stage with intervals, paired differences, verdicts, and the relation to attention."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from analyses.needle_snr import relation
from diffmamba_interp.analysis.results import N_RESAMPLES, read_records, write_results
from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.needle.curves import Curve, Group, PairedCurve
from diffmamba_interp.needle.findings import judge
from diffmamba_interp.needle.trajectory_records import Measure
from diffmamba_interp.stages import stage_names
from diffmamba_interp.statistics import Interval, Statistic, bootstrap, holm, paired_test

BASELINE, MODEL = "mamba2", "diff-mamba2"
LENSES = ("tuned", "logit")
TEXT = ("model", "lens", "task", "story")
DRAWN: tuple[tuple[Measure, Statistic], ...] = (("snr_db", "mean"), ("snr_db", "median"), ("probability", "mean"))
COMPARED: tuple[tuple[Measure, Statistic], ...] = (("snr_db", "mean"), ("probability", "mean"))

Records = dict[str, np.ndarray]


def write(source: Path, folder: Path) -> None:
    """results.json in `folder` from the records in `source`, which are copied there with what they were made with."""
    if source != folder:
        for name in ("records.parquet", "made.json"):
            write_bytes(folder / name, (source / name).read_bytes())
    made = json.loads((folder / "made.json").read_text(encoding="utf-8"))
    records = read(folder / "records.parquet")
    found: dict[str, Any] = {"stages": stage_names(n_stages(records) - 1), **summarise(records)}
    found["attention"] = relation.found(records, relation.attention(made))
    write_results(folder / "results.json", made, found)


def read(path: Path) -> Records:
    return read_records(path)


def summarise(records: Records) -> dict[str, list[dict[str, Any]]]:
    """Of all tasks by length, then of each task: verdicts, curves and differences, as results.json holds them.

    The stages of a curve are the same for all, and named once beside them.
    """
    found: dict[str, list[dict[str, Any]]] = {"verdicts": [], "curves": [], "differences": []}
    for group in groups(records):
        for kind, more in of_group(records, group).items():
            found[kind] += more
    return found


def groups(records: Records) -> list[Group]:
    lengths = [str(int(length)) for length in sorted(set(records["length"].tolist()))]
    tasks = sorted(set(records["task"].tolist()))
    whole: list[Group] = [(("length", length),) for length in lengths]
    return [*whole, *((("task", task), ("length", length)) for task in tasks for length in lengths)]


def of_group(records: Records, group: Group) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {"verdicts": [], "curves": [], "differences": []}
    for lens in LENSES:
        first, second = (values_of(records, model, lens, group) for model in (BASELINE, MODEL))
        names = {"lens": lens, "group": group}
        for one in judge(first["snr_db"], second["snr_db"], names=(BASELINE, MODEL), n_resamples=N_RESAMPLES, **names):
            found["verdicts"].append(one.to_dict())
        for model, values in ((BASELINE, first), (MODEL, second)):
            for measure, statistic in DRAWN:
                interval = bootstrap(values[measure], statistic=statistic, n_resamples=N_RESAMPLES)
                own = {"model": model, "measure": measure, "statistic": statistic, **names, **numbers(interval)}
                found["curves"].append(without_stages(Curve(**own)))
        for measure, statistic in COMPARED:
            tested = paired_test(first[measure], second[measure], statistic=statistic, n_resamples=N_RESAMPLES)
            p_values = {"p_value": tuple(tested.p_value.tolist()), "p_holm": tuple(holm(tested.p_value).tolist())}
            own = {"model": MODEL, "baseline": BASELINE, "measure": measure, "statistic": statistic, **names}
            found["differences"].append(without_stages(PairedCurve(**own, **numbers(tested), **p_values)))
    return found


def without_stages(curve: Curve) -> dict[str, Any]:
    return {name: value for name, value in curve.to_dict().items() if name != "stages"}


def values_of(records: Records, model: str, lens: str, group: Group) -> dict[str, np.ndarray]:
    """Each measure, [prompt, stage], prompts in an order that both models share."""
    chosen = (records["model"] == model) & (records["lens"] == lens)
    for key, value in group:
        chosen &= records[key] == (float(value) if key == "length" else value)
    places = np.flatnonzero(chosen)
    places = places[np.lexsort((records["story"][places], records["task"][places]))]

    def by_stage(name: str) -> np.ndarray:
        return np.stack([records[f"{name}_{stage}"][places] for stage in range(n_stages(records))], axis=1)

    return {"snr_db": by_stage("snr_db"), "probability": np.exp(by_stage("log_p"))}


def n_stages(records: Records) -> int:
    return sum(name.startswith("snr_db_") for name in records)


def numbers(interval: Interval) -> dict[str, Any]:
    bounds: dict[str, Any] = {name: tuple(getattr(interval, name).tolist()) for name in ("value", "low", "high")}
    return {**bounds, "n": interval.n, "stages": stage_names(len(bounds["value"]) - 1)}
