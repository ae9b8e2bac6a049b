"""The stage of formation, the SNR there and the part of a lead that is timing, on prompts where all are known."""

import numpy as np
import pytest

from diffmamba_interp.needle.formation import (
    CRITERIA,
    Clearness,
    Formation,
    FormationDifference,
    compare_formation,
    estimate_formation,
    formation_stages,
    formation_table,
    summarise_formation,
)
from diffmamba_interp.needle.trajectory_records import NeedleTrajectory
from tests.needle.test_calibration import samples_of

STAGES = ("embedding", *(f"after block {i}" for i in range(5)), "output")
N = 24


def steps(stages: np.ndarray, level_db: np.ndarray | float, model: str = "plain") -> NeedleTrajectory:
    """Prompts with one distractor, whose SNR is -5 dB before their stage and `level_db` from there on, read by "lens".

    Half of them are of each of two tasks. A stage of 7 never comes.
    """
    level = np.broadcast_to(level_db, len(stages))
    snr = np.where(np.arange(7) < stages[:, None], -5.0, level[:, None])
    half = len(stages) // 2
    answers = np.ones(half, int)
    samples = samples_of(answers, labels=("a", "b")) + samples_of(answers, task="qa2", labels=("a", "b"))
    log_probs = np.stack([np.full(snr.shape, -9.0), -9.0 + snr * np.log(10) / 10], axis=-1)[None]
    return NeedleTrajectory(
        model=model,
        lenses=("lens",),
        stages=STAGES,
        samples=tuple(samples),
        log_probs=log_probs,
        token_ranks=np.ones(log_probs.shape),
        entropy_nats=np.ones(log_probs.shape[:3]),
        kl_to_final_nats=np.ones(log_probs.shape[:3]),
    )


def test_the_stage_is_where_the_ratio_comes_to_stay_and_one_past_the_last_where_it_never_does() -> None:
    stages = np.array([0, 3, 6, 7, 2, 5])
    read = steps(stages, np.array([12.0, 12, 12, 12, 8, 4]))
    assert formation_stages(read)[0].tolist() == [0, 3, 6, 7, 2, 7]
    assert formation_stages(read, "3 dB")[0].tolist() == stages.tolist()
    assert formation_stages(read, "10 dB")[0].tolist() == [0, 3, 6, 7, 7, 7]
    assert formation_stages(read, "on top")[0].tolist() == stages.tolist()
    # What is clear and is lost again has not formed.
    lost = read.log_probs.copy()
    lost[0, 1, 4, 1] = -20
    assert formation_stages(NeedleTrajectory(**{**vars(read), "log_probs": lost}))[0, 1] == 5


def test_the_measures_by_stage_are_the_share_that_has_formed_by_then() -> None:
    read = steps(np.array([0, 3, 6, 7, 2, 5]), np.array([12.0, 12, 12, 12, 8, 4]))
    assert read.measure("formed_7db").mean(axis=1)[0] == pytest.approx(np.array([1, 1, 2, 3, 3, 3, 4]) / 6)
    for criterion, measure in CRITERIA.items():
        late = 7 - read.measure(measure).sum(axis=-1)
        assert late.tolist() == formation_stages(read, criterion).tolist()


def test_a_models_numbers_are_those_put_in() -> None:
    stages = np.array([2] * 12 + [4] * 6 + [7] * 6)
    formations = summarise_formation([steps(stages, 9.0)], criteria=("7 dB", "10 dB"), by=(), n_resamples=300)
    assert [one.criterion for one in formations] == ["7 dB", "10 dB"]
    one, never = formations
    assert (one.n, one.n_stages, one.group) == (N, 7, ())
    assert (one.median.value, one.mean.value) == (3.0, pytest.approx((12 * 2 + 6 * 4 + 6 * 7) / N))
    assert one.share_formed.value == 0.75
    assert 0.5 < one.share_formed.low < 0.75 < one.share_formed.high < 1
    assert (one.snr_db.value, one.snr_db.low, one.snr_db.high) == pytest.approx((9.0, 9.0, 9.0))
    assert (never.median.value, never.share_formed.value) == (7.0, 0.0)
    assert np.isnan(never.snr_db.value)
    assert never.snr_db.text() == "–"


def test_a_lead_that_is_timing_alone_is_split_so_and_one_that_is_level_alone_too() -> None:
    rng = np.random.default_rng(0)
    late = rng.integers(3, 6, N)
    plain = steps(late, 10.0)
    early, cleaner = steps(late - 2, 10.0, "early"), steps(late, 14.0, "cleaner")
    (timing,) = compare_formation(plain, early, criteria=("7 dB",), by=(), n_resamples=200)
    assert (timing.mean.value, timing.median.value, timing.p_value < 0.01) == (-2.0, -2.0, True)
    assert timing.snr_db.value == pytest.approx(0.0)
    # Two inner stages more, of five, that are 15 dB higher each.
    assert timing.inner_db.value == pytest.approx(2 * 15 / 5)
    assert [one.value for one in timing.timing_db] == pytest.approx([6.0, 6.0])
    (level,) = compare_formation(plain, cleaner, criteria=("7 dB",), by=(), n_resamples=200)
    assert (level.mean.value, level.p_value, level.snr_db.value) == (0.0, 1.0, pytest.approx(4.0))
    assert level.inner_db.value > 0.5
    assert [one.value for one in level.timing_db] == pytest.approx([0.0, 0.0])


