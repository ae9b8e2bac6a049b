"""The training analysis: its curves on records whose values are known, and its page from the shipped ones."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from analyses.training import report, run
from analyses.training.records import Records, read_runs
from diffmamba_interp.analysis.results import read_results
from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.lm_training.stage_readings import StageReading, keep_prompts
from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle import NeedleSample, make_needle_samples

MAX_BYTES = 450_000
STEPS = (0, 10, 20)
N_STAGES = 4


@pytest.fixture(scope="module")
def samples() -> list[NeedleSample]:
    tokenizer = load_demo_tokenizer()
    return [one for task in ("qa1", "qa4") for one in make_needle_samples(tokenizer, task=task, n=2, length=0)]


def reading(samples: list[NeedleSample], step: int, gap: float, *, is_differential: bool) -> StageReading:
    """The answer `gap` nats above all distractors from stage 2 on, and below them before."""
    log_probs = np.full((len(samples), N_STAGES, 6), -5.0, np.float32)
    for row, sample in enumerate(samples):
        log_probs[row, :, sample.labels.index(sample.answer)] += np.array([-1.0, -1.0, gap, gap])
    value = 0.5 if is_differential else np.nan
    return StageReading(
        step=step,
        log_probs=log_probs,
        branch_cosine=np.full((len(samples), 3), value, np.float32),
        lambda_=np.full(3, value, np.float32),
        bits_per_byte={"pile": 3.0 - step / 10 - (0.1 if is_differential else 0.0)},
    )


@pytest.fixture
def records(samples: list[NeedleSample]) -> Records:
    readings = {}
    for model, late in (("mamba2", 1.0), ("diff-mamba2", 3.0)):
        for seed in (1, 2):
            gaps = (-1.0, -1.0 if model == "mamba2" else 1.0 + seed, late + seed)
            readings[(model, seed)] = [
                reading(samples, step, gap, is_differential=model != "mamba2")
                for step, gap in zip(STEPS, gaps, strict=True)
            ]
        readings[(model, 0)] = [reading(samples, STEPS[-1], 2.0, is_differential=model != "mamba2")]
    return Records.of(readings, samples)


def test_records_come_back_as_they_were_with_what_was_not_read_still_missing(records: Records, tmp_path: Path) -> None:
    records.save(tmp_path / "records")
    back = Records.load(tmp_path / "records")
    for field in dataclasses.fields(Records):
        values = (getattr(one, field.name) for one in (records, back))
        np.testing.assert_array_equal(*values, err_msg=field.name)
    shipped = records.runs.index(("mamba2", 0))
    assert np.isnan(back.snr_db[shipped, :2]).all()
    assert np.isfinite(back.snr_db[shipped, 2]).all()


def test_snr_is_the_answers_gap_in_db_and_top_is_where_it_is_above(records: Records) -> None:
    row = records.runs.index(("diff-mamba2", 1))
    expected = np.round(np.array([-1.0, -1.0, 4.0, 4.0]) * 10 / np.log(10))
    np.testing.assert_array_equal(records.snr_db[row, 2], np.tile(expected, (len(records.tasks), 1)))
    assert records.is_top[row, 2].tolist() == [[False, False, True, True]] * len(records.tasks)


def test_curves_and_differences_are_those_of_each_seed(records: Records) -> None:
    own = report.measures(records, 0)
    by_run = dict(zip(records.runs, own["accuracy"].tolist(), strict=True))
    assert by_run[("mamba2", 1)] == [0.0, 0.0, 1.0]
    assert by_run[("diff-mamba2", 1)] == [0.0, 1.0, 1.0]
    assert own["7 dB"][records.runs.index(("mamba2", 1))].tolist() == [N_STAGES, N_STAGES, 2]
    assert report.differences(records, own["accuracy"], 10) == [1.0, 1.0]
    # After the last step seed 0 takes part.
    assert report.differences(records, own["accuracy"], 20) == [0.0, 0.0, 0.0]
    found = report.results(records)["lengths"]["0"]
    assert found["step_of_accuracy"]["0.5"] == {"mamba2": [15.0, 15.0], "diff-mamba2": [5.0, 5.0]}


def test_a_level_is_passed_on_the_line_between_two_readings_and_never_where_it_is_not_reached() -> None:
    passed = report.passes([0, 10, 30], [0.0, 0.4, 0.8], [0.0, 0.2, 0.6, 0.9])
    assert passed[:3] == pytest.approx([0.0, 5.0, 20.0])
    assert np.isnan(passed[3])


def test_runs_are_read_from_their_folders_and_refused_if_their_prompts_differ(
    samples: list[NeedleSample], tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder, config in zip(folders, ({}, {"differential": {}}), strict=True):
        reading(samples, 3, 1.0, is_differential=bool(config)).save(folder)
        keep_prompts(folder, samples)
        made = {"is_complete": True, "step": 3, "seed": 7, "recipe": {"model": {"config": config}}}
        (folder / "results.json").write_text(json.dumps(made))
    readings, back = read_runs(folders)
    assert list(readings) == [("mamba2", 7), ("diff-mamba2", 7)]
    assert [sample.prompt for sample in back] == [sample.prompt for sample in samples]
    with pytest.raises(ValueError, match="give both models of each seed, once"):
        read_runs(folders[:1])
    keep_prompts(folders[1], samples[:1])
    with pytest.raises(ValueError, match="other prompts"):
        read_runs(folders)
    (folders[0] / "results.json").write_text(json.dumps({"is_complete": False, "step": 2}))
    with pytest.raises(ValueError, match="stopped after step 2"):
        read_runs(folders)


def test_the_page_and_results_are_what_the_shipped_records_give(tmp_path: Path) -> None:
    (tmp_path / run.RECORDS.name).write_bytes(run.RECORDS.read_bytes())
    report.write(tmp_path)
    assert read_results(tmp_path / "results.json") == read_results(run.HERE / "results.json")
    for name in ("README.md", "accuracy.svg", "output_snr.svg", "formation.svg", "lambda.svg"):
        assert (tmp_path / name).read_text() == (run.HERE / name).read_text(), name
    assert read_results(run.HERE / "results.json")["provenance"]["records"] == file_sha256(run.RECORDS)
    assert run.RECORDS.stat().st_size < MAX_BYTES


def test_the_shipped_records_hold_five_seeds_of_both_models_on_the_same_prompts() -> None:
    records = Records.load(run.RECORDS)
    assert set(records.runs) == {(model, seed) for model in (report.FIRST, report.SECOND) for seed in range(5)}
    assert {task: records.tasks.count(task) for task in set(records.tasks)} == {f"qa{i}": 90 for i in range(1, 6)}
    assert {length: records.lengths.count(length) for length in set(records.lengths)} == {0: 300, 1024: 150}
    trained = [records.runs.index((model, seed)) for model in (report.FIRST, report.SECOND) for seed in range(1, 5)]
    assert np.isfinite(records.snr_db[trained]).all()


def test_a_thinned_log_keeps_every_two_hundredth_step_and_the_evaluation(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": 1.0} for step in range(50, 450, 50)] + [{"step": 430, "accuracy/x": 0.5}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    kept = [json.loads(line)["step"] for line in run.thinned(tmp_path / "log.jsonl").splitlines()]
    assert kept == [200, 400, 430]
