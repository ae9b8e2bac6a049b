"""Names of the places at which a lens reads: the embedding, each block's output, and the model's own output.

stage 0: "embedding" (resid_pre of block 0);   stage i: "after block i-1" (resid_pre of block i);   last: "output"
"""

from __future__ import annotations

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
