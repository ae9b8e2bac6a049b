"""Probes find an answer where it is, as well as it can be known, and nowhere else; no story is read by its own fit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from diffmamba_interp.files.json_files import results_json
from diffmamba_interp.needle.probes import (
    PROBE,
    SHUFFLED,
    ProbeRecord,
    compare_probes,
    cross_validated,
    fit_best,
    fit_probe,
    probe_answers,
    residuals,
    stories_of,
    summarise_probes,
)
from diffmamba_interp.needle.records import NeedleSample, Span
from tests.needle.closed_form import N_BLOCKS, random_tables, sample_of, table_model

LABELS = [(1,), (2,)]
N = 48


def prompts(n: int = N, *, task: str = "qa1") -> list[NeedleSample]:
    """The answer, a or b, follows from the first token alone; the last one and the story are other things."""
    rng = np.random.default_rng(0)
    answers = rng.permutation(np.arange(n) % 2)
    made = []
    for i, answer in enumerate(answers):
        tokens = [3 + int(answer), *rng.integers(5, 16, 3).tolist()]
        sample = sample_of(tokens, LABELS, answer=int(answer), task=task, mark=str(i))
        text = f"fact {i}."
        made.append(replace(sample, prompt=text, fact_spans=(Span(0, len(text), 0, 2),)))
    return made


@pytest.fixture(scope="module")
def record() -> ProbeRecord:
    """Of a model in which block 1 carries the first token to all positions."""
    model, first = table_model(random_tables()[-1]), []

    def keep(value: Tensor, name: str) -> None:
        first[:] = [value[:, :1]]

    def carry(value: Tensor, name: str) -> Tensor:
        return first[0].expand_as(value)

    with model.hooks([("hook_embed", keep), ("blocks.1.hook_mixer_out", carry)]):
        return probe_answers(model, prompts(), name="carrier")


def test_the_answer_is_found_from_the_block_on_that_brings_it_and_never_when_shuffled(record: ProbeRecord) -> None:
    assert record.stages == ("embedding", "after block 0", "after block 1", "output")
    accuracy = record.is_right.mean(axis=0)
    assert accuracy[2:].tolist() == [1.0, 1.0]
    assert (np.abs(accuracy[:2] - 0.5) < 0.2).all()
    assert (np.abs(record.shuffled_right.mean(axis=0) - 0.5) < 0.2).all()
    assert record.bits[:, 2:].mean() > 0.9
    assert record.bits[:, :2].mean() < 0.1
    assert record.shuffled_bits.mean() < 0.1
    assert set(np.unique(record.l2)) <= {0.001, 0.01, 0.1, 1.0}


def test_curves_have_a_line_beside_and_the_difference_is_second_minus_first(record: ProbeRecord) -> None:
    curves = summarise_probes([record], n_resamples=200)
    assert [(c.lens, c.measure) for c in curves] == [
        (lens, measure) for lens in (PROBE, SHUFFLED) for measure in ("is_right", "calibrated_bits")
    ]
    assert curves[0].value == pytest.approx(record.is_right.mean(axis=0))
    assert curves[0].group == (("task", "qa1"), ("length", "0"))
    assert curves[0].n == N
    blind = replace(record, model="blind", is_right=record.is_right & False, bits=record.bits - 1)
    order = np.random.default_rng(1).permutation(N)
    by_sample = {name: getattr(blind, name)[order] for name in ("stories", "is_right", "bits", "l2")}
    moved = replace(blind, samples=tuple(blind.samples[i] for i in order), **by_sample)
    right, bits = compare_probes(record, moved, n_resamples=200)
    assert (right.model, right.baseline, right.lens) == ("blind", "carrier", PROBE)
    assert right.value == pytest.approx(-record.is_right.mean(axis=0))
    # Paired by prompt, nothing varies.
    assert bits.value == bits.low == bits.high == pytest.approx([-1.0] * 4)
    with pytest.raises(ValueError, match="other prompts or folds"):
        compare_probes(record, replace(record, n_folds=4))
    with pytest.raises(ValueError, match="4 and 3 stages"):
        compare_probes(record, replace(record, stages=record.stages[1:]))


def test_a_record_comes_back_from_json(record: ProbeRecord) -> None:
    back = ProbeRecord.from_dict(json.loads(results_json(record.to_dict(), digits=12)))
    assert (back.samples, back.stages, back.n_folds) == (record.samples, record.stages, record.n_folds)
    for name in ("stories", "is_right", "bits", "shuffled_right", "shuffled_bits", "l2"):
        assert getattr(back, name).dtype == getattr(record, name).dtype
        np.testing.assert_allclose(getattr(back, name), getattr(record, name))


def test_of_two_normal_classes_the_probe_comes_near_the_accuracy_and_bits_that_are_possible() -> None:
    rng, n, apart = np.random.default_rng(3), 1500, 2.0
    answers = rng.integers(0, 2, n)
    x = rng.normal(size=(n, 5)) * [1, 10, 0.1, 1, 1] + [7, 0, 0, 0, 0]
    x[:, 0] += apart * answers
    right, bits, _ = cross_validated(x, answers, 2, np.arange(n), 5)
    # Bayes: a threshold half way; the posterior is the logistic function of the log-ratio.
    assert right.mean() == pytest.approx(norm.cdf(apart / 2), abs=0.025)
    log_ratio = apart * (x[:, 0] - 7 - apart / 2) * np.where(answers == 1, 1, -1)
    assert bits.mean() == pytest.approx(1 - np.logaddexp(0, -log_ratio).mean() / np.log(2), abs=0.02)


def test_the_probe_is_where_the_slope_of_its_loss_is_0_with_more_features_than_prompts_too() -> None:
    rng = np.random.default_rng(4)
    for n, width in ((40, 6), (12, 30)):
        x, answers = rng.normal(size=(n, width)), rng.integers(0, 3, n)
        probe = fit_probe(x, answers, 3, 0.1)
        z = torch.tensor((x - probe.mean) / probe.scale)
        weight, bias = (torch.tensor(part, requires_grad=True) for part in (probe.weight, probe.bias))
        log_p, log_any = torch.log_softmax(z @ weight + bias, -1), torch.log_softmax(bias, -1)
        loss = -log_p[range(n), answers].mean() - log_any.mean() / n + 0.05 * (weight**2).sum()
        loss.backward()
        for part in (weight, bias):
            assert part.grad is not None
            assert part.grad.abs().max() < 1e-3
        np.testing.assert_allclose(probe.log_probs(x), log_p.detach().numpy(), atol=1e-12)


def test_a_feature_that_does_not_vary_and_an_answer_that_a_fold_lacks_are_no_trouble() -> None:
    x = np.stack([np.ones(30), np.linspace(-1, 1, 30)], axis=1)
    answers = (x[:, 1] > 0).astype(int)
    probe = fit_probe(x, answers, 3, 0.01)
    log_p = probe.log_probs(x)
    assert np.isfinite(log_p).all()
    assert (log_p.argmax(axis=1) == answers).all()
    assert (log_p[:, 2] < -2).all()


def test_strong_penalties_are_chosen_where_there_is_only_noise_and_weak_ones_where_there_is_none() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(80, 40))
    assert fit_best(x, rng.integers(0, 2, 80), 2, np.arange(80)).l2 == 1.0
    assert fit_best(x, (x[:, 0] > 0).astype(int), 2, np.arange(80)).l2 < 1.0


def test_prompts_of_one_story_are_never_fitted_and_read_at_once() -> None:
    rng = np.random.default_rng(6)
    # Every story has features of its own and one random answer, told four times: known only to who has seen it.
    stories = np.repeat(np.arange(30), 4)
    x = np.eye(30)[stories] + 0.01 * rng.normal(size=(120, 30))
    answers = rng.integers(0, 2, 30)[stories]
    apart, _, _ = cross_validated(x, answers, 2, stories, 5)
    leaking, _, _ = cross_validated(x, answers, 2, np.arange(120), 5)
    assert leaking.mean() > 0.95
    assert apart.mean() < 0.7


def test_prompts_that_begin_with_the_same_two_facts_are_one_story() -> None:
    def told(*facts: str, task: str = "qa1") -> NeedleSample:
        text, spans = " ".join(facts), []
        for fact in facts:
            start = text.index(fact)
            spans.append(Span(start, start + len(fact), 0, 1))
        return replace(sample_of([1, 2], LABELS, task=task), prompt=text, fact_spans=tuple(spans))

    samples = [
        told("a b.", "c d."),
        told("a b.", "c d.", "e f."),
        told("a b.", "e f."),
        told("a b.", "c d.", task="qa4"),
    ]
    assert stories_of(samples).tolist() == [0, 0, 1, 2]


def test_the_residual_stream_is_that_of_the_hooks_whatever_the_batches() -> None:
    model, samples = table_model(random_tables()[-1]), prompts(12)
    resid = residuals(model, samples, batch_tokens=9)
    assert resid.shape == (12, N_BLOCKS + 1, model.cfg.d_model)
    for row, sample in zip(resid, samples, strict=True):
        _, cache = model.run_with_cache(torch.tensor(sample.tokens[None].astype(np.int64)))
        names = [*(f"blocks.{i}.hook_resid_pre" for i in range(N_BLOCKS)), f"blocks.{N_BLOCKS - 1}.hook_resid_post"]
        np.testing.assert_allclose(row, [cache[name][0, -1].numpy() for name in names], atol=1e-12)


def test_too_few_stories_other_labels_and_samples_given_twice_are_refused() -> None:
    model, samples = table_model(random_tables()[-1]), prompts(12)
    with pytest.raises(ValueError, match="no samples"):
        probe_answers(model, [])
    with pytest.raises(ValueError, match="9 stories of qa1 at length 0: give at least 10"):
        probe_answers(model, samples[:9])
    with pytest.raises(ValueError, match="given twice"):
        probe_answers(model, [*samples, samples[0]])
    with pytest.raises(ValueError, match="n_folds is 1"):
        probe_answers(model, samples, n_folds=1)
    with pytest.raises(ValueError, match="n_folds is 13, but there are 12 stories of qa1 at length 0"):
        probe_answers(model, samples, n_folds=13)
    other = replace(samples[0], labels=(samples[0].answer, "z"))
    with pytest.raises(ValueError, match="different labels"):
        probe_answers(model, [other, *samples[1:]])
