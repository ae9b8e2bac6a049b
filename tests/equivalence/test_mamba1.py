"""Mamba-1 models are those of transformers, in numbers and in files, in both directions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import FalconMambaConfig, FalconMambaForCausalLM, MambaConfig, MambaForCausalLM

from diffmamba_interp import HookedMamba
from tests.models.tiny import assert_same_values, relative_error, tiny_config, tiny_model

TOLERANCE = 2e-5
KINDS: dict[str, tuple[Any, Any]] = {
    "mamba": (MambaConfig, MambaForCausalLM),
    "falcon_mamba": (FalconMambaConfig, FalconMambaForCausalLM),
}
CONFIGS: dict[str, dict[str, Any]] = {
    "usual": {},
    "not tied": {"tie_word_embeddings": False},
    "biases": {"use_bias": True, "use_conv_bias": False},
    "narrow": {"expand": 1, "conv_kernel": 2, "time_step_rank": 1},
    "wide": {"expand": 4, "state_size": 5, "time_step_rank": 7},
    "odd sizes": {"hidden_size": 24, "conv_kernel": 3, "layer_norm_epsilon": 1e-3},
    "dtype stream": {"residual_in_fp32": False},
}


def random_peer(kind: str, **changes: Any) -> Any:
    config, model = KINDS[kind]
    sizes = {"vocab_size": 40, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}
    torch.manual_seed(0)
    peer = model(config(**(sizes | changes))).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return peer


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_a_mamba1_of_transformers_gives_its_logits_and_hidden_states(
    kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    peer = random_peer(kind, **changes)
    peer.save_pretrained(tmp_path)
    model = HookedMamba.from_pretrained(tmp_path)
    tokens = torch.randint(0, 40, (2, 37))
    theirs = peer(tokens, output_hidden_states=True)
    logits, cache = model.run_with_cache(tokens)
    assert relative_error(logits, theirs.logits) < TOLERANCE
    streams = [cache["blocks.0.hook_resid_post"], cache["blocks.1.hook_resid_post"]]
    streams.append(model.ln_final(streams[-1]))
    for ours, stream in zip(streams, theirs.hidden_states[-3:], strict=True):
        assert relative_error(ours, stream) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_mamba1_of_ours_loads_in_transformers_with_our_logits(kind: str, tied: bool, tmp_path: Path) -> None:
    eps = 1e-3 if kind == "falcon_mamba" else None
    model = tiny_model(mixer="mamba1", d_model=32, tie_embeddings=tied, scan_norm_eps=eps, dt_rank=3)
    model.save_pretrained(tmp_path, format=f"hf_{kind}")  # type: ignore[arg-type]
    peer, loading = KINDS[kind][1].from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = torch.randint(0, 23, (2, 37))
    assert relative_error(model(tokens), peer.eval()(tokens).logits) < TOLERANCE
    assert_same_values(HookedMamba.from_pretrained(tmp_path), model)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_generation_of_mamba1_is_that_of_transformers(kind: str, tmp_path: Path) -> None:
    peer = random_peer(kind)
    peer.save_pretrained(tmp_path)
    tokens = torch.randint(1, 40, (2, 9))
    theirs = peer.generate(tokens, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(HookedMamba.from_pretrained(tmp_path).generate(tokens, 12), theirs)


@torch.no_grad()
def test_a_state_spaces_mamba1_comes_back_as_it_was(tmp_path: Path) -> None:
    model = tiny_model(mixer="mamba1", d_vocab=24, d_vocab_padding=3, dt_rank=5)
    model.save_pretrained(tmp_path, format="state_spaces")
    loaded = HookedMamba.from_pretrained(tmp_path)
    assert_same_values(loaded, model)
    assert loaded.cfg.d_vocab_padding == 3


def test_a_hugging_face_config_with_the_fields_of_state_spaces_is_hugging_faces(tmp_path: Path) -> None:
    """As state-spaces/mamba-130m-hf has them."""
    random_peer("mamba").save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw |= {"d_model": 32, "n_layer": 2, "d_inner": 64, "ssm_cfg": {}, "fused_add_norm": True, "rms_norm": True}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert HookedMamba.from_pretrained(tmp_path).cfg.mixer == "mamba1"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", 48, "hidden_size is 48, but the weights are those of 32"),
        ("state_size", 4, "state_size is 4, but the weights are those of 8"),
        ("expand", 4, "expand is 4, but the weights are those of 2"),
        ("conv_kernel", 3, "conv_kernel is 3, but the weights are those of 4"),
        ("time_step_rank", 7, "wrong shape"),
        ("num_hidden_layers", 3, "num_hidden_layers is 3, but the weights hold tensors of 2 blocks"),
        ("intermediate_size", 65, "intermediate_size is 65: it must be expand x hidden_size"),
        ("hidden_act", "gelu", "hidden_act is 'gelu'"),
        ("use_bias", True, "do not have this bias"),
    ],
)
def test_a_mamba1_config_that_contradicts_the_weights_is_refused(
    field: str, value: object, message: str, tmp_path: Path
) -> None:
    random_peer("mamba").save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {field: value}))
    with pytest.raises(ValueError, match=message):
        HookedMamba.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "format", "message"),
    [
        ({"scan_norm_eps": 1e-6}, "hf_mamba", "use 'hf_falcon_mamba'"),
        ({"scan_norm_eps": 1e-6}, "state_spaces", "use 'hf_falcon_mamba'"),
        ({}, "hf_falcon_mamba", "use 'hf_mamba'"),
        ({}, "hf_mamba2", "cannot hold a model of mixer 'mamba1'"),
        ({}, "diff_mamba", "cannot hold a model of mixer 'mamba1'"),
        ({"mixer": "mamba2"}, "hf_mamba", "cannot hold a model of mixer 'mamba2'"),
        ({"norm_eps": 1e-3}, "state_spaces", "fixes norm_eps"),
    ],
)
def test_a_format_refuses_a_model_that_it_cannot_hold(
    changes: dict[str, Any], format: str, message: str, tmp_path: Path
) -> None:
    model = HookedMamba(tiny_config(**{"mixer": "mamba1", **changes}))
    with pytest.raises(ValueError, match=message):
        model.save_pretrained(tmp_path, format=format)  # type: ignore[arg-type]
