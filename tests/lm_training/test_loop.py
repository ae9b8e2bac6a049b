import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.lm_training import loop
from diffmamba_interp.lm_training.loop import TrainingDivergedError
from diffmamba_interp.lm_training.recipe import ModelRecipe, RetrievalPart
from diffmamba_interp.lm_training.snapshots import read_snapshot
from diffmamba_interp.models.checkpoints import load_model
from tests.lm_training.tiny import log, losses, tiny_config, tiny_recipe, trainer


def trained(recipe: Any, folder: Path) -> dict[str, torch.Tensor]:
    """The weights after the whole run."""
    one = trainer(recipe, folder)
    assert one.run().is_complete
    return one.model.state_dict()


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def test_the_recipe_twice_gives_the_same_losses_and_weights_bit_for_bit(data: Path, tmp_path: Path) -> None:
    config = tiny_config(differential=DifferentialConfig(placement=(1,)))
    recipe = tiny_recipe(data, steps=16, model__config=config)
    one, two = (trained(recipe, tmp_path / name) for name in ("one", "two"))
    assert equal(one, two)
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    assert len(losses(tmp_path / "one")) == 16


def test_training_learns(data: Path, tmp_path: Path) -> None:
    trained(tiny_recipe(data, steps=20, optimiser__lr=1e-2), tmp_path)
    values = losses(tmp_path)
    assert sum(values[-5:]) < 0.9 * sum(values[:5])


@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_stopped_and_resumed_a_run_ends_with_the_same_weights_and_log(
    data: Path, tmp_path: Path, stop_after: int
) -> None:
    recipe = tiny_recipe(data, steps=8)
    whole = trained(recipe, tmp_path / "whole")
    first = trainer(recipe, tmp_path / "broken")
    outcome = first.run(lambda: first.step == stop_after)
    assert (outcome.step, outcome.is_complete, outcome.is_asked_to_stop) == (stop_after, False, True)
    assert equal(trained(recipe, tmp_path / "broken"), whole)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert [record["tokens"] for record in log(tmp_path / "broken")] == [4 * 48 * step for step in range(1, 9)]


