import json
import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from diffmamba_interp.config import DifferentialConfig, HookedMambaConfig, differential_blocks, lambda_init


def make_config(**changes: Any) -> HookedMambaConfig:
    return HookedMambaConfig(**{"d_model": 32, "n_layers": 8, "d_vocab": 50, "d_head": 8, **changes})


def test_lambda_init_rises_from_a_fifth_towards_four_fifths_with_depth() -> None:
    values = [lambda_init(block) for block in range(60)]
    assert values[0] == pytest.approx(0.2)
    assert values[3] == pytest.approx(0.8 - 0.6 * math.exp(-0.9))
    assert values == sorted(values)
    assert values[-1] == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(
    ("placement", "n_layers", "expected"),
    [
        ("all", 3, (0, 1, 2)),
        ("alternate", 5, (0, 2, 4)),
        ("quarter", 8, (6, 7)),
        ("quarter", 7, (6,)),
        ("quarter", 3, ()),
        ((4, 1, 1), 5, (1, 4)),
        ((), 5, ()),
    ],
)
def test_a_placement_names_blocks(placement: Any, n_layers: int, expected: tuple[int, ...]) -> None:
    assert differential_blocks(placement, n_layers) == expected


@pytest.mark.parametrize("placement", ["half", (0, 5), (-1,), (1.5,), (True,), 3])
def test_a_placement_that_names_no_block_is_refused(placement: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="placement|violates|check"):
        differential_blocks(placement, 5)


def test_a_quarter_of_three_blocks_is_none_and_the_model_is_plain() -> None:
    cfg = make_config(n_layers=3, differential=DifferentialConfig(placement="quarter"))
    assert cfg.differential_blocks == ()
    assert {cfg.block_kind(block) for block in range(3)} == {"plain"}


def test_both_head_divisions_give_a_branch_half_the_inner_width() -> None:
    plain = make_config().mixer_sizes("plain")
    by_d_head = make_config(differential=DifferentialConfig(head_division="d_head")).mixer_sizes("differential")
    by_heads = make_config(differential=DifferentialConfig(head_division="n_heads")).mixer_sizes("differential")
    assert (plain.d_inner, plain.n_heads, plain.d_head) == (64, 8, 8)
    assert (by_d_head.d_inner, by_d_head.n_heads, by_d_head.d_head) == (32, 8, 4)
    assert (by_heads.d_inner, by_heads.n_heads, by_heads.d_head) == (32, 4, 8)
    assert plain.d_in_proj == 2 * 64 + 2 * 128 + 8
    assert plain.d_conv_channels == 64 + 2 * 128


@pytest.mark.parametrize(
    "changes",
    [
        {"d_model": 0},
        {"n_layers": -1},
        {"d_state": 1.5},
        {"d_vocab": "50"},
        {"d_conv": True},
        {"chunk_size": 0},
        {"d_head": 7},
        {"n_groups": 3},
        {"d_vocab_padding": 50},
        {"d_vocab_padding": -1},
        {"dt_limit": (0.5, 0.1)},
        {"dt_limit": (-1.0, 1.0)},
        {"dt_limit": (0.0, math.nan)},
        {"norm_eps": -1e-5},
        {"norm_eps": "1e-5"},
        {"initializer_range": math.nan},
        {"tie_embeddings": "false"},
        {"differential": {"subnorm_eps": -1.0}},
        {"differential": {"normalisation": "before"}},
        {"differential": {"lambda_form": "tanh"}},
        {"differential": {"subtract_at": "difference"}},
        {"differential": {"head_division": "half"}},
        {"differential": {"lambda_initialisation": "zero"}},
        {"differential": {"placement": "some"}},
        {"differential": {"placement": [8]}},
        {"differential": {"placement": [0.5]}},
    ],
    ids=str,
)
def test_values_that_make_no_model_are_refused(changes: dict[str, Any]) -> None:
    values = make_config().to_dict() | changes
    with pytest.raises((ValueError, TypeError)):
        HookedMambaConfig.from_dict(values)


def test_heads_that_cannot_be_halved_are_refused_only_in_a_differential_model() -> None:
    assert make_config(d_model=20, d_head=5).mixer_sizes("plain").n_heads == 8
    with pytest.raises(ValueError, match="halve d_head"):
        make_config(d_model=20, d_head=5, differential=DifferentialConfig())
    with pytest.raises(ValueError, match="halve n_heads"):
        make_config(d_model=9, expand=1, d_head=1, differential=DifferentialConfig(head_division="n_heads"))
    with pytest.raises(ValueError, match="heads"):
        make_config(n_groups=8, differential=DifferentialConfig(head_division="n_heads"))


@pytest.mark.parametrize(
    "cfg",
    [
        make_config(),
        make_config(dt_limit=(0.01, 0.1), n_groups=2, conv_bias=False, tie_embeddings=True, d_vocab_padding=3),
        make_config(differential=DifferentialConfig(placement=(1, 3), normalisation="pre")),
        make_config(differential=DifferentialConfig(lambda_form="exp_dot", head_division="n_heads")),
    ],
)
def test_a_config_goes_through_strict_json_and_back(cfg: HookedMambaConfig) -> None:
    text = json.dumps(cfg.to_dict(), allow_nan=False)
    assert HookedMambaConfig.from_dict(json.loads(text)) == cfg
    assert hash(HookedMambaConfig.from_dict(json.loads(text))) == hash(cfg)


def test_unknown_keys_are_named_and_refused() -> None:
    values = make_config(differential=DifferentialConfig()).to_dict()
    with pytest.raises(ValueError, match=r"unknown keys in the model config: heads\."):
        HookedMambaConfig.from_dict({**values, "heads": 3})
    inner = {**values["differential"], "lamda": 1}
    with pytest.raises(ValueError, match=r"unknown keys in the differential config: lamda\."):
        HookedMambaConfig.from_dict({**values, "differential": inner})


def test_a_config_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        make_config().d_model = 5  # type: ignore[misc]


def test_with_placement_moves_the_differential_blocks_and_nothing_else() -> None:
    cfg = make_config(differential=DifferentialConfig(placement="all", normalisation="pre"))
    moved = cfg.with_placement((2,))
    assert moved.differential_blocks == (2,)
    assert replace(moved, differential=cfg.differential) == cfg
    assert cfg.with_placement(None).differential is None
    assert make_config().with_placement("quarter").differential_blocks == (6, 7)
