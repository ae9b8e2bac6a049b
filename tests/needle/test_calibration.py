"""Calibrated bits are right where the temperature and the bits are known, and no prompt is fitted on itself."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from diffmamba_interp.needle.calibration import calibrate, fit_sharpening
from diffmamba_interp.needle.curves import compare, summarise
from diffmamba_interp.needle.records import ReadSample
from diffmamba_interp.needle.trajectory_records import NeedleTrajectory

K = 4
LABELS = ("a", "b", "c", "d")


def samples_of(answers: np.ndarray, *, task: str = "qa1", length: int = 0, labels: tuple = LABELS) -> list[ReadSample]:
    return [
        ReadSample(
            id=f"{task} {length} {i}",
            task=task,
            length=length,
            depth=None,
            needle_depth=0.5,
            seed=0,
            n_tokens=9,
            labels=labels,
            answer=labels[answer],
            n_label_tokens=(1,) * len(labels),
        )
        for i, answer in enumerate(answers)
    ]


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities [1, n, 1, K] that are right as they are, and answers drawn from them."""
    rng = np.random.default_rng(seed)
    log_probs = log_softmax(1.5 * rng.normal(size=(1, n, 1, K)), axis=-1)
    answers = np.array([rng.choice(K, p=np.exp(row)) for row in log_probs[0, :, 0]])
    return log_probs, answers


def test_a_temperature_that_was_put_in_is_found_and_the_bits_are_those_without_it() -> None:
    honest, answers = drawn(4000)
    # Three readings of the same knowledge: too sure by a factor of 4, right, too unsure by a factor of 4.
    stages = np.concatenate([4 * honest, honest, honest / 4], axis=2)
    calibration = calibrate(stages, samples_of(answers))
    found = calibration.temperature[0].mean(axis=0)
    assert found == pytest.approx([4 * found[1], found[1], found[1] / 4], rel=1e-6)
    assert found[1] == pytest.approx(1.0, abs=0.08)
    np.testing.assert_allclose(calibration.bits, calibration.bits[:, :, 1:2].repeat(3, axis=2), atol=1e-6)
    # The expected value in closed form: log2 K less the entropy of what the answers were drawn from.
    expected = 2 + (np.exp(honest) * honest).sum(axis=-1).mean() / np.log(2)
    assert calibration.bits.mean() == pytest.approx(expected, abs=0.04)


def test_the_temperature_is_where_the_loss_with_one_more_prompt_of_any_answer_is_least() -> None:
    log_probs, answers = drawn(37, seed=1)

    def loss(beta: float) -> float:
        logs = log_softmax(beta * log_probs[0, :, 0], axis=-1)
        return -logs[np.arange(37), answers].mean() - logs.mean() / 37

    least = minimize_scalar(loss, bounds=(0.01, 10), method="bounded", options={"xatol": 1e-9}).x
    assert fit_sharpening(log_probs, answers)[0, 0] == pytest.approx(least, rel=1e-6)


def test_what_knows_nothing_has_no_bits_and_what_misleads_is_ignored() -> None:
    answers = np.arange(40) % K
    flat = np.full((1, 40, 1, K), -2.0)
    against = flat.copy()
    against[0, np.arange(40), 0, answers] = -5.0
    for log_probs in (flat, against):
        calibration = calibrate(log_probs, samples_of(answers))
        np.testing.assert_allclose(calibration.bits, 0.0, atol=1e-12)
        assert np.isinf(calibration.temperature).all()


def test_a_separable_task_comes_near_all_bits_and_one_mistake_costs_a_finite_number() -> None:
    n = 100
    answers = np.arange(n) % K
    log_probs = np.full((1, n, 1, K), -9.0)
    log_probs[0, np.arange(n), 0, answers] = -8.9
    bits = calibrate(log_probs, samples_of(answers)).bits
    # The one prompt of any answer leaves (1 / n) (K - 1) / K to the wrong labels together.
    share = 1 - (1 / 80) * (K - 1) / K / (1 + 1 / 80)
    assert bits == pytest.approx(np.full_like(bits, 2 + np.log2(share)), abs=1e-6)
    answers[7] = (answers[7] + 1) % K
    bits = calibrate(log_probs, samples_of(answers)).bits
    assert -8 < bits[0, 7, 0] < -4
    assert np.delete(bits[0, :, 0], 7).min() > 1.8


