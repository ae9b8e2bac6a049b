import tomllib
from pathlib import Path
from typing import Any

import pytest

from diffmamba_interp import DifferentialConfig
from diffmamba_interp.lm_training.recipe import (
    DataRecipe,
    EvaluationRecipe,
    ModelRecipe,
    OptimiserRecipe,
    Recipe,
    RetrievalPart,
    TextPart,
)
from diffmamba_interp.runs.settings import from_values, read_toml, to_toml, to_values
from tests.lm_training.tiny import tiny_config, tiny_recipe

PLAIN = """
steps = 3
batch_size = 4
[model.config]
d_model = 16
n_layers = 2
d_vocab = 300
d_head = 8
[data]
tokenizer = "t"
length = 8
[[data.text]]
weight = 1
tokens = "a.npy"
[optimiser]
lr = 1e-3
"""


def read(text: str, tmp_path: Path) -> Recipe:
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    return read_toml(Recipe, tmp_path / "r.toml")


def test_a_recipe_goes_to_toml_and_back(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        tmp_path,
        model__config=tiny_config(differential=DifferentialConfig(placement=(1,))),
        data__text=(TextPart(weight=0.5, source='odd "name"\\ \t.txt'), TextPart(weight=1.0, tokens="b.npy")),
        evaluation=EvaluationRecipe(lengths=(0, 64), filler="f.npy"),
        optimiser__eps=1e-12,
        max_minutes=0.5,
        export=(),
    )
    text = to_toml(to_values(recipe))
    assert from_values(Recipe, tomllib.loads(text)) == recipe
    assert read(text, tmp_path) == recipe


