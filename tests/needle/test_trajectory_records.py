"""Trajectories survive the way to rows and files, can be cut and joined, and refuse what does not belong together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffmamba_interp.needle.trajectory_records import (
    ARRAYS,
    MEASURES,
    NeedleTrajectory,
    ReadSample,
    from_records,
    save_trajectory,
    to_records,
)
from tests.needle.closed_form import sample_of


def trajectory(dtype: str = "float32", lenses: tuple[str, ...] = ("tuned", "logit")) -> NeedleTrajectory:
    """Three prompts, one with two labels and two with three, asked for at all kinds of depth."""
    samples = [
        sample_of([1, 2, 3], [(1,), (2, 5)], depth=0.25),
        replace(sample_of([4, 2], [(1,), (2,), (3,)], answer=2, length=64), depth=(0.1, 0.5)),
        sample_of([5], [(1,), (2,), (3,)], task="qa2", seed=3),
    ]
    rng, shape = np.random.default_rng(0), (len(lenses), 3, 4)
    by_label = {name: rng.normal(-3, 1, (*shape, 3)).astype(dtype) for name in ("log_probs", "token_ranks")}
    for array in by_label.values():
        array[:, 0, :, 2] = np.nan
    return NeedleTrajectory(
        model="a|b",
        lenses=lenses,
        stages=("embedding", "after block 0", "after block 1", "output"),
        samples=tuple(map(ReadSample.of, samples)),
        **by_label,
        entropy_nats=rng.random(shape).astype(dtype),
        kl_to_final_nats=rng.random(shape).astype(dtype),
    )


def assert_same(one: NeedleTrajectory, other: NeedleTrajectory) -> None:
    assert (one.model, one.lenses, one.stages, one.samples) == (other.model, other.lenses, other.stages, other.samples)
    for name in ARRAYS:
        assert getattr(one, name).dtype == getattr(other, name).dtype
        assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz", ".json", ".json.gz"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kind_of_file_gives_the_same_trajectory_back(tmp_path: Path, suffix: str, dtype: str) -> None:
    original, path = trajectory(dtype), tmp_path / f"records{suffix}"
    original.save(path)
    assert_same(NeedleTrajectory.load(path), original)
    first = path.read_bytes()
    save_trajectory(original, path)
    assert path.read_bytes() == first


def test_fewer_decimals_make_a_smaller_file_of_nearly_the_same_numbers(tmp_path: Path) -> None:
    original = trajectory()
    original.save(tmp_path / "all.csv")
    original.save(tmp_path / "few.csv", decimals=3)
    assert (tmp_path / "few.csv").stat().st_size < (tmp_path / "all.csv").stat().st_size
    read = NeedleTrajectory.load(tmp_path / "few.csv")
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(read, name), getattr(original, name), atol=5.1e-4)
    assert read.samples == original.samples


def test_there_is_one_row_per_lens_prompt_and_stage_with_the_answers_numbers() -> None:
    original = trajectory()
    rows = original.to_records()
    assert len(rows) == 2 * 3 * 4
    row = next(r for r in rows if r["lens"] == "logit" and r["stage_index"] == 2 and r["task"] == "qa2")
    assert row["sample"] == original.samples[2].id
    assert row["snr_db"] == pytest.approx(original.snr_db[1, 2, 2], rel=1e-6)
    assert row["probability"] == pytest.approx(np.exp(original.log_probs[1, 2, 2, 0]), rel=1e-6)
    assert len(rows[0]["log_probs"]) == len(rows[0]["labels"]) == 2
    assert_same(from_records(rows), original)


def test_rows_that_are_no_whole_trajectory_are_refused(tmp_path: Path) -> None:
    rows = to_records(trajectory())
    with pytest.raises(ValueError, match="23 rows are no whole trajectory"):
        from_records(rows[:-1])
    with pytest.raises(ValueError, match="several models"):
        from_records([*rows, {**rows[0], "model": "other"}])
    with pytest.raises(ValueError, match="without \\['log_probs'\\]"):
        from_records([{name: value for name, value in row.items() if name != "log_probs"} for row in rows])
    with pytest.raises(ValueError, match=r"end it in \.parquet"):
        save_trajectory(trajectory(), tmp_path / "records.npz")


def test_parts_joined_again_are_the_whole() -> None:
    whole = trajectory()
    assert_same(NeedleTrajectory.join([whole.select([0, 1]), whole.select([2])]), whole)
    narrow = replace(
        whole.select([0]), log_probs=whole.log_probs[:, :1, :, :2], token_ranks=whole.token_ranks[:, :1, :, :2]
    )
    assert_same(NeedleTrajectory.join([narrow, whole.select([1, 2])]), whole)
    assert whole.select([2, 0]).samples == (whole.samples[2], whole.samples[0])


def test_only_trajectories_of_one_model_and_lens_are_joined() -> None:
    with pytest.raises(ValueError, match="differ in lenses"):
        NeedleTrajectory.join([trajectory(), trajectory(lenses=("other", "logit"))])
    with pytest.raises(ValueError, match="no trajectories"):
        NeedleTrajectory.join([])


def test_every_measure_has_one_finite_number_per_lens_prompt_and_stage() -> None:
    original = trajectory()
    for measure in MEASURES:
        values = original.measure(measure)
        assert values.shape == (2, 3, 4)
        assert values.dtype == np.float64
        assert np.isfinite(values).all()
    # The type checker that runs under pytest refuses it before the function does.
    with pytest.raises((ValueError, TypeError), match="volume"):
        original.measure("volume")  # type: ignore[arg-type]


def test_shares_of_a_prompts_own_labels_sum_to_one() -> None:
    shares = trajectory().label_shares
    np.testing.assert_allclose(np.nansum(shares, axis=-1), 1.0)


def test_a_lens_is_found_by_name_and_a_single_one_without() -> None:
    original = trajectory()
    assert original.lens_index("logit") == 1
    assert replace(original, lenses=("tuned",)).lens_index() == 0
    with pytest.raises(ValueError, match="read with tuned, logit"):
        original.lens_index()


def test_the_same_prompt_has_the_same_id_and_another_has_another() -> None:
    one = sample_of([1, 2], [(1,), (2,)])
    same_text = replace(one, tokens=np.array([9], dtype=np.int32), label_tokens=((4,), (5,)))
    assert ReadSample.of(one).id == ReadSample.of(same_text).id
    for other in (replace(one, prompt="x"), replace(one, answer="b"), replace(one, length=5), replace(one, task="qa2")):
        assert ReadSample.of(other).id != ReadSample.of(one).id