def test_no_prompt_moves_its_own_temperature_and_other_tasks_and_lengths_move_none() -> None:
    log_probs, answers = drawn(60)
    samples = samples_of(answers[:20]) + samples_of(answers[20:40], task="qa2") + samples_of(answers[40:], length=512)
    before = calibrate(log_probs, samples)
    changed = log_probs.copy()
    changed[:, 3] *= 50
    after = calibrate(changed, samples)
    moved = np.flatnonzero((before.temperature != after.temperature)[0, :, 0])
    assert 0 < len(moved) < 20
    assert 3 not in moved
    assert moved.max() < 20
    # Every fold but its own is moved: of 20 prompts in 5 folds, 16.
    assert len(moved) == 16


def test_the_order_of_the_prompts_and_the_width_of_the_label_axis_change_nothing() -> None:
    log_probs, answers = drawn(30)
    samples = samples_of(answers)
    wide = np.pad(log_probs, [(0, 0)] * 3 + [(0, 2)], constant_values=np.nan)
    order = np.random.default_rng(2).permutation(30)
    first, second = calibrate(log_probs, samples), calibrate(wide[:, order], [samples[i] for i in order])
    np.testing.assert_allclose(first.bits[:, order], second.bits, atol=1e-12)


def test_a_prompt_alone_is_read_as_it_is_and_probability_0_is_no_trouble() -> None:
    log_probs, answers = drawn(1)
    bits = calibrate(log_probs, samples_of(answers)).bits
    assert bits[0, 0, 0] == pytest.approx(2 + log_probs[0, 0, 0, answers[0]] / np.log(2))
    certain = np.where(np.arange(K) == 0, 0.0, -np.inf) * np.ones((1, 12, 1, 1))
    assert np.isfinite(calibrate(certain, samples_of(np.zeros(12, int))).bits).all()


def test_wrong_numbers_of_folds_and_samples_are_refused() -> None:
    log_probs, answers = drawn(8)
    with pytest.raises(ValueError, match="n_folds is 1"):
        calibrate(log_probs, samples_of(answers), n_folds=1)
    with pytest.raises(ValueError, match="7 samples, but log_probs has 8"):
        calibrate(log_probs, samples_of(answers)[:7])


def test_of_two_models_that_know_the_same_the_more_certain_one_gains_db_but_no_bits() -> None:
    log_probs, answers = drawn(200)
    stages = ("embedding", "after block 0", "output")
    reading = {name: np.ones((1, 200, 3)) for name in ("entropy_nats", "kl_to_final_nats")}
    plain = NeedleTrajectory(
        model="plain",
        lenses=("tuned",),
        stages=stages,
        samples=tuple(samples_of(answers)),
        log_probs=log_probs.repeat(3, axis=2),
        token_ranks=np.ones((1, 200, 3, K)),
        **reading,
    )
    surer = replace(plain, model="surer", log_probs=3 * plain.log_probs)
    how = {"measures": ("snr_db", "calibrated_bits"), "statistics": ("mean",), "by": (), "n_resamples": 200}
    snr, bits = compare(plain, surer, **how)
    assert (snr.low[0] > 1, bits.value[0]) == (True, pytest.approx(0, abs=1e-6))
    # A part of the prompts is read at the temperatures of all.
    (curve,) = summarise([plain], measures=("calibrated_bits",), statistics=("mean",), by=("seed",), n_resamples=50)
    whole = plain.measure("calibrated_bits")
    assert curve.value == pytest.approx(whole[0].mean(axis=0))
