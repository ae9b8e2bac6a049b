"""Prompts are read under conditions, and what was read is aligned by prompt."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffmamba_interp import LogitLens, load_demo
from diffmamba_interp.analysis.conditions import (
    CLEAN,
    Condition,
    Key,
    Readings,
    changes,
    estimates,
    lens_blocks,
    read_prompts,
)
from diffmamba_interp.analysis.page import ALL
from diffmamba_interp.analysis.prompts import PromptRecipe, cell_prompts, keep_lines
from diffmamba_interp.analysis.question import joined
from diffmamba_interp.analysis.results import read_records, write_records
from diffmamba_interp.interventions import SetLambda
from diffmamba_interp.needle import NeedleSample
from diffmamba_interp.needle.scoring import score_labels


@pytest.fixture(scope="module")
def samples() -> list[NeedleSample]:
    recipe = PromptRecipe(stories="generated", lengths=(0,), n=(3,), seed=7)
    return cell_prompts(recipe, Path(), "qa1", 0)


@pytest.fixture(scope="module")
def records(samples: list[NeedleSample]) -> dict[str, np.ndarray]:
    model, _ = load_demo("diff-mamba2")
    lens = LogitLens.from_model(model)
    conditions = [
        Condition(kind=CLEAN),
        Condition(kind="lambda", dose=0.0, interventions=(SetLambda(value=0.0),)),
        Condition(kind="lambda", where="3", dose=0.0, interventions=(SetLambda(value=0.0, blocks=3),)),
    ]
    parts = [read_prompts(model, lens, samples, condition, name="m") for condition in conditions]
    tables = [{name: np.asarray(column) for name, column in part.items()} for part in parts]
    return joined({(place,): {"records": table} for place, table in enumerate(tables)})


def test_a_clean_reading_is_that_of_score_labels(
    samples: list[NeedleSample], records: dict[str, np.ndarray], tmp_path: Path
) -> None:
    model, _ = load_demo("diff-mamba2")
    write_records(tmp_path / "records.parquet", records, decimals=6)
    readings = Readings.read(tmp_path / "records.parquet")
    found = readings.of(Key("m", CLEAN), "qa1", 0, ("right", "log_prob", "share"))
    by_story = dict(zip(readings.stories(Key("m", CLEAN), "qa1", 0), found, strict=True))
    for sample, score in zip(samples, score_labels(model, samples), strict=True):
        right, log_prob, share = by_story[f"qa1 {sample.story_key}"]
        assert right == score.is_right
        assert log_prob == pytest.approx(score.log_probs[score.answer], abs=1e-4)
        assert share == pytest.approx(score.probability, abs=1e-4)


def test_a_condition_changes_what_is_read_and_none_outlives_it(records: dict[str, np.ndarray]) -> None:
    readings = Readings(records)
    clean, all_blocks, one_block = (
        readings.of(key, ALL, 0, ("snr_db",))
        for key in (Key("m", CLEAN), Key("m", "lambda", ALL), Key("m", "lambda", "3"))
    )
    assert np.abs(all_blocks - clean).max() > 1
    assert not np.array_equal(one_block, clean)
    assert not np.array_equal(one_block, all_blocks)


def test_one_block_alone_keeps_no_lens_readings_and_all_blocks_do(records: dict[str, np.ndarray]) -> None:
    alone = records["where"] != ALL
    for block in lens_blocks(12):
        assert np.array_equal(np.isnan(records[f"snr_db_{block}"]), alone)
    assert np.array_equal(np.isnan(records["log_prob"]), alone)


def test_prompts_without_text_are_read_as_with_it(samples: list[NeedleSample]) -> None:
    model, _ = load_demo("diff-mamba2")
    lens = LogitLens.from_model(model)
    with_text, without = (
        read_prompts(model, lens, own, Condition(kind=CLEAN), name="m")
        for own in (samples, [replace(sample, prompt="") for sample in samples])
    )
    assert with_text["story"] == without["story"]
    assert with_text["snr_db"] == pytest.approx(without["snr_db"])


def test_a_cell_that_was_not_measured_is_named(records: dict[str, np.ndarray]) -> None:
    with pytest.raises(KeyError, match=r"was not measured on qa1 at length 0"):
        Readings(records).of(Key("m", "lambda", "7"), "qa1", 0, ("right",))


def test_changes_are_paired() -> None:
    before = np.array([[1.0], [100.0], [-50.0]])
    (change,), (p,) = changes(before, before + 2.0)
    assert (change.value, change.low, change.high) == pytest.approx((2.0, 2.0, 2.0))
    assert p == pytest.approx(0.25)
    (value,) = estimates(before)
    assert value.value == pytest.approx(17.0)
    assert value.low < 17.0 < value.high


def test_many_records_keep_ratios_in_whole_decibels(tmp_path: Path) -> None:
    key = {"dose": 0.0, "where": "all", "kind": CLEAN, "model": "m", "story": "a", "task": "qa1", "length": 0}
    line = {
        name: np.array([value])
        for name, value in (key | {"snr_db": 3.26, "snr_db_3": 3.26, "log_prob": -1.263}).items()
    }
    recipe = PromptRecipe(stories="babi", lengths=(0,), n=(1,), seed=7)
    keep_lines(tmp_path, recipe, {("m", "qa1", 0): {"records": line}}, snr_decimals=(4, 0))
    kept = read_records(tmp_path / "records.parquet")
    assert [kept[name].tolist() for name in ("snr_db", "snr_db_3", "log_prob")] == [[3.0], [3.0], [-1.26]]


def test_the_share_among_the_labels_follows_from_the_ratio() -> None:
    lines = {"model": ["m"], "kind": [CLEAN], "where": ["all"], "dose": [np.nan], "task": ["qa1"], "length": [0]}
    lines |= {"story": ["s"], "n_labels": [5], "right": [1], "log_prob": [np.log(0.4)], "snr_db": [10 * np.log10(4)]}
    # p(answer) = 0.4, four distractors of 0.1 each.
    readings = Readings({name: np.array(column) for name, column in lines.items()})
    assert readings.of(Key("m", CLEAN), "qa1", 0, ("share",))[0, 0] == pytest.approx(0.5)
