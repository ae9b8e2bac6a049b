"""What is read from every stage along a run: which steps, which numbers, and that the run does not notice."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from diffmamba_interp import DifferentialConfig
from diffmamba_interp.hook_names import branch_out
from diffmamba_interp.implicit_attention import head_rivals
from diffmamba_interp.lens import LogitLens
from diffmamba_interp.lm_training.evaluation import bits_per_byte, prepare_evaluation
from diffmamba_interp.lm_training.loop import Trainer
from diffmamba_interp.lm_training.recipe import EvaluationRecipe, Recipe, StagesRecipe
from diffmamba_interp.lm_training.stage_readings import (
    PROMPTS_FILE,
    STAGES_FOLDER,
    StageReading,
    load_readings,
    reading_file,
)
from diffmamba_interp.needle import needle_trajectory
from diffmamba_interp.needle.babi import heldout_babi_stories
from diffmamba_interp.needle.records import load_samples
from tests.lm_training.tiny import losses, tiny_config, tiny_recipe, trainer

AT = (0, 2, 4)


def recipe_of(data: Path, *, at: tuple[int, ...] = AT, placement: tuple[int, ...] = (1,)) -> Recipe:
    stages = StagesRecipe(at=at, tasks=("qa1", "qa4"), lengths=(0, 160), n=(3, 2))
    files = {"babi_path": str(data / "babi.tar"), "filler": str(data / "filler.npy"), "text": (str(data / "eval.npy"),)}
    config = tiny_config(differential=DifferentialConfig(placement=placement) if placement else None)
    evaluation = EvaluationRecipe(every=100, n=0, max_tokens=300, stages=stages, **files)
    return tiny_recipe(data, steps=5, model__config=config, evaluation=evaluation)


def prepared_trainer(recipe: Recipe, folder: Path, tokenizer: PreTrainedTokenizerBase) -> Trainer:
    made = trainer(recipe, folder)
    assert recipe.evaluation is not None
    made.evaluation = prepare_evaluation(recipe.evaluation, tokenizer)
    return made


def test_a_run_keeps_a_reading_of_every_step_asked_for_and_the_prompts(
    data: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    run = prepared_trainer(recipe_of(data), tmp_path, tokenizer)
    run.run()
    readings = load_readings(tmp_path)
    assert [reading.step for reading in readings] == list(AT)
    prompts, _ = load_samples(tmp_path / STAGES_FOLDER / PROMPTS_FILE, tokenizer)
    kinds = [(sample.task, sample.length) for sample in prompts]
    assert kinds == [(t, n) for t in ("qa1", "qa4") for n, times in ((0, 3), (160, 2)) for _ in range(times)]
    held_out = {story.hash for task in ("qa1", "qa4") for story in heldout_babi_stories(data / "babi.tar", task)}
    assert {sample.story_hash for sample in prompts} <= held_out
    assert len({sample.prompt for sample in prompts}) == len(prompts)
    assert all(reading.log_probs.shape == (10, 3, 6) for reading in readings)
    assert not np.array_equal(readings[0].log_probs, readings[-1].log_probs)


def test_a_reading_is_the_models_trajectory_lambda_cosine_and_bits_per_byte(
    data: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    run = prepared_trainer(recipe_of(data, at=(5,)), tmp_path, tokenizer)
    run.run()
    (reading,), model, evaluation = load_readings(tmp_path), run.model.eval(), run.evaluation
    assert evaluation is not None
    samples = evaluation.stage_samples
    expected = needle_trajectory(model, LogitLens.from_model(model), samples).log_probs[0]
    np.testing.assert_allclose(reading.log_probs, expected, rtol=1e-5)
    assert reading.lambda_[1] == pytest.approx(model.blocks[1].mixer.lambda_().item())
    assert np.isnan(reading.lambda_[0])
    assert np.isnan(reading.branch_cosine[:, 0]).all()
    names = [branch_out(1, "minuend"), branch_out(1, "subtrahend")]
    for sample, row in zip(samples, reading.branch_cosine, strict=True):
        _, cache = model.run_with_cache(torch.from_numpy(sample.tokens)[None].long(), names)
        ends = (cache[name][0, -1] for name in names)
        assert row[1] == pytest.approx(torch.cosine_similarity(*ends, dim=0).item(), abs=1e-5)
    assert reading.negative_mass is not None
    assert reading.redundancy is not None
    each = [head_rivals(model, torch.from_numpy(sample.tokens)[None].long()) for sample in samples]
    for name in ("negative_mass", "redundancy"):
        expected = np.mean([scores.mean(name) for scores in each], axis=0)
        assert [part for _, part in each[0].rows] == [None, "minuend", "subtrahend", "difference"]
        read, n_heads = getattr(reading, name), each[0].n_heads
        np.testing.assert_allclose(read[0, 0, : n_heads[0]], expected[0, : n_heads[0]], rtol=1e-4)
        for place, row in ((0, 3), (1, 1), (2, 2)):
            np.testing.assert_allclose(read[1, place, : n_heads[1]], expected[row, : n_heads[1]], rtol=1e-4)
        assert np.isnan(read[0, 1:]).all()
    ((name, stream),) = evaluation.text.items()
    assert reading.bits_per_byte == {name: pytest.approx(bits_per_byte(model, stream, length=48, max_tokens=300))}


def test_a_reading_from_before_there_was_negative_mass_opens(tmp_path: Path) -> None:
    arrays = {"log_probs": np.zeros((1, 2, 3)), "branch_cosine": np.zeros((1, 2)), "lambda_": np.zeros(2)}
    older = StageReading(step=3, bits_per_byte={"text": 2.0}, **arrays)
    older.save(tmp_path)
    again = StageReading.load(reading_file(tmp_path, 3))
    assert (again.step, again.bits_per_byte, again.negative_mass) == (3, {"text": 2.0}, None)
    np.testing.assert_array_equal(again.log_probs, older.log_probs)


def test_a_plain_model_has_no_lambda_and_no_branches(
    data: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    prepared_trainer(recipe_of(data, at=(0,), placement=()), tmp_path, tokenizer).run()
    (reading,) = load_readings(tmp_path)
    assert np.isnan(reading.lambda_).all()
    assert np.isnan(reading.branch_cosine).all()


def test_reading_the_stages_does_not_change_the_run(
    data: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    read, unread = (tmp_path / name for name in ("read", "unread"))
    prepared_trainer(recipe_of(data), read, tokenizer).run()
    trainer(recipe_of(data), unread).run()
    assert losses(read) == losses(unread)
    assert load_readings(unread) == []


@pytest.mark.parametrize("stop_after", [2, 3])
def test_a_run_that_was_stopped_has_the_same_readings_in_the_end(
    data: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase, stop_after: int
) -> None:
    whole, broken = (tmp_path / name for name in ("whole", "broken"))
    prepared_trainer(recipe_of(data), whole, tokenizer).run()
    first = prepared_trainer(recipe_of(data), broken, tokenizer)
    first.run(lambda: first.step == stop_after)
    # As if the run had been killed between its snapshot and the reading.
    reading_file(broken, 2).unlink()
    prepared_trainer(recipe_of(data), broken, tokenizer).run()
    steps = [reading.step for reading in load_readings(broken)]
    assert steps == ([0, 2, 4] if stop_after == 2 else [0, 4])
    for step in steps:
        values = (StageReading.load(reading_file(folder, step)).log_probs for folder in (whole, broken))
        np.testing.assert_array_equal(*values)


def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, x=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz is no reading of a training run's stages"):
        StageReading.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"at": ()}, "name at least one step"),
        ({"at": (-1,)}, "none below 0"),
        ({"at": (1,), "tasks": ("qa9",)}, "evaluation.stages.tasks names qa9"),
        ({"at": (1,), "n": (1, 2)}, "n is .1, 2. for the lengths .0."),
        ({"at": (1,), "n": (0,)}, "n is .0."),
    ],
)
def test_a_section_that_cannot_be_read_says_what_is_wrong(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StagesRecipe(**changes)


def test_stages_at_a_length_need_filler_even_without_other_retrieval() -> None:
    with pytest.raises(ValueError, match="needs filler"):
        EvaluationRecipe(n=0, stages=StagesRecipe(at=(1,), lengths=(64,), n=(1,)))


def test_stories_that_fit_no_length_are_refused_before_the_run(data: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    stages = StagesRecipe(at=(1,), tasks=("qa1",), lengths=(4,), n=(1,))
    recipe = EvaluationRecipe(n=0, filler=str(data / "filler.npy"), stages=stages)
    with pytest.raises(ValueError, match=r"no story of qa1 fits evaluation\.stages\.lengths"):
        prepare_evaluation(recipe, tokenizer)
