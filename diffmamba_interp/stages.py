"""Names of the places at which a lens reads: the embedding, each block's output, and the model's own output.

stage 0: "embedding" (resid_pre of block 0);   stage i: "after block i-1" (resid_pre of block i);   last: "output"
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from diffmamba_interp.argument_checks import Natural, checked

OUTPUT = "output"


@checked
def stage_name(index: Natural) -> str:
    """The place that translator `index` reads."""
    return "embedding" if index == 0 else f"after block {index - 1}"


@checked
def stage_names(n_layers: Natural) -> tuple[str, ...]:
    """All places of a model of `n_layers` blocks, the model's output last: n_layers + 1 names."""
    return (*(stage_name(index) for index in range(n_layers)), OUTPUT)


def stage_words(stage: int, n_stages: int) -> str:
    """Where something is seen, by the number of its stage; one past the last is nowhere."""
    names = {0: "in the embedding", n_stages - 1: "at the output"}
    return "nowhere" if stage >= n_stages else names.get(stage, f"after block {stage - 1}")


def stays_clear(is_clear: Bool[np.ndarray, "*batch stage"]) -> Bool[np.ndarray, "*batch stage"]:
    """Whether a stage and all later ones are clear."""
    return np.flip(np.logical_and.accumulate(np.flip(is_clear, -1), axis=-1), -1)


def formation_stage(is_clear: Bool[np.ndarray, "*batch stage"]) -> Int[np.ndarray, "*batch"]:
    """The first stage from which all later ones are clear too; the number of stages where the last is not."""
    return is_clear.shape[-1] - stays_clear(is_clear).sum(axis=-1)
