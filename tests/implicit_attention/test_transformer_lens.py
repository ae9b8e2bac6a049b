"""Our hidden attention is what TransformerLens calls the effective attention of Mamba-2.

A group of its own: TransformerLens is no dependency of this project. It can be installed beside it
(`pip install transformer-lens`; seen with 4.3.0, torch 2.13 and transformers 5.23) and is then compared with.
"""

import importlib.util
import warnings
from pathlib import Path

import pytest

from diffmamba_interp.implicit_attention import extract_attention
from tests.models.tiny import random_tokens, relative_error, tiny_model

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("transformer_lens") is None, reason="transformer_lens is not installed: it is optional"
    ),
    pytest.mark.filterwarnings("ignore"),
]


def test_hidden_attention_is_transformer_lens_effective_attention(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformer_lens.model_bridge import TransformerBridge
    from transformers import Mamba2ForCausalLM

    model, tokens = tiny_model(n_groups=2, d_model=32), random_tokens(2, 40)
    model.save_pretrained(tmp_path, format="hf_mamba2")
    theirs = TransformerBridge.boot_transformers(
        str(tmp_path), hf_model=Mamba2ForCausalLM.from_pretrained(tmp_path), device="cpu"
    )
    for block in theirs.blocks:
        # Without it, transformers 5 goes round the convolution's module, and its hook sees nothing.
        block.mixer.eager_scan = True
    _, cache = theirs.run_with_cache(tokens, use_cache=False)
    for record in extract_attention(model, tokens):
        mixer = theirs.blocks[record.block].mixer
        expected = mixer.compute_effective_attention(cache, layer_idx=record.block, include_dt_scaling=True)
        assert relative_error(record.weights, expected.detach()) < 1e-5
