"""The needle over training seeds: what is collected, values and differences by seed, and the page from its records."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from analyses.needle_seeds import report, run
from diffmamba_interp.analysis.results import read_records, read_results, write_records, write_results
from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle import make_needle_samples
from diffmamba_interp.statistics import Estimate

SNR = {"mamba2": [[0, 1, 8, 20], [0, 8, 2, 30]], "diff-mamba2": [[0, 8, 9, 10], [8, 9, 7, -3]]}
"""dB by stage, of two prompts of two tasks."""


@pytest.fixture
def records() -> dict[str, np.ndarray]:
    """Two seeds of each model; the second seed of the differential one is 3 dB higher everywhere."""
    rows = [
        (model, seed, task, 0, *(np.array(snr) + 3 * (seed and model == "diff-mamba2")))
        for model, by_task in SNR.items()
        for seed in (0, 1)
        for task, snr in zip(("qa1", "qa2"), by_task, strict=True)
    ]
    names = ("model", "seed", "task", "length", *(f"snr_db_{stage}" for stage in range(4)))
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def test_measures_are_means_over_tasks_and_formation_is_where_snr_stays(records: dict[str, np.ndarray]) -> None:
    plain = report.of_run(records, "mamba2", 0, 0)
    assert plain["curve"].tolist() == [0.0, 4.5, 5.0, 25.0]
    assert plain["SNR over the inner stages"] == 4.75
    assert plain["SNR at the output"] == 25.0
    assert plain["median stage from which SNR stays above 7 dB"] == 2.5
    assert plain["median stage from which SNR stays above 10 dB"] == 3.0
    assert plain["SNR at the stage of formation (7 dB)"] == 19.0


def test_a_prompt_whose_answer_never_forms_has_no_snr_of_formation(records: dict[str, np.ndarray]) -> None:
    records["task"][:] = "qa1"
    of_run = report.of_run(records, "diff-mamba2", 0, 0)
    assert of_run["SNR at the stage of formation (7 dB)"] == 8.0
    assert of_run["median stage from which SNR stays above 7 dB"] == 2.5


def test_differences_are_the_differential_model_less_the_plain_one_of_the_same_seed(
    records: dict[str, np.ndarray],
) -> None:
    cell = report.of_length(records, 0)
    (difference,) = cell["difference"]["SNR at the output"]
    assert difference.value == pytest.approx(((3.5 - 25) + (6.5 - 25)) / 2)
    assert cell["runs"]["SNR at the output"] == {"mamba2": [25.0, 25.0], "diff-mamba2": [3.5, 6.5]}
    assert report.verdict(Estimate(-2.0, -3.0, -1.0)) == "higher in `mamba2`"
    assert report.verdict(Estimate(2.0, 1.0, 3.0)) == "higher in `diff-mamba2`"
    assert report.verdict(Estimate(2.0, -1.0, 3.0)) == "not told apart"


def test_runs_are_named_by_their_recipe_and_refused_unless_complete(tmp_path: Path) -> None:
    results = {"is_complete": True, "seed": 3, "step": 10, "recipe": {"model": {"config": {"differential": {}}}}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert run.named(tmp_path) == ("diff-mamba2", 3)
    (tmp_path / "results.json").write_text(json.dumps(results | {"recipe": {"model": {"config": {}}}}))
    assert run.named(tmp_path) == ("mamba2", 3)
    (tmp_path / "results.json").write_text(json.dumps(results | {"is_complete": False}))
    with pytest.raises(ValueError, match="stopped after step 10"):
        run.named(tmp_path)


def test_columns_hold_every_run_in_whole_db_and_seed_0_from_the_bundled_pairs_records(tmp_path: Path) -> None:
    samples = make_needle_samples(load_demo_tokenizer(), task="qa1", n=2, length=0)
    shipped = {"model": np.array(["mamba2", "mamba2", "diff-mamba2"]), "lens": np.array(["tuned", "logit", "tuned"])}
    shipped |= {"task": np.array(["qa1"] * 3), "length": np.zeros(3)}
    shipped |= {f"snr_db_{stage}": np.array([1.4, 99.0, 2.6]) for stage in range(2)}
    read = {(model, 1): np.full((2, 2), 7.6) for model in report.MODELS}
    write_records(tmp_path / "r.parquet", run.columns_of(read, samples, shipped))
    columns = read_records(tmp_path / "r.parquet")
    assert columns["seed"].tolist() == [0, 1, 1, 0, 1, 1]
    assert columns["snr_db_1"].tolist() == [1, 8, 8, 3, 8, 8]
    assert columns["model"].tolist() == ["mamba2"] * 3 + ["diff-mamba2"] * 3


def test_a_lens_loss_is_the_mean_over_inner_stages_of_each_lens_own_divergence(
    tmp_path: Path, project_root: Path
) -> None:
    kl = [(9.0, 90.0), (1.0, 10.0), (2.0, 40.0), (0.0, 0.0)]
    stages = [{"kl_nats": {"value": tuned}, "logit_lens_kl_nats": {"value": logit}} for tuned, logit in kl]
    (tmp_path / "metrics.json").write_text(json.dumps({"measurement": {"stages": stages}}))
    assert run.lens_losses(tmp_path) == {"tuned": 1.5, "logit": 25.0}
    shipped = read_results(project_root / "analyses" / "needle_seeds" / report.RESULTS)["lens_kl_nats"]
    for model in report.MODELS:
        losses = run.lens_losses(project_root / "lenses" / model / "pile")
        assert shipped[f"{model}, seed 0"] == pytest.approx(losses, abs=1e-3)


def test_the_page_and_results_are_those_of_the_shipped_records(tmp_path: Path, project_root: Path) -> None:
    shipped = project_root / "analyses" / "needle_seeds"
    shutil.copy(shipped / report.RECORDS, tmp_path)
    results = read_results(shipped / report.RESULTS)
    write_results(tmp_path / report.RESULTS, results["provenance"], {"lens_kl_nats": results["lens_kl_nats"]})
    report.write(tmp_path)
    for name in ("results.json", "README.md", "snr_db.svg"):
        assert (tmp_path / name).read_bytes() == (shipped / name).read_bytes(), name
