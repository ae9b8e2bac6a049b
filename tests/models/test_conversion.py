from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.models.checkpoints import key_table
from diffmamba_interp.models.conversion import convert_to_differential
from tests.models.tiny import random_tokens, relative_error, tiny_config, tiny_model
from tests.published import converted_tensors


@pytest.fixture
def published(fixtures_dir: Path, tmp_path: Path) -> tuple[HookedMamba, dict[str, torch.Tensor]]:
    """The plain model that the published code converted, and the tensors that came out."""
    source = fixtures_dir / "published_conversion"
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((source / "plain.safetensors").read_bytes())
    return HookedMamba.from_pretrained(tmp_path), converted_tensors(source)


def test_the_published_alignment_gives_the_published_tensors_exactly(
    published: tuple[HookedMamba, dict[str, torch.Tensor]],
) -> None:
    plain, expected = published
    converted = convert_to_differential(plain, "quarter")
    table, state = key_table(converted.cfg, "diff_mamba"), converted.state_dict()
    assert set(table.values()) == set(expected)
    different = {theirs for ours, theirs in table.items() if not torch.equal(state[ours], expected[theirs])}
    assert different == {"backbone.layers.3.lambda_q1"}  # drawn at random, here as there


@torch.no_grad()
def test_the_published_conversion_gives_the_published_logits_at_its_lambda(
    published: tuple[HookedMamba, dict[str, torch.Tensor]], fixtures_dir: Path
) -> None:
    plain, tensors = published
    expected = load_file(fixtures_dir / "published_conversion" / "expected.safetensors")
    converted = convert_to_differential(plain, "quarter")
    converted.blocks[3].mixer.lambda_q1.copy_(tensors["backbone.layers.3.lambda_q1"])
    assert relative_error(converted(expected["input_ids"]), expected["converted_logits"]) < 2e-5


@torch.no_grad()
@pytest.mark.parametrize("n_groups", [1, 2])
@pytest.mark.parametrize("head_division", ["d_head", "n_heads"])
def test_by_component_the_branches_scans_side_by_side_are_the_plain_scan(head_division: str, n_groups: int) -> None:
    plain = tiny_model(n_groups=n_groups, proj_bias=True)
    differential = DifferentialConfig(head_division=head_division)  # type: ignore[arg-type]
    converted = convert_to_differential(plain, (0,), "by_component", differential=differential)
    _, before = plain.run_with_cache(random_tokens(), "blocks.0.mixer.*")
    _, after = converted.run_with_cache(random_tokens(), "blocks.0.mixer.*")
    for leaf in ("hook_x", "hook_z", "hook_ssm_y"):
        branches = [after[f"blocks.0.mixer.{branch}.{leaf}"] for branch in ("minuend", "subtrahend")]
        if head_division == "d_head":
            joined = torch.cat(branches, dim=3)
        else:
            by_group = [value.unflatten(2, (n_groups, -1)) for value in branches]
            joined = torch.cat(by_group, dim=3).flatten(2, 3)
        assert relative_error(joined, before[f"blocks.0.mixer.{leaf}"]) < 2e-6
    for leaf in ("hook_B", "hook_C"):
        for branch in ("minuend", "subtrahend"):
            value = after[f"blocks.0.mixer.{branch}.{leaf}"]
            assert relative_error(value, before[f"blocks.0.mixer.{leaf}"]) < 2e-6


@torch.no_grad()
def test_by_component_at_lambda_minus_one_without_norms_is_the_plain_block() -> None:
    """out_proj is linear: minuend + subtrahend is the plain mixer's output, where no norm tells them apart."""
    plain = tiny_model()
    converted = convert_to_differential(
        plain, (0,), "by_component", differential=DifferentialConfig(normalisation="none")
    )
    no_norm = ("blocks.0.mixer*.inner_norm.hook_scale", lambda value, name: torch.ones_like(value))
    added = ("blocks.0.mixer.hook_lambda", lambda value, name: -torch.ones_like(value))
    tokens, out = random_tokens(), "blocks.0.hook_mixer_out"
    with plain.hooks([no_norm]):
        _, before = plain.run_with_cache(tokens, out)
    with converted.hooks([no_norm, added]):
        _, after = converted.run_with_cache(tokens, out)
    assert relative_error(after[out], before[out]) < 2e-6


