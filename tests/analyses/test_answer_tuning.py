"""The pair fine-tuned on answers: what is learnt, what is read, and what the page makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analyses.answer_tuning import report, run
from diffmamba_interp import HookedMamba, TunedLens
from diffmamba_interp.analysis.page import RECORDS
from diffmamba_interp.analysis.question import Asked
from diffmamba_interp.analysis.results import read_records, write_records
from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle.records import load_samples
from diffmamba_interp.needle.scoring import score_labels
from diffmamba_interp.text.documents import split_of_hash

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
    prompts, stages = measured["records"], measured["stages"]
    shipped = read_records(run.QUESTION.folder / "builtin" / RECORDS)
    chosen = (shipped["model"] == "diff-mamba2") & (shipped["seed"] == 1)
    places = {key: place for place, key in enumerate(zip(prompts["task"], prompts["story"], strict=True))}
    order = [places[key] for key in zip(*(shipped[name][chosen].tolist() for name in ("task", "story")), strict=True)]
    assert len(order) == chosen.sum() == 5 * asked.recipe.n_prompts
    for name in prompts:
        if name.startswith("snr"):
            # Both were rounded when they were first kept, to whole dB.
            np.testing.assert_allclose(np.asarray(prompts[name])[order], shipped[name][chosen], atol=1)
    kept = read_records(run.QUESTION.folder / "builtin" / report.STAGE_RECORDS)
    of_run = (kept["model"] == "diff-mamba2") & (kept["seed"] == 1)
    lines = [stages["lens"].index(lens) for lens in kept["lens"][of_run]]
    assert sorted(lines) == [0, 1]
    for name in stages.keys() - {"model", "seed", "lens"}:
        np.testing.assert_allclose(np.asarray(stages[name])[lines], kept[name][of_run], atol=0.6)


def test_the_lens_is_of_the_tuned_model_and_the_inner_stages_are_read_through_it(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    models = []

    def fine_tuned(recipe: run.Recipe, name: str, seed: int, babi: None, folder: Path, model: HookedMamba, **_: str):
        told.append("tuned")
        with torch.no_grad():
            # What the last block says is turned round, so that the output answers otherwise than the stage before.
            model.blocks[-1].mixer.out_proj.weight.mul_(-30)
        return model

    def trained_lens(recipe: run.Recipe, model: HookedMamba, tokens: np.ndarray, seed: int) -> TunedLens:
        told.append("lens")
        models.append(model)
        torch.manual_seed(seed)
        lens = TunedLens.from_model(model)
        for weight in lens.parameters():
            weight.data += 0.05 * torch.randn_like(weight)
        return lens

    monkeypatch.setattr(run, "fine_tuned", fine_tuned)
    monkeypatch.setattr(run, "trained_lens", trained_lens)
    measured = run.measure(asked, "mamba2", 0)
    assert told == ["tuned", "lens"]
    prompts, stages = measured["records"], measured["stages"]
    inner = {
        lens: np.mean([stages[f"snr_db_{stage}"][place] for stage in range(1, 12)])
        for place, lens in enumerate(stages["lens"])
    }
    assert np.mean(prompts["snr_db_inner"]) == pytest.approx(inner["tuned"], abs=1e-3)
    assert abs(inner["tuned"] - inner["logit"]) > 0.1
    assert np.mean(prompts["snr_db_output"]) == pytest.approx(stages["snr_db_12"][0], abs=1e-3)
    (tmp_path / "prompts.xz").write_bytes(run.read_material(asked)["prompts"].tobytes())
    samples, _ = load_samples(tmp_path / "prompts.xz", load_demo_tokenizer())
    right = [int(score.is_right) for score in score_labels(models[0], samples)]
    assert prompts["is_right"].tolist() == right
    assert abs(np.mean(prompts["snr_db_before"]) - np.mean(prompts["snr_db_output"])) > 0.1


def test_prompts_are_held_out_stories_and_a_material_is_of_its_recipe(asked: Asked, tmp_path: Path) -> None:
    held = run.read_material(asked)
    assert held["babi"].size == 0
    assert held["tokens"].dtype == np.uint16
    (tmp_path / "prompts.xz").write_bytes(held["prompts"].tobytes())
    samples, _ = load_samples(tmp_path / "prompts.xz", load_demo_tokenizer())
    assert {split_of_hash(sample.story_hash) for sample in samples} == {"eval"}
    with pytest.raises(ValueError, match="prepare it again"):
        run.read_material(replace(asked, recipe=replace(asked.recipe, steps=3)))
    units = run.units(asked, ["mamba2", "diff-mamba2"])
    assert units == [("mamba2", 0), ("diff-mamba2", 0), ("mamba2", 1), ("diff-mamba2", 1)]


def test_differences_are_over_seeds_and_over_prompts(tmp_path: Path) -> None:
    """Mamba-2 with seed k has 1 + k dB at every stage, Diff-Mamba-2 1 + k dB more, and 10 dB more at the output."""
    prompts: dict[str, list] = {name: [] for name in ("model", "seed", "task", "story", *report.MEASURES.values())}
    stages: dict[str, list] = {name: [] for name in ("model", "seed", "lens", *(f"snr_db_{k}" for k in range(4)))}
    for model in (report.FIRST, report.SECOND):
        for seed in (0, 1, 2):
            gain = (1 + seed) * (model == report.SECOND)
            for prompt in range(12):
                line = {"model": model, "seed": seed, "task": "qa1" if prompt < 6 else "qa2", "story": str(prompt)}
                line |= {"is_right": int(prompt < 6 + 2 * (model == report.SECOND)), "snr_db_before": 5}
                line |= {"snr_db_inner": 1 + seed + gain, "snr_db_output": 1 + seed + gain + 10 * (gain > 0)}
                for name, value in line.items():
                    prompts[name].append(value)
            for lens, factor in (("tuned", 1), ("logit", 2)):
                snr = {
                    f"snr_db_{stage}": factor * (1 + seed + gain + 10 * (stage == 3 and gain > 0)) for stage in range(4)
                }
                for name, value in ({"model": model, "seed": seed, "lens": lens} | snr).items():
                    stages[name].append(value)
    order = np.random.default_rng(0).permutation(len(prompts["story"]))
    shuffled = {name: [column[place] for place in order] for name, column in prompts.items()}
    write_records(tmp_path / RECORDS, shuffled, decimals=1)
    write_records(tmp_path / report.STAGE_RECORDS, stages, decimals=2)
    results = report.summarise(tmp_path, {})
    measures = results["measures"]
    inner = measures["SNR over the inner stages"]["difference"]
    # 1, 2, 3 dB: the mean and t(2, 97.5 %) = 4.3027 standard errors of 1 / sqrt(3).
    assert inner.value == pytest.approx(2.0)
    assert inner.high - inner.value == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert measures["SNR at the output"]["difference"].value == pytest.approx(12.0)
    assert "difference" not in measures[report.BEFORE]
    assert measures[report.BEFORE]["over_prompts"].value == 0
    assert measures["accuracy"]["over_prompts"].value == pytest.approx(2 / 12)
    # Mamba-2 answers no prompt that Diff-Mamba-2 does not.
    assert measures["accuracy"]["over_prompts"].low >= 0
    assert (results["n"], results["seeds"], len(results["lenses"]["tuned"])) == (12, [0, 1, 2], 4)
    assert list(results["tasks"]) == ["qa1", "qa2"]
    assert results["tasks"]["qa2"]["accuracy"]["difference"].value == pytest.approx(2 / 6)
    assert results["tasks"]["qa1"]["accuracy"]["over_prompts"].value == 0
    assert results["lenses"]["tuned"][0]["difference"].value == pytest.approx(2.0)
    assert results["lenses"]["logit"][0]["difference"].value == pytest.approx(4.0)
    assert results["lenses"]["logit"][3][report.SECOND] == [24.0, 28.0, 32.0]
