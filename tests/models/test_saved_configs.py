"""What `save_pretrained` writes is JSON, and what the library of each format reads."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import Mamba2Config, Mamba2ForCausalLM

from diffmamba_interp import DifferentialConfig, HookedMamba
from tests.models.tiny import assert_same, random_tokens, relative_error, tiny_model

LIMITS = [(0.0, math.inf), (0.01, math.inf), (0.0, 0.2), (0.02, 0.3)]
MAMBA2_ARGUMENTS = {
    *("d_state", "d_conv", "conv_init", "expand", "headdim", "d_ssm", "ngroups", "A_init_range", "D_has_hdim"),
    *("rmsnorm", "norm_before_gate", "dt_min", "dt_max", "dt_init_floor", "dt_limit", "bias", "conv_bias"),
    *("chunk_size", "use_mem_eff_path", "layer"),
}
"""Of `mamba_ssm.Mamba2`, which gets `ssm_cfg` as keyword arguments; `layer` is taken out before."""


def strict_json(file: Path) -> dict[str, Any]:
    """As any JSON reader takes it."""
    return json.loads(file.read_text(), parse_constant=lambda word: pytest.fail(f"{file.name} holds {word}: no JSON"))


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("format", ["diffmamba_interp", "hf_mamba2", "diff_mamba", "state_spaces"])
def test_a_saved_config_is_json_and_comes_back(format: Any, limits: tuple[float, float], tmp_path: Path) -> None:
    differential = DifferentialConfig(placement=(0,)) if format == "diff_mamba" else None
    model = tiny_model(differential, dt_limit=limits)
    model.save_pretrained(tmp_path, format=format)
    strict_json(tmp_path / "config.json")
    loaded = HookedMamba.from_pretrained(tmp_path)
    assert loaded.cfg.dt_limit == limits
    assert_same(loaded, model)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_transformers_reads_a_saved_model_with_its_limits(limits: tuple[float, float], tmp_path: Path) -> None:
    model = tiny_model(dt_limit=limits, d_model=32)
    model.save_pretrained(tmp_path, format="hf_mamba2")
    low, high = Mamba2Config.from_pretrained(tmp_path).time_step_limit
    assert (low, min(high, 3.5e38)) == (limits[0], min(limits[1], high, 3.5e38))
    assert ("time_step_limit" in strict_json(tmp_path / "config.json")) == (limits != (0.0, math.inf))
    peer = Mamba2ForCausalLM.from_pretrained(tmp_path).eval()
    assert relative_error(model(random_tokens()), peer(random_tokens()).logits) < 2e-5


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_mamba_ssm_would_read_a_saved_config(limits: tuple[float, float], tmp_path: Path) -> None:
    """It reads plain JSON, gives `ssm_cfg` to `Mamba2` as it is, and compares dt_limit with numbers."""
    tiny_model(dt_limit=limits).save_pretrained(tmp_path, format="state_spaces")
    ssm = strict_json(tmp_path / "config.json")["ssm_cfg"]
    assert set(ssm) <= MAMBA2_ARGUMENTS
    if limits == (0.0, math.inf):
        assert "dt_limit" not in ssm
    else:
        low, high = ssm["dt_limit"]
        assert low == limits[0]
        assert high == limits[1] or (limits[1] == math.inf and torch.tensor(high).item() == torch.finfo().max)


def test_the_index_of_shards_is_json_and_the_weights_say_that_they_are_torchs(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, format="hf_mamba2", max_shard_size=4000)
    weight_map = strict_json(tmp_path / "model.safetensors.index.json")["weight_map"]
    with safe_open(tmp_path / next(iter(weight_map.values())), framework="pt") as opened:
        assert opened.metadata()["format"] == "pt"