def test_no_minutes_left_is_a_stop_with_a_snapshot(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(data)
    outcome = trainer(dataclasses.replace(recipe, max_minutes=0.0), tmp_path / "broken").run()
    assert (outcome.step, outcome.is_complete, outcome.is_asked_to_stop) == (1, False, False)
    assert equal(trained(recipe, tmp_path / "broken"), trained(recipe, tmp_path / "whole"))


def test_snapshots_come_at_their_steps(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    monkeypatch.setattr(loop, "write_snapshot", lambda folder, snapshot: steps.append(snapshot.step))
    trainer(tiny_recipe(data, steps=5, snapshot_every=2), tmp_path).run()
    assert steps == [2, 4, 5]


def test_a_log_line_says_everything_and_every_value_is_a_number(data: Path, tmp_path: Path) -> None:
    config = tiny_config(differential=DifferentialConfig())
    trained(tiny_recipe(data, steps=5, log_every=2, model__config=config), tmp_path)
    records = log(tmp_path)
    assert [record["step"] for record in records] == [2, 4, 5]
    names = {"step", "loss", "gradient_norm", "lr", "lambda", "tokens", "tokens_per_s", "seconds"}
    names |= {"text_loss", "context_loss", "answer_loss", "answer_accuracy"}
    for record in records:
        assert set(record) == names
        assert len(record["lambda"]) == 2
        assert all(math.isfinite(value) for name, value in record.items() if name != "lambda")
    assert records[0]["tokens"] == 2 * 4 * 48
    assert "lambda" not in log_of_plain(data, tmp_path / "plain")


def log_of_plain(data: Path, folder: Path) -> dict[str, Any]:
    trained(tiny_recipe(data, steps=1), folder)
    return log(folder)[0]


@pytest.mark.parametrize("place", ["before a snapshot", "after one"])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    # Each of the two places that look at the loss, a log line and a snapshot, is met alone.
    every = {"snapshot_every": 2, "log_every": 100} if place == "after one" else {"snapshot_every": 100}
    recipe = tiny_recipe(data, steps=8, **every)
    one = trainer(recipe, tmp_path)
    usual = one.train_step

    def poisoned(*arguments: Any) -> Any:
        if one.step == 5:
            one.model.embed.weight.data[:] = math.nan
        return usual(*arguments)

    monkeypatch.setattr(one, "train_step", poisoned)
    with pytest.raises(TrainingDivergedError, match=r"step 6: the loss is nan .* [Ll]ower optimiser.lr") as error:
        one.run()
    kept = read_snapshot(tmp_path)
    if place == "before a snapshot":
        assert kept is None
        assert len(log(tmp_path)) == 5
        assert "holds no snapshot yet (snapshot_every is 100)" in str(error.value)
    else:
        assert kept is not None
        assert kept.step == 4
        assert all(bool(torch.isfinite(value).all()) for value in kept.model.values())
        assert "is from before, with finite values" in str(error.value)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulation_changes_memory_and_not_the_result(data: Path, tmp_path: Path, accumulation: int) -> None:
    whole = trained(tiny_recipe(data, steps=4), tmp_path / "whole")
    parts = trained(tiny_recipe(data, steps=4, accumulation=accumulation), tmp_path / "parts")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_the_answer_loss_sees_answers_alone(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(data, steps=1, data__text=(), loss="answer", data__retrieval=RetrievalPart(weight=1.0))
    one = trainer(recipe, tmp_path)
    one.run()
    record = log(tmp_path)[0]
    assert record["loss"] == pytest.approx(record["answer_loss"], rel=1e-5)
    assert record["context_loss"] != pytest.approx(record["answer_loss"], rel=1e-3)


def test_the_full_loss_is_the_mean_over_all_tokens_by_their_weights(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(data, steps=1)
    one = trainer(recipe, tmp_path)
    roles = one.mixture.batch(0).target_roles
    counts = torch.bincount(roles.flatten().long(), minlength=4).double()
    one.run()
    record = log(tmp_path)[0]
    means = torch.tensor([0.0, record["text_loss"], record["context_loss"], record["answer_loss"]]).double()
    weighted = counts * torch.tensor(recipe.role_weights).double()
    assert record["loss"] == pytest.approx(float((weighted * means).sum() / weighted.sum()), rel=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"optimiser__lr": 1e-3},
        {"optimiser__betas": (0.5, 0.95)},
        {"optimiser__betas": (0.9, 0.5)},
        {"optimiser__eps": 1e-2},
        {"optimiser__weight_decay": 0.0},
        {"optimiser__warmup": 1},
        {"optimiser__floor": 0.9},
        {"optimiser__clip": 0.01},
        {"batch_size": 2},
        {"seed": 1},
        {"data__seed": 1},
        {"data__length": 40},
        {"loss": "answer"},
        {"precision": "bf16"},
        {"data__retrieval__context_weight": 0.5},
        {"data__retrieval__answer_weight": 9.0},
        {"data__retrieval__weight": 9.0},
        {"model__config": tiny_config(initializer_range=0.1)},
    ],
    ids=str,
)
def test_each_option_changes_the_weights(
    data: Path, tmp_path: Path, usual_weights: dict[str, torch.Tensor], change: dict[str, Any]
) -> None:
    assert not equal(trained(tiny_recipe(data, steps=4, **change), tmp_path), usual_weights)


@pytest.fixture(scope="module")
def usual_weights(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return trained(tiny_recipe(data, steps=4), tmp_path_factory.mktemp("usual"))


def test_bf16_computes_in_bf16_and_keeps_float32_weights(data: Path, tmp_path: Path) -> None:
    rounded = trained(tiny_recipe(data, precision="bf16"), tmp_path / "bf16")
    trained(tiny_recipe(data), tmp_path / "float32")
    assert {value.dtype for value in rounded.values()} == {torch.float32}
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "float32"), rel=2e-2)


def test_data_prepared_by_other_processes_gives_the_same_losses(data: Path, tmp_path: Path) -> None:
    trained(tiny_recipe(data, steps=3), tmp_path / "alone")
    trained(tiny_recipe(data, steps=3, workers=2), tmp_path / "helped")
    assert losses(tmp_path / "helped") == losses(tmp_path / "alone")


@pytest.mark.parametrize("placement", [None, "all", (1,)])
def test_training_goes_on_from_a_checkpoint_converted_or_not(data: Path, tmp_path: Path, placement: Any) -> None:
    before = HookedMamba(tiny_config())
    before.save_pretrained(tmp_path / "before")
    model = ModelRecipe(init_from=str(tmp_path / "before"), placement=placement)
    one = trainer(dataclasses.replace(tiny_recipe(data, steps=3), model=model), tmp_path / "run")
    start = {name: value.clone() for name, value in one.model.state_dict().items()}
    assert torch.equal(start["embed.weight"], before.embed.weight)
    one.run()
    now = one.model.state_dict()
    assert [name for name in start if torch.equal(start[name], now[name])] == []
    assert len(one.model.cfg.differential_blocks) == {None: 0, "all": 2, (1,): 1}[placement]


@pytest.mark.parametrize("tied", [False, True])
def test_exported_models_load_in_the_dtypes_asked_for_with_the_trained_weights(
    data: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase, tied: bool
) -> None:
    config = tiny_config(tie_embeddings=tied, differential=DifferentialConfig(placement=(0,)))
    one = trainer(tiny_recipe(data, steps=1, model__config=config), tmp_path)
    one.run()
    folders = one.export(tokenizer)
    assert [folder.name for folder in folders] == ["model", "model-bf16"]
    exact, rounded = (load_model(folder) for folder in folders)
    assert exact.cfg == rounded.cfg == config
    assert equal(exact.state_dict(), one.model.state_dict())
    stored = load_file(folders[1] / "model.safetensors")
    assert torch.bfloat16 in {value.dtype for value in stored.values()}
    for name, value in rounded.state_dict().items():
        torch.testing.assert_close(value, one.model.state_dict()[name], rtol=1e-2, atol=1e-6)
    assert all((folder / "tokenizer.json").is_file() for folder in folders)
    assert one.model.embed.weight.dtype == torch.float32


def test_export_writes_what_the_recipe_names(data: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    one = trainer(tiny_recipe(data, steps=1, export=("bf16",)), tmp_path)
    assert [folder.name for folder in one.export(tokenizer)] == ["model"]
