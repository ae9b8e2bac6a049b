"""A tiny recipe, and running it in this process."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from diffmamba_interp import HookedMambaConfig
from diffmamba_interp.lm_training.loop import Trainer
from diffmamba_interp.lm_training.preparation import make_mixture, make_model, open_tokenizer
from diffmamba_interp.lm_training.recipe import (
    DataRecipe,
    ModelRecipe,
    OptimiserRecipe,
    Recipe,
    RetrievalPart,
    TextPart,
)
from diffmamba_interp.lm_training.snapshots import read_snapshot
from diffmamba_interp.runs.process_group import ProcessGroup
from diffmamba_interp.runs.run_log import LOG_FILE

ALONE = ProcessGroup()
N_TOKENS = 640


def tiny_config(**changes: Any) -> HookedMambaConfig:
    sizes: dict[str, Any] = {"d_model": 16, "n_layers": 2, "d_vocab": N_TOKENS, "d_state": 4, "d_head": 8}
    return HookedMambaConfig(**{**sizes, **changes})


def tiny_recipe(data: Path, **changes: Any) -> Recipe:
    """Text and bare stories in equal shares; `changes` replace fields, with "__" for those of a section."""
    recipe = Recipe(
        model=ModelRecipe(config=tiny_config()),
        data=DataRecipe(
            tokenizer=str(data / "tokenizer"),
            length=48,
            text=(TextPart(weight=1.0, tokens=str(data / "train.npy")),),
            retrieval=RetrievalPart(weight=1.0, short=1.0, max_questions=2),
        ),
        optimiser=OptimiserRecipe(lr=3e-3, warmup=2),
        steps=6,
        batch_size=4,
        log_every=1,
        snapshot_every=100,
    )
    for name, value in changes.items():
        recipe = replaced(recipe, name.split("__"), value)
    return recipe


def replaced(settings: Any, path: list[str], value: Any) -> Any:
    inner = value if len(path) == 1 else replaced(getattr(settings, path[0]), path[1:], value)
    return dataclasses.replace(settings, **{path[0]: inner})


def trainer(recipe: Recipe, folder: Path) -> Trainer:
    """A trainer in `folder`, continuing from its snapshot if there is one."""
    model = make_model(recipe.model, seed=recipe.seed)
    tokenizer = open_tokenizer(recipe.data, model.cfg.d_vocab)
    mixture = make_mixture(recipe, tokenizer)
    return Trainer(recipe, model, mixture, folder, group=ALONE, snapshot=read_snapshot(folder))


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in log(folder) if "loss" in record]


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]
