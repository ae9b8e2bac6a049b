"""Any measurement, clean beside intervened, with the right numbers and intervals."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.interventions import (
    AddNoise,
    AnswerReading,
    InterventionRecord,
    KnockOut,
    ScaleLambda,
    SetLambda,
    SweepRecord,
    answer_readings,
    compare,
    compare_each,
    hooks_of,
    sweep,
)
from diffmamba_interp.interventions.compare import dosed
from diffmamba_interp.interventions.records import mean_interval, with_probability
from diffmamba_interp.lens import LogitLens, lens_trajectory
from tests.models.tiny import random_tokens, tiny_model

ANSWERS, LABELS = (3, 11, 3), (3, 7, 11)


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,)))


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return random_tokens(3, 8)


# ------------------------------------------------------------------ readings


def test_readings_of_known_probabilities_are_those_of_the_formulas() -> None:
    p = torch.tensor([[0.4, 0.2, 0.05, 0.1, 0.25]], dtype=torch.float64)
    found = answer_readings(p.log() + 3.0, torch.tensor([0]), torch.tensor([[1, 0, 2]]))
    assert float(found["answer_logit"]) == pytest.approx(math.log(0.4) + 3.0, abs=1e-12)
    assert float(found["answer_log_probability"]) == pytest.approx(math.log(0.4), abs=1e-12)
    assert float(found["label_probability"]) == pytest.approx(0.4 / 0.65, abs=1e-12)
    assert float(found["snr_db"]) == pytest.approx(10 * math.log10(0.4 / 0.125), abs=1e-12)


def test_improbable_labels_have_a_finite_ratio() -> None:
    found = answer_readings(torch.tensor([[0.0, -900.0, -800.0]]), torch.tensor([1]), torch.tensor([[1, 2]]))
    assert float(found["snr_db"]) == pytest.approx(-100 * 10 / math.log(10), rel=1e-5)


@torch.no_grad()
def test_prompts_are_read_at_their_last_token_whatever_the_padding_and_batch(
    model: HookedMamba, tokens: Tensor
) -> None:
    lengths = torch.tensor([8, 5, 6])
    reading = AnswerReading(tokens=tokens, answers=ANSWERS, labels=LABELS, lengths=lengths, batch_size=2)
    found = reading(model)
    for sample, length in enumerate(lengths.tolist()):
        alone = AnswerReading(tokens=tokens[sample : sample + 1, :length], answers=ANSWERS[sample:][:1], labels=LABELS)
        for name, value in alone(model).items():
            assert float(found[name][sample]) == pytest.approx(float(value), abs=1e-4)
        logit = model(tokens[sample : sample + 1, :length])[0, -1, ANSWERS[sample]]
        assert float(found["answer_logit"][sample]) == pytest.approx(float(logit), abs=1e-5)


def test_every_prompt_may_have_labels_of_its_own(model: HookedMamba, tokens: Tensor) -> None:
    of_each = AnswerReading(tokens=tokens, answers=ANSWERS, labels=[(3, 7), (1, 11), (2, 3)])(model)
    second = AnswerReading(tokens=tokens[1:2], answers=(11,), labels=(1, 11))(model)
    assert float(of_each["snr_db"][1]) == pytest.approx(float(second["snr_db"]), abs=1e-4)


def test_a_lens_is_read_at_every_block(model: HookedMamba, tokens: Tensor) -> None:
    lens = LogitLens.from_model(model)
    found = AnswerReading(tokens=tokens, answers=ANSWERS, labels=LABELS, lenses={"logit": lens})(model)
    targets = torch.tensor(ANSWERS)[:, None].expand(3, 8)
    trajectory = lens_trajectory(model, lens, tokens, targets=targets, positions=slice(-1, None))
    expected = trajectory.target_log_probabilities[:, :, 0]
    assert np.allclose(found["logit.answer_log_probability"].numpy(), expected[:, :-1], atol=1e-5)
    assert np.allclose(found["answer_log_probability"].numpy(), expected[:, -1], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": (3,)}, "there are 1 answers for 3 prompts"),
        ({"labels": (3, 7)}, r"sample 1 has the labels \[3, 7\] and the answer 11"),
        ({"labels": (3, 11, 3)}, "the labels must differ from one another"),
        ({"labels": (3,)}, "at least two token ids"),
        ({"labels": [(3, 7), (11, 7)]}, "one such list per prompt"),
    ],
)
def test_answers_and_labels_that_do_not_fit_are_refused(tokens: Tensor, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnswerReading(**({"tokens": tokens, "answers": ANSWERS, "labels": LABELS} | changes))


def test_answers_outside_the_vocabulary_are_refused(model: HookedMamba, tokens: Tensor) -> None:
    with pytest.raises(ValueError, match="answers holds token ids from 3 to 23: the vocabulary is 0 to 22"):
        AnswerReading(tokens=tokens, answers=(3, 23, 4))(model)
    with pytest.raises(ValueError, match="labels holds token ids from -1 to 3"):
        AnswerReading(tokens=tokens, answers=(3, 3, 3), labels=(3, -1))(model)


# ------------------------------------------------------------------ compare


@torch.no_grad()
def test_a_comparison_holds_the_readings_with_and_without_the_hooks(model: HookedMamba, tokens: Tensor) -> None:
    intervention = SetLambda(value=-2.0)
    record = compare(AnswerReading(tokens=tokens, answers=ANSWERS, labels=LABELS), model, intervention)
    hooked = model.run_with_hooks(tokens, hooks_of(model, intervention))[range(3), -1, ANSWERS]
    assert np.allclose(record.intervened["answer_logit"], hooked.numpy(), atol=1e-5)
    assert np.allclose(record.clean["answer_logit"], model(tokens)[range(3), -1, ANSWERS].numpy(), atol=1e-5)
    effect = record.effect("snr_db")
    assert float(effect.change) == pytest.approx(float(effect.intervened - effect.clean))
    assert float(effect.low) < float(effect.change) < float(effect.high)
    assert (effect.n, effect.unit) == (3, "dB")
    assert "dB, change" in str(effect)
    assert set(record.summary()) == {"answer_logit", "answer_log_probability", "label_probability", "snr_db"}


@torch.no_grad()
def test_lenses_are_read_under_the_intervention(model: HookedMamba, tokens: Tensor) -> None:
    reading = AnswerReading(tokens=tokens, answers=ANSWERS, lenses={"logit": LogitLens.from_model(model)})
    record = compare(reading, model, KnockOut(positions=(5,), blocks=0))
    change = record.change("logit.answer_logit")
    assert np.array_equal(change[:, 0], np.zeros(3)), "the embedding is read before the knock-out"
    assert (np.abs(change[:, 1]) > 1e-6).all()
    assert record.effect("logit.answer_logit").low.shape == (2,)
    assert "arrays of shape (2,)" in str(record.effect("logit.answer_logit"))


@torch.no_grad()
def test_any_function_of_the_model_can_be_compared(model: HookedMamba, tokens: Tensor) -> None:
    record = compare(lambda model: [float(row.sum()) for row in model(tokens)], model, [SetLambda(value=0.0)])
    assert list(record.clean) == ["value"]
    assert np.allclose(record.clean["value"], model(tokens).sum(dim=(1, 2)).numpy(), rtol=1e-5)
    assert record.interventions == ({"kind": "SetLambda", "value": 0.0, "blocks": None},)


@torch.no_grad()
def test_every_sample_may_have_interventions_of_its_own(model: HookedMamba, tokens: Tensor) -> None:
    def read(model: HookedMamba, samples: list[int]) -> Tensor:
        return model(tokens[samples])[:, -1, 0]

    seen: list[int] = []
    record = compare_each(
        read, model, [0, 1, 2], lambda sample: KnockOut(positions=2 * sample), on_progress=seen.append
    )
    assert seen == [1, 1, 1]
    assert np.allclose(record.clean["value"], model(tokens)[:, -1, 0].numpy(), atol=1e-6)
    for sample in range(3):
        hooked = model.run_with_hooks(tokens[[sample]], hooks_of(model, KnockOut(positions=(2 * sample,))))
        assert record.intervened["value"][sample] == pytest.approx(float(hooked[0, -1, 0]), abs=1e-6)
    assert record.effect("value").n == 3
    with pytest.raises(ValueError, match="no samples"):
        compare_each(read, model, [], lambda sample: KnockOut(positions=(sample,)))


@pytest.mark.parametrize("found", [3.0, [], {}, {"a": [1.0], "b": [1.0, 2.0]}])
def test_a_read_without_one_value_per_sample_is_refused(model: HookedMamba, found: object) -> None:
    with pytest.raises(ValueError, match="whose first axis is the sample"):
        compare(lambda model: found, model, SetLambda(value=0.0))


def test_a_read_that_changes_its_samples_is_refused(model: HookedMamba) -> None:
    values = iter([[1.0], [1.0, 2.0]])
    with pytest.raises(ValueError, match="it must measure the same samples"):
        compare(lambda model: next(values), model, SetLambda(value=0.0))


# ------------------------------------------------------------------ sweeps


@torch.no_grad()
def test_a_sweep_holds_each_dose_in_each_group_of_blocks(tokens: Tensor) -> None:
    model = tiny_model(DifferentialConfig(placement="all"))
    read = AnswerReading(tokens=tokens, answers=ANSWERS)
    seen: list[int] = []
    record = sweep(
        read,
        model,
        lambda factor, blocks: ScaleLambda(factor=factor, blocks=blocks),
        doses=(0.0, 1.0, 2.0),
        groups=(0, (0, 1), None),
        dose="factor",
        on_progress=seen.append,
    )
    assert record.groups == ((0,), (0, 1), None)
    assert len(seen) == 9
    for row, group in enumerate(record.groups):
        for column, factor in enumerate(record.doses):
            alone = compare(read, model, ScaleLambda(factor=factor, blocks=group))
            assert np.array_equal(record.intervened["answer_logit"][row, column], alone.intervened["answer_logit"])
    assert np.array_equal(record.change("answer_logit")[:, 1], np.zeros((3, 3))), "factor 1 changes nothing"
    assert np.array_equal(record.change("answer_logit")[1], record.change("answer_logit")[2])
    effect = record.effect("answer_logit")
    assert effect.change.shape == effect.low.shape == effect.clean.shape == (3, 3)
    assert (effect.low[:, [0, 2]] < effect.change[:, [0, 2]]).all()


def test_a_sweep_of_nothing_is_refused(model: HookedMamba, tokens: Tensor) -> None:
    for doses, groups in (((), (None,)), ((1.0,), ())):
        with pytest.raises(ValueError, match="give at least one of each"):
            sweep(lambda model: [1.0], model, lambda v, b: SetLambda(value=v), doses=doses, groups=groups)


# ------------------------------------------------------------------ records


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(1.0, 2.0, size=(100, 400))
    low, high = mean_interval(values, n_resamples=1000)
    covered = float(((low < 1.0) & (high > 1.0)).mean())
    assert 0.90 < covered < 0.98
    width = 2 * 1.96 * 2.0 / 100**0.5
    assert float((high - low).mean()) == pytest.approx(width, rel=0.05)


def test_one_sample_has_no_interval() -> None:
    record = InterventionRecord(interventions=(), clean={"a": np.ones(1)}, intervened={"a": np.zeros(1)})
    assert str(record.effect("a")) == "a: 1 -> 0, change -1, n = 1"
    low, high = mean_interval(np.ones((1, 3)))
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_records_go_to_json_and_back(model: HookedMamba, tokens: Tensor) -> None:
    reading = AnswerReading(tokens=tokens, answers=ANSWERS, lenses={"logit": LogitLens.from_model(model)})
    one = compare(reading, model, [SetLambda(value=0.0), KnockOut(positions=(1, 2))])
    many = sweep(reading, model, lambda v, b: SetLambda(value=v, blocks=b), doses=(0.0, 1.0), groups=(None, (0,)))
    for record, kind in ((one, InterventionRecord), (many, SweepRecord)):
        again = kind.from_dict(json.loads(json.dumps(record.to_dict())))
        assert again.to_dict() == record.to_dict()
        for reading_name in record.clean:
            assert np.array_equal(again.change(reading_name), record.change(reading_name))


def test_a_reading_that_there_is_not_is_an_error_which_names_those_there_are(
    model: HookedMamba, tokens: Tensor
) -> None:
    record = compare(AnswerReading(tokens=tokens, answers=ANSWERS), model, SetLambda(value=0.0))
    with pytest.raises(KeyError, match="there is no reading 'accuracy': the record holds answer_logit, answer_log"):
        record.effect("accuracy")


def test_a_sweep_s_effect_holds_the_clean_mean_beside_every_dose() -> None:
    generator = np.random.default_rng(0)
    clean, intervened = generator.normal(size=(5, 2)), 3 + generator.normal(size=(2, 3, 5, 2))
    sweep = SweepRecord(
        dose="x", doses=(0.0, 1.0, 2.0), groups=((0,), None), clean={"a": clean}, intervened={"a": intervened}
    )
    effect = sweep.effect("a")
    assert effect.clean.shape == effect.intervened.shape == effect.change.shape == (2, 3, 2)
    for group, dose in np.ndindex(2, 3):
        assert np.allclose(effect.clean[group, dose], clean.mean(axis=0))
        assert np.allclose(effect.intervened[group, dose], intervened[group, dose].mean(axis=0))
    assert np.allclose(effect.change, effect.intervened - effect.clean)
    assert (effect.low < effect.change).all()
    assert (effect.change < effect.high).all()
    assert (effect.n, effect.reading) == (5, "a")


def test_probabilities_stand_beside_their_logarithms_of_the_model_and_of_every_lens(
    model: HookedMamba, tokens: Tensor
) -> None:
    reading = AnswerReading(tokens=tokens, answers=[1] * len(tokens), lenses={"logit": LogitLens.from_model(model)})
    record = compare(reading, model, ScaleLambda(factor=0.5))
    with_both = with_probability(record)
    for before, after in ((record.clean, with_both.clean), (record.intervened, with_both.intervened)):
        assert set(after) - set(before) == {"answer_probability", "logit.answer_probability"}
        for name in ("", "logit."):
            assert np.allclose(np.log(after[f"{name}answer_probability"]), before[f"{name}answer_log_probability"])


def test_a_dose_comes_after_what_else_is_changed_in_its_blocks() -> None:
    make = dosed(AddNoise, "snr_db", after={(0, 1): [SetLambda(value=0.0)]}, seed=3)
    assert make(5.0, (0, 1)) == [SetLambda(value=0.0), AddNoise(snr_db=5.0, blocks=(0, 1), seed=3)]
    assert make(5.0, None) == [AddNoise(snr_db=5.0, blocks=None, seed=3)]
