"""A batched grid of patches is what patching one position at a time gives."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.hook_names import block_point, branch_out, mixer_point
from diffmamba_interp.interventions import Patch, PatchGrid, SetLambda, hooks_of, intervene, patch_grid
from tests.models.tiny import random_tokens, relative_error, tiny_model

ANSWERS, AGAINST = (3, 11), (7, 0)


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,)))


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    return random_tokens(2, 7, seed=1), random_tokens(2, 7, seed=2)


POINTS = {
    "resid_pre": (lambda block: f"blocks.{block}.hook_resid_pre", None),
    "mixer_out": (lambda block: f"blocks.{block}.hook_mixer_out", None),
    "minuend": (lambda block: branch_out(block, "minuend"), 0),
    "dt": (lambda block: mixer_point(block, "dt", "subtrahend"), 0),
}


@torch.no_grad()
@pytest.mark.parametrize("rows", [4, 100])
@pytest.mark.parametrize("point", POINTS)
def test_the_batched_grid_equals_patching_one_position_at_a_time(
    model: HookedMamba, pairs: tuple[Tensor, Tensor], point: str, rows: int
) -> None:
    clean, corrupted = pairs
    name_of, blocks = POINTS[point]
    grid = patch_grid(
        model,
        clean,
        corrupted,
        answers=ANSWERS,
        against=AGAINST,
        point=point if point in ("resid_pre", "mixer_out") else name_of,
        blocks=blocks,
        rows=rows,
    )
    names = [name_of(block) for block in grid.blocks]
    _, cache = model.run_with_cache(clean, names)
    for sample, (answer, other) in enumerate(zip(ANSWERS, AGAINST, strict=True)):
        for at, name in enumerate(names):
            for position in range(7):
                patch = Patch(name=name, value=cache[name][sample : sample + 1], positions=(position,))
                logits = model.run_with_hooks(corrupted[sample : sample + 1], hooks_of(model, patch))[0, -1]
                expected = float(logits[answer] - logits[other])
                assert grid.patched[sample, at, position] == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_unpatched_logits_are_the_models_and_changes_are_relative_to_the_corrupted_ones(
    model: HookedMamba, pairs: tuple[Tensor, Tensor]
) -> None:
    grid = patch_grid(model, *pairs, answers=ANSWERS)
    for tokens, found in zip(pairs, (grid.clean, grid.corrupted), strict=True):
        expected = model(tokens)[[0, 1], -1, list(ANSWERS)]
        assert np.allclose(found, expected.numpy(), atol=1e-5)
    assert np.allclose(grid.change, grid.patched - grid.corrupted[:, None, None])
    assert np.abs(grid.change).max() > 1e-2


def test_a_one_token_difference_is_recovered_by_patching_its_embedding(model: HookedMamba) -> None:
    clean = random_tokens(1, 7)
    corrupted = clean.clone()
    corrupted[0, 3] = (corrupted[0, 3] + 1) % 23
    recovered = patch_grid(model, clean, corrupted, answers=(5,), blocks=0).recovered[0, 0]
    assert recovered[3] == pytest.approx(1.0, abs=1e-4)
    assert np.allclose(np.delete(recovered, 3), 0.0, atol=1e-4)


def test_runs_that_start_at_the_patched_block_give_what_whole_runs_do(
    model: HookedMamba, pairs: tuple[Tensor, Tensor]
) -> None:
    seen: list[int] = []
    begun = model.blocks[0].register_forward_pre_hook(lambda block, args: seen.append(len(args[0])))
    short = patch_grid(model, *pairs, answers=ANSWERS, blocks=1, rows=5)
    assert max(seen) == 2  # of the first block the unpatched prompts alone
    with model.hooks([("hook_embed", lambda value, name: None)]):
        whole = patch_grid(model, *pairs, answers=ANSWERS, blocks=1, rows=5)
    assert max(seen) == 5
    first = [
        patch_grid(model, *pairs, answers=ANSWERS, blocks=b, point=lambda _: block_point(0, "mixer_out"))
        for b in (0, 1)
    ]
    begun.remove()
    assert np.allclose(first[0].patched, first[1].patched, atol=1e-6)
    assert np.allclose(short.patched, whole.patched, atol=1e-6)


def test_equal_prompts_leave_nothing_to_recover(model: HookedMamba) -> None:
    grid = patch_grid(model, random_tokens(1, 5), random_tokens(1, 5), answers=(5,))
    assert np.abs(grid.change).max() < 1e-5
    assert np.isnan(grid.recovered).all()


@torch.no_grad()
def test_chosen_blocks_and_positions_are_part_of_the_whole_grid(
    model: HookedMamba, pairs: tuple[Tensor, Tensor]
) -> None:
    whole = patch_grid(model, *pairs, answers=ANSWERS)
    seen: list[int] = []
    part = patch_grid(
        model, *pairs, answers=ANSWERS, blocks=1, positions=(5, 2), rows=3, on_progress=lambda n: seen.append(n)
    )
    assert (part.point, part.blocks, part.positions) == ("blocks.{}.hook_resid_pre", (1,), (5, 2))
    assert np.allclose(part.patched, whole.patched[:, 1:, [5, 2]], atol=1e-5)
    assert seen == [3, 1]


@torch.no_grad()
def test_positions_in_a_tuple_are_patched_together(model: HookedMamba, pairs: tuple[Tensor, Tensor]) -> None:
    clean, corrupted = pairs
    grid = patch_grid(model, clean, corrupted, answers=ANSWERS, blocks=(0, 1), positions=[3, (1, 2, 5), range(7)])
    assert grid.positions == (3, (1, 2, 5), tuple(range(7)))
    name = "blocks.1.hook_resid_pre"
    _, cache = model.run_with_cache(clean, name)
    patch = Patch(name=name, value=cache[name], positions=(1, 2, 5))
    expected = model.run_with_hooks(corrupted, hooks_of(model, patch))[[0, 1], -1, list(ANSWERS)]
    assert np.allclose(grid.patched[:, 1, 1], expected.numpy(), atol=1e-5)
    assert np.allclose(grid.recovered[:, :, 2], 1.0, atol=1e-4)
    again = PatchGrid.from_dict(json.loads(json.dumps(grid.to_dict())))
    assert again.positions == grid.positions


@torch.no_grad()
def test_a_grid_is_taken_under_the_interventions_in_force(model: HookedMamba, pairs: tuple[Tensor, Tensor]) -> None:
    with intervene(model, SetLambda(value=3.0)):
        grid = patch_grid(model, *pairs, answers=ANSWERS)
        expected = model(pairs[0])[[0, 1], -1, list(ANSWERS)]
    assert np.allclose(grid.clean, expected.numpy(), atol=1e-5)
    assert not np.allclose(grid.clean, patch_grid(model, *pairs, answers=ANSWERS).clean, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("point", ["ssm_y", "gated"])
def test_a_row_per_head_patches_that_head_alone(model: HookedMamba, pairs: tuple[Tensor, Tensor], point: str) -> None:
    clean, corrupted = pairs
    grid = patch_grid(model, clean, corrupted, answers=ANSWERS, point=point, positions=(5, 6))
    n_heads = [model.cfg.mixer_sizes(kind).n_heads for kind in ("differential", "differential", "plain")]
    scans = [(0, "minuend"), (0, "subtrahend"), (1, None)]
    expected = [(b, branch, head) for (b, branch), n in zip(scans, n_heads, strict=True) for head in range(n)]
    assert list(zip(grid.blocks, grid.branches or (), grid.heads or (), strict=True)) == expected
    assert (grid.point, grid.row_names[1], grid.row_names[-1]) == (
        point,
        "0 minuend, head 1",
        f"1, head {n_heads[2] - 1}",
    )
    row = expected.index((0, "subtrahend", 1))
    name = f"blocks.0.mixer.subtrahend.{'hook_ssm_y' if point == 'ssm_y' else 'inner_norm.hook_gated'}"
    values = [model.run_with_cache(tokens, name)[1][name] for tokens in pairs]
    mixed = values[1].clone()
    mixed.reshape(2, 7, n_heads[1], -1)[:, 5, 1] = values[0].reshape(2, 7, n_heads[1], -1)[:, 5, 1]
    logits = model.run_with_hooks(corrupted, hooks_of(model, Patch(name=name, value=mixed)))
    assert np.allclose(grid.patched[:, row, 0], logits[[0, 1], -1, list(ANSWERS)].numpy(), atol=1e-5)


def test_a_row_per_branch_is_the_branch_s_own_grid(model: HookedMamba, pairs: tuple[Tensor, Tensor]) -> None:
    both = patch_grid(model, *pairs, answers=ANSWERS, point="branch_out")
    assert both.row_names == ("0 minuend", "0 subtrahend")
    for row, branch in enumerate(("minuend", "subtrahend")):
        alone = patch_grid(
            model, *pairs, answers=ANSWERS, point=lambda b, branch=branch: branch_out(b, branch), blocks=0
        )
        assert np.allclose(both.patched[:, row], alone.patched[:, 0], atol=1e-6)
        assert (alone.row_names, alone.branches, alone.heads) == (("0",), None, None)


def test_a_grid_goes_to_json_and_back(model: HookedMamba, pairs: tuple[Tensor, Tensor]) -> None:
    for against in (None, AGAINST):
        grid = patch_grid(model, *pairs, answers=ANSWERS, against=against, positions=(1, 2))
        again = PatchGrid.from_dict(json.loads(json.dumps(grid.to_dict())))
        for name in PatchGrid.__dataclass_fields__:
            assert np.array_equal(getattr(again, name), getattr(grid, name))


@torch.no_grad()
def test_a_patch_without_positions_replaces_the_whole_value(model: HookedMamba, pairs: tuple[Tensor, Tensor]) -> None:
    clean, corrupted = pairs
    logits, cache = model.run_with_cache(clean, "blocks.0.hook_resid_pre")
    with intervene(model, Patch(name="blocks.0.hook_resid_pre", value=cache["blocks.0.hook_resid_pre"])):
        assert relative_error(model(corrupted), logits) < 1e-6


# ------------------------------------------------------------------ errors


def test_prompts_of_different_lengths_are_refused(model: HookedMamba) -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 7\), the corrupted ones \(1, 8\).* equally long, by replacing"):
        patch_grid(model, random_tokens(1, 7), random_tokens(1, 8), answers=(1,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"point": "branch_out", "blocks": 1}, "block 1 is plain"),
        ({"point": "gated", "blocks": 2}, "block 2 is out of range"),
        ({"positions": (7,)}, "position 7 is beyond the prompts, which have positions 0 to 6"),
        ({"positions": [2, (1, 7)]}, "position 7 is beyond the prompts"),
        ({"positions": ()}, "positions is empty"),
        ({"positions": [2, ()]}, "positions is empty"),
        ({"blocks": 2}, "block 2 is out of range"),
        ({"against": (1, 23)}, "token ids from 1 to 23: the vocabulary is 0 to 22"),
        ({"answers": (1,)}, "answers holds 1 token ids for 2 pairs"),
        ({"point": lambda block: f"blocks.{block}.mixer.hook_lambda", "blocks": 0}, "cannot be patched by position"),
        (
            {"point": lambda block: mixer_point(block, "hidden_attention"), "blocks": 1},
            "cannot be patched by position",
        ),
    ],
)
def test_what_cannot_be_patched_is_refused(
    model: HookedMamba, pairs: tuple[Tensor, Tensor], changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        patch_grid(model, *pairs, **({"answers": ANSWERS} | changes))


@torch.no_grad()
def test_a_patch_from_another_length_is_refused(model: HookedMamba) -> None:
    name = "blocks.0.hook_resid_pre"
    _, cache = model.run_with_cache(random_tokens(1, 5), name)
    with (
        pytest.raises(ValueError, match="take it from a prompt of the same length"),
        intervene(model, Patch(name=name, value=cache[name])),
    ):
        model(random_tokens(1, 6))
