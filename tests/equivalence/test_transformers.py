"""Plain Mamba-2 models are those of transformers, in numbers and in files, in both directions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Mamba2Config, Mamba2ForCausalLM

from diffmamba_interp import HookedMamba
from tests.models.tiny import relative_error, tiny_model

TOLERANCE = 2e-5

CONFIGS: dict[str, dict[str, Any]] = {
    "one group": {},
    "two groups": {"n_groups": 2},
    "as many groups as heads": {"n_groups": 4},
    "tied": {"tie_word_embeddings": True},
    "clamped dt": {"time_step_limit": (0.02, 0.3), "n_groups": 2},
    "biases": {"use_bias": True, "use_conv_bias": False},
    "narrow": {"expand": 1, "num_heads": 2, "conv_kernel": 2},
    "wide": {"expand": 4, "num_heads": 8, "n_groups": 2, "state_size": 5},
    "odd sizes": {"hidden_size": 24, "head_dim": 6, "num_heads": 8, "conv_kernel": 3, "layer_norm_epsilon": 1e-3},
    "dtype stream": {"residual_in_fp32": False},
}


def random_peer(**changes: Any) -> Mamba2ForCausalLM:
    sizes = {
        "vocab_size": 40,
        "hidden_size": 32,
        "state_size": 8,
        "num_hidden_layers": 2,
        "expand": 2,
        "head_dim": 16,
        "num_heads": 4,
        "n_groups": 1,
        "chunk_size": 16,
    }
    peer = Mamba2ForCausalLM(Mamba2Config(**(sizes | changes))).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return peer


@torch.no_grad()
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_a_checkpoint_of_transformers_gives_its_logits_and_hidden_states(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    peer = random_peer(**changes)
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
@pytest.mark.parametrize("n_groups", [1, 2])
def test_a_checkpoint_of_ours_loads_in_transformers_with_our_logits(n_groups: int, tmp_path: Path) -> None:
    model = tiny_model(n_groups=n_groups, d_model=32, tie_embeddings=n_groups == 2)
    model.save_pretrained(tmp_path, format="hf_mamba2")
    peer, loading = Mamba2ForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = torch.randint(0, 23, (2, 37))
    assert relative_error(model(tokens), peer.eval()(tokens).logits) < TOLERANCE


@torch.no_grad()
def test_greedy_generation_is_that_of_transformers(tmp_path: Path) -> None:
    peer = random_peer()
    peer.save_pretrained(tmp_path)
    model = HookedMamba.from_pretrained(tmp_path)
    tokens = torch.randint(3, 40, (1, 9))
    theirs = peer.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=10,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert torch.equal(model.generate(tokens, 10), theirs)
