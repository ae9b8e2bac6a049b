"""The training loop: equal to the library's, resumable to the bit, and clear about what stops it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import tuned_lens.nn.lenses as library
from transformers import get_linear_schedule_with_warmup

from diffmamba_interp import HookedMamba
from diffmamba_interp.lens import LensRecipe, LensTraining, ModelUnembed, TrainingError, TunedLens, residual_stream
from diffmamba_interp.lens import training as training_module
from diffmamba_interp.lens.training import StepRecord, Stopped
from diffmamba_interp.text.batches import RandomTokenBatches


@pytest.fixture
def model(tiny_model: HookedMamba) -> HookedMamba:
    return tiny_model


def batches_for(model: HookedMamba, recipe: LensRecipe) -> RandomTokenBatches:
    assert recipe.sequence_length is not None
    return RandomTokenBatches(
        model.cfg.d_vocab, length=recipe.sequence_length, batch_size=recipe.sequences_per_step, seed=recipe.seed
    )


def make_training(model: HookedMamba, recipe: LensRecipe, **settings: Any) -> LensTraining:
    return LensTraining(model, TunedLens.from_model(model), batches_for(model, recipe), recipe, **settings)


def train(model: HookedMamba, recipe: LensRecipe, **settings: Any) -> LensTraining:
    made = make_training(model, recipe, **settings)
    for _ in made.run():
        pass
    return made


def train_with_the_library(model: HookedMamba, recipe: LensRecipe, *, accumulate: int) -> library.TunedLens:
    """The library's training step on the same batches: its lens class, optimiser, schedule and clipping."""
    assert recipe.steps is not None
    config = library.TunedLensConfig("small", model.cfg.d_model, model.cfg.n_layers)
    lens = library.TunedLens(ModelUnembed(model), config)
    parameters = [parameter for parameter in lens.parameters() if parameter.requires_grad]
    if recipe.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            parameters, lr=recipe.lr_scale * (1 - 0.9), momentum=0.9, nesterov=True, weight_decay=1e-3
        )
    else:
        optimizer = torch.optim.Adam(
            parameters, lr=recipe.lr_scale * 1e-3, betas=(0.9, 0.999), amsgrad=True, weight_decay=1e-3
        )
    schedule = get_linear_schedule_with_warmup(optimizer, 0, recipe.steps)
    batches = batches_for(model, recipe)
    for _ in range(recipe.steps):
        for tokens in next(batches).chunk(accumulate):
            labels = model(tokens).log_softmax(-1)
            for i, h in enumerate(residual_stream(model, tokens).entering):
                logits = lens(h, idx=i)
                if recipe.loss == "kl":
                    loss = torch.sum(labels.exp() * (labels - logits.log_softmax(-1)), dim=-1).mean()
                else:
                    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
                (loss / accumulate).backward()
        torch.nn.utils.clip_grad_norm_(lens.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return lens


@pytest.mark.parametrize(("loss", "optimizer"), [("kl", "sgd"), ("ce", "sgd"), ("kl", "adam")])
def test_twenty_steps_give_the_translators_of_the_librarys_step(
    model: HookedMamba, recipe: LensRecipe, loss: Any, optimizer: Any
) -> None:
    recipe = replace(recipe, steps=20, loss=loss, optimizer=optimizer)
    ours = train(model, recipe, micro_batch=2).lens
    theirs = train_with_the_library(model, recipe, accumulate=2)
    for mine, expected in zip(ours, theirs, strict=True):
        # Adam divides by the gradient's size, which magnifies the rounding of entries that are almost zero.
        tolerance = 1e-5 if optimizer == "sgd" else 1e-4
        torch.testing.assert_close(mine.weight, expected.weight.detach(), rtol=0, atol=tolerance)
        torch.testing.assert_close(mine.bias, expected.bias.detach(), rtol=0, atol=tolerance)
        assert mine.weight.abs().max() > 5e-3


def test_the_loss_falls_and_the_rate_falls_linearly_to_zero(model: HookedMamba, recipe: LensRecipe) -> None:
    records = list(make_training(model, replace(recipe, steps=10)).run())
    assert records[-1].mean_loss_nats < 0.8 * records[0].mean_loss_nats
    assert [r.learning_rate for r in records] == pytest.approx([0.1 * (10 - k) / 10 for k in range(10)])
    assert [r.step for r in records] == list(range(1, 11))
    assert {r.n_tokens for r in records} == {64}


@pytest.mark.parametrize(
    "change", [{"lr_scale": 0.5}, {"seed": 1}, {"loss": "ce"}, {"optimizer": "adam"}, {"steps": 3}]
)
def test_every_training_option_changes_the_result(
    model: HookedMamba, recipe: LensRecipe, change: dict[str, Any]
) -> None:
    assert not torch.equal(train(model, recipe).weight, train(model, replace(recipe, **change)).weight)


def test_the_micro_batch_changes_the_result_by_rounding_only(model: HookedMamba, recipe: LensRecipe) -> None:
    torch.testing.assert_close(
        train(model, recipe, micro_batch=1).weight, train(model, recipe, micro_batch=4).weight, rtol=0, atol=1e-6
    )


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(model: HookedMamba, recipe: LensRecipe) -> None:
    whole = train(model, recipe, micro_batch=2)
    first = make_training(model, recipe, micro_batch=2)
    for record in first.run():
        if record.step == 2:
            break
    second = make_training(model, recipe)
    second.restore(first.state())
    records = list(second.run())
    assert [record.step for record in records] == [3, 4]
    assert second.micro_batch == 2
    assert torch.equal(second.weight, whole.weight)
    assert torch.equal(second.bias, whole.bias)


def test_a_stop_inside_a_step_leaves_the_state_of_the_last_whole_step(model: HookedMamba, recipe: LensRecipe) -> None:
    whole = train(model, recipe, micro_batch=1)
    calls = 0

    def should_stop() -> bool:
        nonlocal calls
        calls += 1
        return calls == 7  # four micro-batches a step: within the second step

    stopped = make_training(model, recipe, micro_batch=1)
    with pytest.raises(Stopped):
        list(stopped.run(should_stop))
    assert stopped.step == 1
    resumed = make_training(model, recipe)
    resumed.restore(stopped.state())
    list(resumed.run())
    assert torch.equal(resumed.weight, whole.weight)


def test_data_that_ends_early_is_an_error_that_says_how_far_training_came(
    model: HookedMamba, recipe: LensRecipe
) -> None:
    class Short(RandomTokenBatches):
        def __next__(self) -> torch.Tensor:
            if self.state()["batch"] == 2:
                raise StopIteration
            return super().__next__()

    short = Short(model.cfg.d_vocab, length=16, batch_size=4)
    with pytest.raises(TrainingError, match=r"ended after 2 of 4 steps.*max_passes"):
        list(LensTraining(model, TunedLens.from_model(model), short, recipe).run())


def test_a_loss_that_is_not_finite_stops_before_the_translators_change(model: HookedMamba, recipe: LensRecipe) -> None:
    model.embed.weight.data[5, 0] = float("nan")
    made = make_training(model, recipe)
    with pytest.raises(TrainingError, match=r"loss of block 0, 1 is not finite in step 1"):
        list(made.run())
    assert not made.weight.any()


def test_the_micro_batch_is_halved_when_memory_runs_out(
    model: HookedMamba, recipe: LensRecipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = train(model, recipe, micro_batch=1)

    def scarce(model: HookedMamba, tokens: torch.Tensor, **settings: Any) -> Any:
        if len(tokens) > 1:
            raise torch.OutOfMemoryError("pretended")
        return residual_stream(model, tokens, **settings)

    monkeypatch.setattr(training_module, "residual_stream", scarce)
    made = train(model, recipe, micro_batch=4)
    assert made.micro_batch == 1
    assert torch.equal(made.weight, expected.weight)
    assert "micro-batch of 2" in caplog.text


def test_memory_for_less_than_one_sequence_is_an_error(
    model: HookedMamba, recipe: LensRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("pretended")

    monkeypatch.setattr(training_module, "residual_stream", none_left)
    with pytest.raises(TrainingError, match="sequence_length"):
        list(make_training(model, recipe, micro_batch=2).run())


def test_a_position_of_other_data_is_refused(model: HookedMamba, recipe: LensRecipe) -> None:
    state: Mapping[str, Any] = train(model, recipe).state()
    with pytest.raises(ValueError, match="seed"):
        make_training(model, replace(recipe, seed=3)).restore(state)


def test_the_next_step_s_tokens_are_fetched_within_a_step_but_not_beyond_the_last(
    tiny_model: HookedMamba, recipe: LensRecipe
) -> None:
    batches = batches_for(tiny_model, recipe)
    run = LensTraining(tiny_model, TunedLens.from_model(tiny_model), batches, recipe)
    drawn, kept = [], []
    for _ in run.run():
        drawn.append(batches.state()["batch"])
        kept.append(run.state()["position"]["batch"])
    assert drawn == [2, 3, 4, 4]
    assert kept == [1, 2, 3, 4]


def test_a_step_is_logged_with_its_mean_and_drawn_block_by_block() -> None:
    step = StepRecord(step=3, loss_nats=(1.0, 3.0), gradient_norm=0.5, learning_rate=0.1, n_tokens=64)
    assert step.to_dict() == {
        "step": 3,
        "loss_nats": (1.0, 3.0),
        "gradient_norm": 0.5,
        "learning_rate": 0.1,
        "n_tokens": 64,
        "mean_loss_nats": 2.0,
    }
    assert step.scalars()["loss_nats/translator_1"] == 3.0
    assert step.scalars()["mean_loss_nats"] == 2.0
