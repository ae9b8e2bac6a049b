"""Curves group, bound and pair prompts rightly; models that read different prompts are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from diffmamba_interp.files.json_files import results_json
from diffmamba_interp.needle.curves import Curve, PairedCurve, compare, compare_over_seeds, matched, summarise
from diffmamba_interp.needle.records import ReadSample
from diffmamba_interp.needle.trajectory import needle_trajectory
from diffmamba_interp.needle.trajectory_records import NeedleTrajectory
from diffmamba_interp.statistics import bootstrap, holm, paired_test, t_test
from tests.needle.closed_form import N_BLOCKS, TableLens, random_tables, sample_of, table_model

N = 12


def trajectory(model: str = "first", seed: int = 0, lenses: tuple[str, ...] = ("tuned", "logit")) -> NeedleTrajectory:
    """Twelve prompts of two tasks, two lengths, three seeds and two depths, three stages, two labels."""
    samples = [
        sample_of(
            [1] * (index + 1),
            [(1,), (2,)],
            task=("qa1", "qa2")[index % 2],
            length=(0, 1024)[index % 4 // 2],
            depth=(0.5, None)[index // 6],
            seed=index // 4,
        )
        for index in range(N)
    ]
    log_probs = np.random.default_rng(seed).normal(-2, 1, (len(lenses), N, 3, 2))
    return NeedleTrajectory(
        model=model,
        lenses=lenses,
        stages=("embedding", "after block 0", "output"),
        samples=tuple(map(ReadSample.of, samples)),
        log_probs=log_probs,
        token_ranks=np.ones_like(log_probs),
        entropy_nats=np.ones(log_probs.shape[:3]),
        kl_to_final_nats=np.ones(log_probs.shape[:3]),
    )


def test_snr_and_interval_of_a_model_known_in_closed_form_are_right() -> None:
    n, k = 20, 7
    tables = random_tables()
    # Prompts end in one of two tokens, so the SNR takes two values and a resample's mean is binomial.
    samples = [sample_of([0, 4 if index < k else 9], [(3,), (5, 7), (2,)], mark=str(index)) for index in range(n)]
    read = needle_trajectory(table_model(tables[-1]), TableLens(tables), samples)
    (curve,) = summarise([read], measures=["snr_db"], statistics=["mean"], by=[])
    for stage in range(N_BLOCKS + 1):
        p = tables[stage]
        one, other = (10 * np.log10(p[v, 3] / np.mean([p[v, 5] * p[5, 7], p[v, 2]])) for v in (4, 9))
        shares = np.sort([stats.binom.ppf(q, n, k / n) / n for q in (0.025, 0.975)])
        bounds = sorted(other + (one - other) * shares)
        assert curve.value[stage] == pytest.approx(other + (one - other) * k / n, abs=1e-6)
        assert [curve.low[stage], curve.high[stage]] == pytest.approx(bounds, abs=1e-6)
    assert (curve.n, curve.group, curve.stages) == (n, (), read.stages)


def test_there_is_one_curve_per_lens_group_measure_and_statistic() -> None:
    read = trajectory()
    curves = summarise([read], measures=["snr_db", "probability"], by=["task", "length"])
    assert len(curves) == 2 * 4 * 2 * 2
    wanted = (("task", "qa2"), ("length", "1024"))
    curve = next(
        c for c in curves if c.group == wanted and (c.lens, c.measure, c.statistic) == ("logit", "snr_db", "median")
    )
    own = [index for index in range(N) if index % 4 == 3]
    expected = bootstrap(read.snr_db[1, own], statistic="median")
    assert curve.value == tuple(np.median(read.snr_db[1, own], axis=0))
    assert curve.low == tuple(expected.low)
    assert curve.n == len(own)


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("length", ["0", "1024"]),
        ("depth", ["0.5", "random"]),
        ("needle_depth", ["0-0.2", "0.2-0.4", "0.4-0.6"]),
        ("seed", ["0", "1", "2"]),
    ],
)
def test_prompts_are_grouped_by_what_they_have_in_common(by: str, groups: list[str]) -> None:
    curves = summarise([trajectory(lenses=("tuned",))], measures=["snr_db"], statistics=["mean"], by=[by])
    assert [dict(curve.group)[by] for curve in curves] == groups
    assert sum(curve.n for curve in curves) == N


def test_seeds_drawn_first_give_other_intervals() -> None:
    arguments = {"measures": ["snr_db"], "statistics": ["mean"], "by": []}
    plain, clustered = (summarise([trajectory()], **arguments, clusters=key)[0] for key in (None, "seed"))
    assert plain.value == clustered.value
    assert plain.low != clustered.low


def test_the_paired_difference_is_taken_prompt_by_prompt_whatever_their_order() -> None:
    first, second = trajectory(), trajectory("second", seed=1)
    shuffled = second.select(np.random.default_rng(0).permutation(N))
    curves = compare(first, shuffled, measures=["snr_db"], statistics=["mean"], by=["task"])
    assert curves == compare(first, second, measures=["snr_db"], statistics=["mean"], by=["task"])
    expected = paired_test(first.snr_db[0, ::2], second.snr_db[0, ::2])
    assert (curves[0].model, curves[0].baseline, curves[0].group) == ("second", "first", (("task", "qa1"),))
    assert curves[0].value == tuple(expected.value)
    assert curves[0].p_value == tuple(expected.p_value)
    assert curves[0].p_holm == tuple(holm(expected.p_value))


def test_over_training_seeds_every_seed_counts_once() -> None:
    pairs = [(trajectory(seed=seed), trajectory("second", seed=seed + 10)) for seed in range(3)]
    curves = compare_over_seeds(pairs, measures=["snr_db"], by=["task"])
    means = [(other.snr_db[1, 1::2] - one.snr_db[1, 1::2]).mean(axis=0) for one, other in pairs]
    curve = next(c for c in curves if c.lens == "logit" and c.group == (("task", "qa2"),))
    expected = t_test(np.stack(means))
    assert (curve.n, curve.value, curve.p_value) == (3, tuple(expected.value), tuple(expected.p_value))
    with pytest.raises(ValueError, match="at least two pairs"):
        compare_over_seeds(pairs[:1])
    with pytest.raises(ValueError, match="2 kinds of stages"):
        compare_over_seeds([pairs[0], (pairs[1][0].select([0]), pairs[1][1].select([0]))])


def test_models_that_read_different_prompts_are_refused() -> None:
    first, second = trajectory(), trajectory("second", seed=1)
    with pytest.raises(ValueError, match="2 only by 'first', 0 only by 'second'"):
        compare(first, second.select(range(N - 2)))
    with pytest.raises(ValueError, match="occurs twice"):
        matched(first, second.select([*range(N), 0]))
    with pytest.raises(ValueError, match="no lens is common"):
        compare(first, replace(second, lenses=("a", "b")))
    with pytest.raises(ValueError, match="3 and 4 stages"):
        compare(first, replace(second, stages=("embedding", "after block 0", "after block 1", "output")))


@pytest.mark.parametrize("kind", [Curve, PairedCurve])
def test_curves_survive_the_way_to_json_and_back(kind: type[Curve]) -> None:
    first, second = trajectory(), trajectory("second", seed=1)
    curve = summarise([first])[0] if kind is Curve else compare(first, second)[0]
    assert kind.from_dict(json.loads(json.dumps(curve.to_dict()))) == curve


def test_a_curve_of_a_results_file_has_nan_where_the_file_has_null() -> None:
    curve = replace(summarise([trajectory()])[0], low=(float("nan"), -1.0, float("-inf")))
    written = results_json({"curves": [curve.to_dict()]}, digits=17)
    assert "null" in written
    back = Curve.from_dict(json.loads(written)["curves"][0])
    np.testing.assert_array_equal(back.low, curve.low)
