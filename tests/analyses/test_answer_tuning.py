"""The pair fine-tuned on answers: what is learnt, what is read, and what the page makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analyses.answer_tuning import report, run
from diffmamba_interp.analysis.page import RECORDS
from diffmamba_interp.analysis.question import Asked
from diffmamba_interp.analysis.results import read_records, write_records

OPTIONS = run.QUESTION.options(jobs=1, device="cpu")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    recipe = run.QUESTION.recipe_of(OPTIONS)
    path = tmp_path_factory.mktemp("answer_tuning") / "material"
    run.prepare(recipe, OPTIONS, path)
    return Asked(recipe=recipe, options=OPTIONS, material=path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_unit_is_measured_as_shipped(asked: Asked) -> None:
    measured = run.measure(asked, "diff-mamba2", 1)
    shipped = read_records(run.QUESTION.folder / "builtin" / RECORDS)
    chosen = (shipped["model"] == "diff-mamba2") & (shipped["seed"] == 1)
    places = {
        key: place for place, key in enumerate(zip(measured["lens"], measured["task"], measured["story"], strict=True))
    }
    order = [
        places[key] for key in zip(*(shipped[name][chosen].tolist() for name in ("lens", "task", "story")), strict=True)
    ]
    assert len(order) == chosen.sum() == 2 * 5 * asked.recipe.n_prompts
    for name in measured:
        if name.startswith("snr"):
            # Whole dB: what lies near a half may be rounded either way.
            np.testing.assert_allclose(np.asarray(measured[name])[order], shipped[name][chosen], atol=1)


def test_training_and_prompts_share_no_story(asked: Asked) -> None:
    held = run.read_material(asked)
    assert held["babi"].size == 0
    assert held["tokens"].dtype == np.uint16
    with pytest.raises(ValueError, match="prepare it again"):
        run.read_material(replace(asked, recipe=replace(asked.recipe, steps=3)))
    units = run.units(asked, ["mamba2", "diff-mamba2"])
    assert units == [("mamba2", 0), ("diff-mamba2", 0), ("mamba2", 1), ("diff-mamba2", 1)]


def test_differences_are_over_seeds_and_over_prompts(tmp_path: Path) -> None:
    """Mamba-2 has 1 dB at every stage, Diff-Mamba-2 with seed k 1 + k dB more, and 10 dB more at the output."""
    rows: dict[str, list] = {name: [] for name in ("model", "seed", "lens", "task", "story", "is_right")}
    rows |= {name: [] for name in ("snr_db_before", *(f"snr_db_{stage}" for stage in range(4)))}
    for lens in ("tuned", "logit"):
        for model in (report.FIRST, report.SECOND):
            for seed in (0, 1, 2):
                gain = (1 + seed) * (model == report.SECOND)
                for prompt in range(12):
                    line = {"model": model, "seed": seed, "lens": lens, "task": "qa1", "story": str(prompt)}
                    line |= {"is_right": int(prompt < 6 + 2 * (model == report.SECOND)), "snr_db_before": 5}
                    line |= {f"snr_db_{stage}": 1 + gain + (10 * (stage == 3 and gain > 0)) for stage in range(4)}
                    for name, value in line.items():
                        rows[name].append(value)
    write_records(tmp_path / RECORDS, rows, decimals=0)
    results = report.summarise(tmp_path, {})
    made = results["lenses"]["tuned"]
    inner = made["measures"][report.MEANS[1]]["difference"]
    # 1, 2, 3 dB: the mean and t(2, 97.5 %) = 4.3027 standard errors of 1 / sqrt(3).
    assert inner.value == pytest.approx(2.0)
    assert inner.high - inner.value == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert made["measures"][report.MEANS[2]]["difference"].value == pytest.approx(12.0)
    assert made["measures"][report.BEFORE]["difference"].value == 0
    assert made["measures"]["accuracy"]["over_prompts"].value == pytest.approx(2 / 12)
    assert (made["n"], results["seeds"], len(made["stages"])) == (12, [0, 1, 2], 4)
    assert [stage["difference"].value for stage in made["stages"]] == pytest.approx([2.0, 2.0, 2.0, 12.0])
    drawn = report.figures(results, "title")["snr_db"]
    assert [panel.title for panel in drawn.panels] == ["tuned lens", "logit lens"]
