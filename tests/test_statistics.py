"""Intervals and p-values: known distributions, brute force, scipy, and invariances."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from diffmamba_interp.resampling import crossed_counts
from diffmamba_interp.statistics import (
    MIN_SAMPLES,
    Estimate,
    bootstrap,
    bootstrap_of,
    holm,
    least_samples,
    mean_of,
    paired_difference,
    paired_test,
    ratio_of,
    smallest_p,
    snr_db,
    t_test,
    weighted_sum,
)


@pytest.mark.parametrize(("n", "k"), [(20, 5), (21, 9), (50, 11)])
def test_the_interval_of_a_share_is_that_of_the_binomial_distribution(n: int, k: int) -> None:
    low_value, high_value = 2.0, 5.0
    values = np.where(np.arange(n) < k, high_value, low_value)
    found = bootstrap(values)
    # A resample holds Binomial(n, k/n) of the high values: its quantiles are known.
    expected = [low_value + 3.0 * stats.binom.ppf(q, n, k / n) / n for q in (0.025, 0.975)]
    assert [float(found.low), float(found.high)] == pytest.approx(expected, abs=1e-6)
    assert float(found.value) == pytest.approx(values.mean(), abs=1e-12)
    assert found.n == n


def test_the_interval_of_a_median_is_that_of_its_order_statistic() -> None:
    n = 31
    values = np.random.default_rng(1).normal(size=n)
    found = bootstrap(values, statistic="median")
    ranked, middle = np.sort(values), (n + 1) // 2
    # The resample's median is at most the j-th smallest value if at least `middle` draws are.
    at_most = stats.binom.sf(middle - 1, n, np.arange(1, n + 1) / n)
    expected = [ranked[np.searchsorted(at_most, q)] for q in (0.025, 0.975)]
    assert [float(found.low), float(found.high)] == pytest.approx(expected, abs=1e-6)
    assert float(found.value) == np.median(values)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_intervals_agree_with_scipys(statistic: str) -> None:
    values = np.random.default_rng(2).exponential(size=(80, 2))
    found = bootstrap(values, statistic=statistic)
    known = stats.bootstrap(
        (values,), getattr(np, statistic), method="percentile", n_resamples=10_000, rng=np.random.default_rng(5)
    ).confidence_interval
    np.testing.assert_allclose(found.low, known.low, atol=0.02)
    np.testing.assert_allclose(found.high, known.high, atol=0.02)
    np.testing.assert_allclose(found.value, getattr(np, statistic)(values, axis=0))


def test_medians_of_even_draws_are_means_of_the_two_middle_values() -> None:
    found = bootstrap(np.array([0.0, 1.0]), statistic="median", n_resamples=2_000)
    assert (float(found.value), float(found.low), float(found.high)) == (0.5, 0.0, 1.0)


def test_a_higher_level_widens_the_interval_and_another_seed_moves_it_little() -> None:
    values = np.random.default_rng(3).normal(size=100)
    narrow, wide, other = bootstrap(values, level=0.5), bootstrap(values, level=0.99), bootstrap(values, seed=1)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert bootstrap(values).low == bootstrap(values).low != other.low
    assert float(other.low) == pytest.approx(float(bootstrap(values).low), abs=0.02)
    assert bootstrap(values, n_resamples=50).low != bootstrap(values).low


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_clusters_that_differ_widen_the_interval(statistic: str) -> None:
    clusters = np.repeat(np.arange(8), 25)
    values = np.repeat(np.random.default_rng(4).normal(size=8), 25) + 0.01 * np.random.default_rng(5).normal(size=200)
    alone = bootstrap(values, statistic=statistic)
    clustered = bootstrap(values, statistic=statistic, clusters=clusters.tolist())
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)
    # Between the clusters' means there is almost nothing: the mean's spread is that of eight numbers.
    if statistic == "mean":
        means = values.reshape(8, 25).mean(axis=1)
        expected = bootstrap(means)
        assert float(clustered.low) == pytest.approx(float(expected.low), abs=0.03)


def test_one_sample_per_cluster_is_the_plain_bootstrap() -> None:
    values = np.random.default_rng(6).normal(size=41)
    for statistic in ("mean", "median"):
        plain = bootstrap(values, statistic=statistic)
        clustered = bootstrap(values, statistic=statistic, clusters=list(range(41)))
        assert float(clustered.low) == pytest.approx(float(plain.low), abs=0.05)
        assert float(clustered.high) == pytest.approx(float(plain.high), abs=0.05)


def test_columns_are_served_as_if_alone() -> None:
    values = np.random.default_rng(7).normal(size=(30, 2, 3))
    for statistic in ("mean", "median"):
        together = bootstrap(values, statistic=statistic)
        assert together.value.shape == (2, 3)
        alone = bootstrap(values[:, 1, 2], statistic=statistic)
        np.testing.assert_allclose((together.low[1, 2], together.high[1, 2]), (alone.low, alone.high), rtol=1e-12)


def test_few_samples_are_tested_against_all_patterns_of_signs() -> None:
    d = np.array([0.4, -0.1, 0.3, 0.25, 0.7, -0.2])
    found = paired_test(np.zeros(6), d)
    patterns = [abs(np.dot(s, d)) >= abs(d.sum()) - 1e-12 for s in itertools.product((1, -1), repeat=6)]
    assert float(found.p_value) == pytest.approx(np.mean(patterns), abs=1e-12)
    assert float(found.value) == pytest.approx(d.mean())


def test_many_samples_are_tested_as_scipy_does() -> None:
    rng = np.random.default_rng(8)
    first, second = rng.normal(size=60), rng.normal(0.25, 1, size=60)
    known = stats.permutation_test(
        (second, first), lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=20_000, rng=np.random.default_rng(0),
    )  # fmt: skip
    assert float(paired_test(first, second).p_value) == pytest.approx(known.pvalue, abs=0.015)
    wilcoxon = paired_test(first, second, test="wilcoxon")
    assert float(wilcoxon.p_value) == stats.wilcoxon(second - first).pvalue


def test_exchanging_the_models_turns_the_difference_and_keeps_the_p_value() -> None:
    rng = np.random.default_rng(9)
    first, second = rng.normal(size=(40, 3)), rng.normal(size=(40, 3))
    one, other = paired_test(first, second), paired_test(second, first)
    np.testing.assert_allclose(one.value, -other.value)
    np.testing.assert_allclose(one.low, -other.high, atol=0.02)
    np.testing.assert_allclose(one.p_value, other.p_value)


def test_pairing_takes_out_what_the_models_share() -> None:
    rng = np.random.default_rng(10)
    hardness = 10 * rng.normal(size=100)
    first = hardness + 0.1 * rng.normal(size=100)
    found = paired_test(first, hardness + 0.2)
    assert found.high - found.low < 0.06
    assert found.p_value < 0.001
    assert bootstrap(first).high - bootstrap(first).low > 3


@pytest.mark.parametrize("test", ["sign_flip", "wilcoxon"])
def test_models_that_never_differ_have_p_one(test: str) -> None:
    found = paired_test(np.ones((30, 2)), np.ones((30, 2)), test=test)
    assert found.p_value.tolist() == [1.0, 1.0]
    assert found.value.tolist() == found.low.tolist() == [0.0, 0.0]


def test_whole_clusters_are_flipped() -> None:
    d = np.repeat([1.0, 1.0, 1.0, 1.0], 50)
    alone = paired_test(np.zeros(200), d)
    clustered = paired_test(np.zeros(200), d, clusters=np.repeat(np.arange(4), 50).tolist())
    assert float(clustered.p_value) == pytest.approx(2 / 16)
    assert alone.p_value < 0.001


def test_few_runs_are_tested_as_scipy_does() -> None:
    values = np.random.default_rng(11).normal(0.5, 1, size=(4, 3))
    found, known = t_test(values), stats.ttest_1samp(values, 0)
    np.testing.assert_allclose(found.p_value, known.pvalue)
    interval = known.confidence_interval(0.95)
    np.testing.assert_allclose((found.low, found.high), (interval.low, interval.high))
    assert (t_test(values, level=0.5).high < found.high).all()


def test_runs_that_agree_exactly_are_certain_and_one_run_is_refused() -> None:
    assert t_test(np.array([[0.0, 2.0], [0.0, 2.0]])).p_value.tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="one run"):
        t_test(np.ones((1, 3)))


def test_holm_corrects_as_in_the_textbook() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([[0.9, 0.8]])).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        (np.zeros((0, 3)), {}, "at least one sample"),
        (np.array([1.0, np.nan]), {}, "NaN or infinity"),
        (np.ones(4), {"clusters": [1, 1, 1, 1]}, "at least two"),
        (np.ones(4), {"clusters": [1, 2]}, "2 cluster keys for 4"),
        (np.ones(4), {"level": 95.0}, "between 0 and 1"),
        (np.ones(4), {"statistic": "mode"}, "one of mean, median"),
    ],
)
def test_what_has_no_interval_is_refused(values: np.ndarray, arguments: dict, message: str) -> None:
    # beartype refuses an unknown statistic before the function does.
    with pytest.raises((ValueError, TypeError), match=message if "statistic" not in arguments else "mode"):
        bootstrap(values, **arguments)


def test_unpaired_values_and_clustered_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="same samples"):
        paired_test(np.ones((3, 2)), np.ones((3, 3)))
    with pytest.raises(ValueError, match="take 'sign_flip'"):
        paired_test(np.ones(4), np.zeros(4), test="wilcoxon", clusters=[1, 1, 2, 2])


def test_the_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = bootstrap_of(mean_of(values), len(values))
    assert found.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.low == pytest.approx(found.value - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.1 * half)


def test_a_ratio_is_of_sums_and_never_of_means_of_ratios() -> None:
    above, below = np.array([1.0, 0.0, 5.0]), np.array([2.0, 0.0, 2.0])
    assert bootstrap_of(ratio_of(above, below), 3).value == 6 / 4


def test_a_ratio_over_nothing_is_no_number_and_no_warning() -> None:
    found = bootstrap_of(ratio_of(np.array([1.0, 0.0, 0.0]), np.zeros(3)), 3)
    assert not math.isfinite(found.high)


def test_what_a_sample_lacks_counts_for_nothing() -> None:
    values = np.array([[1.0, math.nan], [3.0, 5.0]])
    value, low, high = bootstrap_of(mean_of(values), 2).stacked
    assert value.tolist() == [2.0, 5.0]
    assert low[0] == 1.0
    assert high[0] == 3.0


def test_sums_weight_every_sample_as_often_as_it_counts() -> None:
    values = np.arange(12.0).reshape(3, 2, 2)
    assert weighted_sum(np.array([[1.0, 0.0, 2.0]]), values).tolist() == [[[16.0, 19.0], [22.0, 25.0]]]


def test_columns_of_one_statistic_are_drawn_together() -> None:
    values = np.random.default_rng(0).normal(size=(20, 1))
    both = np.concatenate([values, 1 - values], axis=1)
    found = bootstrap_of(lambda counts: weighted_sum(counts, both).sum(axis=1), 20).stacked
    assert found == pytest.approx(np.full(3, 20.0))


def test_a_side_is_taken_only_beyond_the_interval_and_with_enough_samples() -> None:
    up, down, open_ = Estimate(1.0, 0.5, 2.0), Estimate(-1.0, -2.0, -0.5), Estimate(1.0, -0.5, 2.0)
    assert [one.sign(MIN_SAMPLES) for one in (up, down, open_)] == [1, -1, 0]
    assert up.sign(MIN_SAMPLES - 1) == 0


def test_an_estimate_reads_as_text() -> None:
    assert Estimate(0.5, -0.25, 1.0).text(2, signed=True) == "+0.50 [-0.25, +1.00]"
    assert Estimate(math.nan, math.nan, math.nan).text() == "–"
    assert Estimate(22.2, math.nan, math.nan).text(1) == "22.2 [–]"


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        bootstrap_of(mean_of(np.empty(0)), 0)


def test_the_difference_counts_the_stories_that_only_one_model_got_right() -> None:
    found = paired_difference([True, True, False, False, True], [True, False, True, True, True])
    assert found.value == pytest.approx(0.2)
    assert (found.n_first_only, found.n_second_only, found.n) == (1, 2, 5)
    assert found.low <= found.value <= found.high


def test_the_interval_is_that_of_resampling_stories_one_by_one() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random(200) < 0.6, rng.random(200) < 0.75
    found = paired_difference(first.tolist(), second.tolist())
    d = second.astype(float) - first
    means = d[rng.integers(0, 200, size=(10_000, 200))].mean(axis=1)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.011)
    assert found.excludes_zero == (found.low > 0)


def test_exchanging_the_models_turns_the_sign() -> None:
    first, second = [True] * 9 + [False], [True] * 2 + [False] * 8
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert one.value == -other.value == pytest.approx(-0.7)
    assert one.excludes_zero
    assert other.excludes_zero


def test_models_that_never_disagree_have_no_difference() -> None:
    found = paired_difference([True, False], [True, False])
    assert (found.value, found.low, found.high, found.excludes_zero) == (0.0, 0.0, 0.0, False)


@pytest.mark.parametrize(("first", "second"), [([], []), ([True], [True, False])])
def test_unpaired_answers_are_refused(first: list[bool], second: list[bool]) -> None:
    with pytest.raises(ValueError, match="same ones"):
        paired_difference(first, second)


def test_a_ratio_of_probabilities_too_small_for_a_number_has_decibels() -> None:
    signal, noise = -1000.0, np.array([-1000.0, -1000.0]) - math.log(10)
    assert snr_db(signal, np.logaddexp.reduce(noise), 2) == pytest.approx(10.0)


def test_the_two_bootstraps_of_a_mean_draw_the_same_samples() -> None:
    values = np.random.default_rng(0).normal(size=(50, 3))
    weighted, plain = bootstrap_of(mean_of(values), 50), bootstrap(values)
    assert weighted.stacked == pytest.approx(plain.stacked, abs=1e-12)
    assert [one.low for one in weighted.estimates] == pytest.approx(plain.low.tolist())


def crossed_effects(rows: np.ndarray, columns: np.ndarray) -> tuple[list[int], list[int], np.ndarray]:
    """Keys of both kinds and the values of a full table: effect of the row and of the column."""
    first, second = np.divmod(np.arange(len(rows) * len(columns)), len(columns))
    return first.tolist(), second.tolist(), (rows[:, None] + columns[None, :]).ravel()


def test_crossed_draws_have_the_spread_of_both_kinds_of_clusters() -> None:
    rng = np.random.default_rng(0)
    rows, columns = rng.normal(size=30), 2 * rng.normal(size=12)
    first, second, values = crossed_effects(rows, columns)
    counts = crossed_counts(first, second, n_resamples=20_000)
    means = mean_of(values)(counts)
    # In a full table of additive effects a draw's mean is the mean of the drawn rows and that of the drawn columns.
    expected = math.sqrt(rows.var() / 30 + columns.var() / 12)
    assert means.std() == pytest.approx(expected, rel=0.02)
    assert means.mean() == pytest.approx(values.mean(), abs=3 * expected / math.sqrt(20_000))
    # Samples taken one by one would seem far surer than twelve columns can make them.
    assert bootstrap_of(mean_of(values), len(values)).high - values.mean() < expected


def test_crossed_draws_of_one_kind_alone_are_those_of_its_clusters() -> None:
    rows = np.random.default_rng(1).normal(size=25)
    first, second, values = crossed_effects(rows, np.zeros(6))
    crossed = bootstrap_of(mean_of(values), len(values), counts=crossed_counts(first, second))
    alone = bootstrap(rows)
    assert crossed.stacked == pytest.approx(alone.stacked, abs=0.02)


def test_a_crossed_count_is_the_product_of_its_keys_draws() -> None:
    counts = crossed_counts(["a", "a", "b", "b"], [0, 1, 0, 1], n_resamples=500)
    np.testing.assert_array_equal(counts[:, 0] * counts[:, 3], counts[:, 1] * counts[:, 2])
    assert set(np.unique(counts[:, 0])) == {0, 1, 2, 4}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [([1, 2], [1], "2 first and 1 second"), ([], [], "0 first"), ([1, 1], [1, 2], "one cluster")],
)
def test_keys_that_do_not_cross_are_refused(first: list[int], second: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crossed_counts(first, second)


@pytest.mark.parametrize("n", [1, 4, 6, 9])
def test_the_smallest_p_is_that_of_samples_that_all_differ_one_way(n: int) -> None:
    first = np.zeros((n, 1))
    test = paired_test(first, first + np.arange(1, n + 1)[:, None], n_resamples=512)
    assert test.p_value.tolist() == [smallest_p(n, n_resamples=512)]


def test_where_not_all_patterns_are_tried_the_smallest_p_is_one_of_those_that_are() -> None:
    first = np.zeros((40, 1))
    test = paired_test(first, first + 1.0, n_resamples=100)
    assert test.p_value.tolist() == [smallest_p(40, n_resamples=100)] == [1 / 101]


@pytest.mark.parametrize(("n_tests", "least"), [(1, 6), (13, 10), (49, 11)])
def test_one_sample_fewer_than_the_least_allows_no_corrected_p_below_the_level(n_tests: int, least: int) -> None:
    assert least_samples(n_tests) == least
    smallest = [holm(np.full(n_tests, smallest_p(n))).min() for n in (least - 1, least)]
    assert smallest[1] < 0.05 <= smallest[0]


def test_more_tests_than_resamples_can_tell_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="more resamples"):
        least_samples(1000)