def test_whole_numbers_serve_where_fractions_are_meant(tmp_path: Path) -> None:
    assert read(PLAIN, tmp_path).data.text[0].weight == 1.0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 3", "stepps = 3", "unknown keys stepps. Known: model, data"),
        ("lr = 1e-3", "lr = 1e-3\nbeta = 1", "unknown keys optimiser.beta"),
        ("d_model = 16", "d_modell = 16", r"in \[model.config\]: unknown keys in the model config: d_modell"),
        ("steps = 3", "steps = 3.5", "steps is 3.5: it must be a whole number"),
        ("steps = 3", "steps = true", "steps is True: it must be a whole number"),
        ("weight = 1", 'weight = "1"', r"data.text\[0\].weight is '1': it must be a number"),
        ("lr = 1e-3", "", "missing keys optimiser.lr. Known: lr"),
        ("steps = 3", 'loss = "some"\nsteps = 3', "loss is 'some': it must be one of full, answer"),
        ("lr = 1e-3", "lr = 1e-3\nbetas = [0.9]", "optimiser.betas has 1 entries: it must have 2"),
        ("lr = 1e-3", "lr = ", "is not valid TOML: Invalid value"),
        ("lr = 1e-3", "lr = 1e-3\nx = " + "[" * 200_000, "is nested too deeply to be read as TOML"),
        ("d_model = 16", "d_model = 15", "which d_head 8 does not divide.$"),
    ],
)
def test_mistakes_in_a_recipe_are_named_with_the_file(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read(PLAIN.replace(old, new), tmp_path)
    assert str(error.value).startswith(str(tmp_path / "r.toml"))


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none.toml is no file: give the path of a recipe"):
        read_toml(Recipe, tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ModelRecipe, {}, "needs either config .* or init_from"),
        (ModelRecipe, {"config": tiny_config(), "init_from": "x"}, "needs either config .* or init_from"),
        (ModelRecipe, {"config": tiny_config(), "placement": "all"}, "placement converts the checkpoint"),
        (TextPart, {"weight": 1.0}, "needs either tokens"),
        (TextPart, {"weight": 0.0, "tokens": "a"}, "weight is 0.0: it must be positive"),
        (RetrievalPart, {"weight": 0.0}, "weight must be positive"),
        (RetrievalPart, {"weight": 1.0, "answer_weight": -1.0}, "not negative"),
        (RetrievalPart, {"weight": 1.0, "tasks": (0.0,) * 5}, "at least one share must be above 0"),
        (RetrievalPart, {"weight": 1.0, "lengths": (0, 8)}, "length_weights has one weight for each"),
        (RetrievalPart, {"weight": 1.0, "real": 1.0}, "real stories need babi_path"),
        (RetrievalPart, {"weight": 1.0, "lengths": (8,)}, "lengths above 0 need filler"),
        (RetrievalPart, {"weight": 1.0, "short": 2.0}, "short is 2.0"),
        (RetrievalPart, {"weight": 1.0, "max_questions": 0}, "max_questions is 0"),
        (DataRecipe, {"tokenizer": "t", "length": 8}, "names no data"),
        (DataRecipe, {"tokenizer": "t", "length": 1}, "length is 1"),
        (OptimiserRecipe, {"lr": 0.0}, "lr > 0"),
        (OptimiserRecipe, {"lr": float("nan")}, "lr is nan: it must be a finite number"),
        (OptimiserRecipe, {"lr": float("inf")}, "lr is inf: it must be a finite number"),
        (OptimiserRecipe, {"lr": 1.0, "betas": (0.9, float("nan"))}, "betas is nan"),
        (OptimiserRecipe, {"lr": 1.0, "betas": (0.9, 1.0)}, r"betas in \[0, 1\)"),
        (OptimiserRecipe, {"lr": 1.0, "weight_decay": float("nan")}, "weight_decay is nan"),
        (OptimiserRecipe, {"lr": 1.0, "weight_decay": -0.1}, "weight_decay >= 0"),
        (OptimiserRecipe, {"lr": 1.0, "eps": -1e-8}, "eps >= 0"),
        (OptimiserRecipe, {"lr": 1.0, "clip": float("nan")}, "clip is nan"),
        (TextPart, {"weight": float("nan"), "tokens": "a"}, "weight is nan"),
        (TextPart, {"weight": 1.0, "tokens": "a", "max_tokens": 0}, "max_tokens is 0"),
        (RetrievalPart, {"weight": float("inf")}, "weight is inf"),
        (RetrievalPart, {"weight": 1.0, "tasks": (float("nan"), 1.0, 1.0, 1.0, 1.0)}, "tasks is nan"),
        (RetrievalPart, {"weight": 1.0, "context_weight": float("nan")}, "context_weight is nan"),
        (RetrievalPart, {"weight": 1.0, "filler_tokens": -1}, "filler_tokens is -1"),
        (OptimiserRecipe, {"lr": 1.0, "clip": 0.0}, "clip is 0.0"),
        (EvaluationRecipe, {"every": 0}, "every >= 1"),
        (EvaluationRecipe, {"tasks": ("qa9",)}, "names qa9: known are qa1"),
        (EvaluationRecipe, {"lengths": (8,)}, "lengths above 0 needs filler"),
    ],
)
def test_impossible_values_are_refused(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"accumulation": 3}, "batch_size 4 is no multiple of accumulation 3"),
        ({"loss": "answer", "data__retrieval": None}, "needs retrieval samples"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 10**30}, "seed is 10+: it must be"),
        ({"steps": 10**30}, "steps is 10+: it must be"),
        ({"workers": -1}, "workers is -1"),
        ({"max_minutes": float("nan")}, "max_minutes is nan"),
        ({"max_minutes": -1.0}, "max_minutes is -1.0: it cannot be negative"),
        ({"data__seed": 2**32}, "data.seed is 4294967296"),
    ],
    ids=str,
)
def test_impossible_runs_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_recipe(tmp_path, **change)


def test_role_weights_follow_the_loss(tmp_path: Path) -> None:
    weights = {"context_weight": 0.2, "answer_weight": 5.0}
    part = RetrievalPart(weight=1.0, **weights)
    assert tiny_recipe(tmp_path, data__retrieval=part).role_weights == (0.0, 1.0, 0.2, 5.0)
    assert tiny_recipe(tmp_path, data__retrieval=part, loss="answer").role_weights == (0.0, 0.0, 0.0, 5.0)
    assert tiny_recipe(tmp_path, data__retrieval=None).role_weights == (0.0, 1.0, 0.0, 0.0)
