"""Interventions act on the GPU kernels as they act on the reference. Needs a GPU."""

import pytest
import torch

from diffmamba_interp.hook_names import block_point
from diffmamba_interp.interventions import (
    AblateBranch,
    AblateHead,
    AddNoise,
    AnswerReading,
    Intervention,
    KnockOut,
    Patch,
    ScaleLambda,
    SetLambda,
    SwapBranches,
    SwapHeads,
    collect_means,
    intervene,
    patch_grid,
)
from tests.models.test_fused import TOLERANCE, make_model, relative_error, tokens_of

pytestmark = pytest.mark.gpu

INTERVENTIONS = [
    SetLambda(value=2.0),
    ScaleLambda(factor=0.0),
    AblateBranch(branch="minuend"),
    SwapBranches(),
    AblateHead(block=0, branch="subtrahend", heads=0),
    AblateHead(block=1, heads=(1, 2), at="gated"),
    SwapHeads(block=1, first=0, second=1),
    KnockOut(positions=range(2, 30), level="write"),
    KnockOut(positions=range(2, 30), level="input"),
    AddNoise(snr_db=3.0),
]


@torch.no_grad()
@pytest.mark.parametrize("normalisation", ["post", "pre"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("intervention", INTERVENTIONS, ids=lambda one: type(one).__name__)
def test_the_kernels_and_the_reference_agree_under_an_intervention(
    intervention: Intervention, dtype: torch.dtype, normalisation: str
) -> None:
    model, tokens = make_model("mamba2", dtype, normalisation=normalisation), tokens_of(40)
    model.impl = "reference"
    clean = model(tokens)
    with intervene(model, intervention):
        expected = model(tokens)
        model.impl = "fused"
        given = model(tokens)
    assert relative_error(given, expected) < TOLERANCE[dtype]
    assert relative_error(expected, clean) > TOLERANCE[torch.float32]


@torch.no_grad()
def test_means_and_patches_from_the_gpu_are_put_back_there() -> None:
    model, tokens = make_model("mamba2 of two groups"), tokens_of(40)
    model.impl = "fused"
    means = collect_means(model, [tokens.cpu()])
    name = block_point(1, "resid_pre")
    _, cache = model.run_with_cache(tokens.flip(1), name)
    interventions = [
        AblateBranch(branch="subtrahend", means=means),
        Patch(name=name, value=cache[name].cpu(), positions=(5, 30)),
    ]
    with intervene(model, interventions):
        given = model(tokens)
        model.impl = "reference"
        assert relative_error(given, model(tokens)) < TOLERANCE[torch.float32]


@torch.no_grad()
def test_answers_and_grids_are_read_on_the_gpu_from_prompts_on_the_cpu() -> None:
    model, tokens = make_model("mamba2"), tokens_of(12)
    found = {}
    for impl in ("reference", "fused"):
        model.impl = impl
        reading = AnswerReading(tokens=tokens.cpu(), answers=(3, 5), labels=(3, 5, 7))(model)
        grid = patch_grid(model, tokens.cpu(), tokens.flip(1).cpu(), answers=(3, 5))
        found[impl] = torch.cat([*reading.values(), torch.tensor(grid.patched).flatten()])
    assert relative_error(found["fused"], found["reference"]) < 10 * TOLERANCE[torch.float32]