def test_the_given_model_is_left_as_it_is_and_shares_no_memory() -> None:
    plain = tiny_model(tie_embeddings=True)
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    for alignment in ("published", "by_component"):
        converted = convert_to_differential(plain, "all", alignment)  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in converted.parameters():
                parameter.zero_()
        assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
        assert converted.unembed.weight is converted.embed.weight


def test_other_blocks_keep_their_weights_and_lambda_follows_the_seed() -> None:
    plain = tiny_model(n_layers=4)
    first, again, other = (convert_to_differential(plain, "alternate", seed=seed) for seed in (0, 0, 1))
    assert first.cfg == plain.cfg.with_placement("alternate")
    for block in (1, 3):
        for name, tensor in plain.blocks[block].state_dict().items():
            assert torch.equal(first.blocks[block].state_dict()[name], tensor)
    assert torch.equal(first.blocks[2].mixer.lambda_q1, again.blocks[2].mixer.lambda_q1)
    assert not torch.equal(first.blocks[2].mixer.lambda_q1, other.blocks[2].mixer.lambda_q1)
    assert bool((first.blocks[2].mixer.subnorm.weight == 1).all())


def test_conversion_leaves_the_random_numbers_of_the_caller_alone() -> None:
    plain = tiny_model()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    convert_to_differential(plain, "all")
    assert torch.equal(torch.rand(3), expected)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_new_model_computes_in_the_dtype_of_the_old(dtype: torch.dtype) -> None:
    converted = convert_to_differential(
        tiny_model().to(dtype), "all", differential=DifferentialConfig(normalisation="post")
    )
    assert converted.blocks[0].mixer.subnorm.weight.dtype == dtype
    assert converted.blocks[0].mixer.lambda_q1.dtype == torch.promote_types(dtype, torch.float32)
    _, cache = converted.run_with_cache(random_tokens(), "blocks.*.hook_mixer_out")
    assert {value.dtype for value in cache.values()} == {dtype}


def test_training_mode_and_implementation_are_kept() -> None:
    plain = tiny_model().train()
    plain.impl = "reference"
    converted = convert_to_differential(plain, "all")
    assert converted.training
    assert converted.impl == "reference"
    assert not convert_to_differential(plain.eval(), "all").training


def test_a_converted_model_goes_through_the_published_format(tmp_path: Path) -> None:
    converted = convert_to_differential(tiny_model(n_layers=4), "quarter")
    converted.save_pretrained(tmp_path, format="diff_mamba")
    loaded = HookedMamba.from_pretrained(tmp_path)
    assert loaded.cfg == converted.cfg
    with torch.no_grad():
        assert torch.equal(loaded(random_tokens()), converted(random_tokens()))


def test_what_cannot_be_converted_is_refused() -> None:
    plain = tiny_model()
    with pytest.raises(ValueError, match=r"blocks \[0, 1\] are differential already"):
        convert_to_differential(convert_to_differential(plain, "all"), "all")
    with pytest.raises(ValueError, match="use head_division='d_head', or 'by_component'"):
        convert_to_differential(plain, "all", differential=DifferentialConfig(head_division="n_heads"))
    with pytest.raises((ValueError, TypeError), match="by_component"):
        convert_to_differential(plain, "all", "halves")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="blocks 0 to 1"):
        convert_to_differential(plain, (2,))
    with pytest.raises(ValueError, match="halve d_head"):
        convert_to_differential(HookedMamba(tiny_config(d_model=20, d_head=5)), "all")