def test_a_lead_that_is_both_is_split_by_hand_with_either_models_ratio() -> None:
    # One task each; of 12 prompts, 6 and 9 form at stage 2, the rest at stage 4; SNR from there on 10 and 20 dB.
    first = np.array([2] * 6 + [4] * 6)
    second = np.array([2] * 9 + [4] * 3)
    plain, other = steps(np.tile(first, 2), 10.0), steps(np.tile(second, 2), 20.0, "other")
    (both,) = compare_formation(plain, other, criteria=("7 dB",), by=("task",), n_resamples=50)[:1]
    # Mean over five inner stages by stage of formation: 1 or 3 of them at -5 dB.
    by_stage = {level: {2: (4 * level - 5) / 5, 4: (2 * level - 15) / 5} for level in (10, 20)}
    assert [one.value for one in both.timing_db] == pytest.approx(
        [(9 - 6) / 12 * (by_stage[level][2] - by_stage[level][4]) for level in (10, 20)]
    )
    means = {10: (6 * by_stage[10][2] + 6 * by_stage[10][4]) / 12, 20: (9 * by_stage[20][2] + 3 * by_stage[20][4]) / 12}
    assert both.inner_db.value == pytest.approx(means[20] - means[10])


def test_the_ratio_there_is_paired_over_prompts_in_which_both_answers_form() -> None:
    plain = steps(np.array([2] * 20 + [7] * 4), 10.0)
    other = steps(np.array([7] * 2 + [3] * 22), np.array([30.0] * 20 + [90.0] * 4), "other")
    (difference,) = compare_formation(plain, other, criteria=("7 dB",), by=(), n_resamples=100)
    assert (difference.n, difference.n_both, difference.snr_db.value) == (N, 18, pytest.approx(20.0))
    assert difference.share_formed.value == pytest.approx((22 - 20) / N)


def test_the_ratio_there_is_that_of_the_stage_of_formation_and_not_of_a_later_one() -> None:
    snr_db = np.array([[-5.0, 8, 12, 20], [9, -5, 10, 30], [-5, -5, -5, 6]])
    read = Clearness(snr_db=snr_db, is_clear=snr_db >= 7)
    np.testing.assert_array_equal(read.snr_db_there, [8, 10, np.nan])
    about = {"model": "m", "lens": "l", "criterion": "7 dB", "group": ()}
    one = estimate_formation(read, about=about, n_resamples=50)
    assert (one.snr_db.value, one.median.value, one.mean.value) == (9.0, 2.0, pytest.approx((1 + 2 + 4) / 3))


def test_records_come_back_from_json_and_stand_in_a_table_with_a_signed_difference() -> None:
    plain, other = steps(np.full(N, 5), 10.0), steps(np.full(N, 2), 20.0, "other")
    formations = summarise_formation([plain, other], criteria=("7 dB",), n_resamples=50)
    differences = compare_formation(plain, other, criteria=("7 dB",), n_resamples=50)
    assert [Formation.from_dict(one.to_dict()) for one in formations] == formations
    assert [FormationDifference.from_dict(one.to_dict()) for one in differences] == differences
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in formation_table(formations, differences)
    ]
    assert head[5:] == ["model", "median stage", "never forms", "SNR there, dB"]
    assert [row[0] for row in rows] == ["qa1"] * 3 + ["qa2"] * 3
    assert rows[0][5:] == ["plain", "5.0 [5.0, 5.0]", "0.0%", "10.0 [10.0, 10.0]"]
    assert rows[2][5:] == ["other − plain", "-3.0 [-3.0, -3.0]", "+0.0%", "+10.0 [+10.0, +10.0], n = 12"]


def test_a_table_names_stages_where_it_is_asked_to_and_counts_differences_in_blocks() -> None:
    plain, other = (steps(np.full(N, stage), 10.0, name) for stage, name in ((6, "plain"), (2, "other")))
    tables = [
        formation_table(
            summarise_formation([plain, other], criteria=("7 dB",), by=(), n_resamples=50),
            compare_formation(plain, other, criteria=("7 dB",), by=(), n_resamples=50),
            named=named,
        )
        for named in (False, True)
    ]
    cells = [[line.split("|")[7].strip() for line in table] for table in tables]
    assert [cells[0][at] for at in (0, 2, 3)] == ["median stage", "6.0 [6.0, 6.0]", "2.0 [2.0, 2.0]"]
    assert cells[1][:1] + cells[1][2:] == [
        "comes in (median)",
        "at the output",
        "after block 1",
        "-4.0 [-4.0, -4.0] blocks",
    ]


def test_models_of_other_depth_other_prompts_or_other_lenses_are_refused() -> None:
    plain = steps(np.full(N, 5), 10.0)
    shallow = NeedleTrajectory(**{**vars(plain), "stages": STAGES[1:]})
    with pytest.raises(ValueError, match="7 and 6 stages"):
        compare_formation(plain, shallow)
    with pytest.raises(ValueError, match="different prompts"):
        compare_formation(plain, plain.select(range(5)))
    with pytest.raises(ValueError, match="no lens is common"):
        compare_formation(plain, NeedleTrajectory(**{**vars(plain), "lenses": ("other",)}))
    with pytest.raises(ValueError, match="formations is empty"):
        formation_table([])
