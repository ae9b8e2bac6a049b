"""Sizes of work, the residual stream, stage names."""

import pytest
import torch

from diffmamba_interp import HookedMamba
from diffmamba_interp.lens import ModelUnembed, residual_stream, stage_names
from diffmamba_interp.lens.training import first_micro_batch
from diffmamba_interp.lens.unembedding import chunk_tokens


def test_a_tile_of_logits_fits_its_budget_for_small_and_large_vocabularies() -> None:
    for d_vocab in (97, 4096, 50_288):
        size = chunk_tokens(torch.empty(d_vocab, 1))
        assert size & (size - 1) == 0
        assert size <= 16 or size * d_vocab * 4 <= 16 * 2**20
    assert chunk_tokens(torch.empty(50_288, 1)) >= 16


@pytest.mark.parametrize(("length", "sequences", "expected"), [(16, 4, 4), (256, 100, 16), (8192, 8, 1), (16, 3, 2)])
def test_the_micro_batch_is_a_power_of_two_within_the_step(
    model: HookedMamba, length: int, sequences: int, expected: int
) -> None:
    assert first_micro_batch(model.cfg, length, model.unembed.weight, sequences) == expected


def test_the_stream_holds_what_enters_each_block_and_what_leaves_the_last(
    model: HookedMamba, tokens: torch.Tensor
) -> None:
    logits, cache = model.run_with_cache(tokens, "blocks.*.hook_resid_*")
    stream = residual_stream(model, tokens)
    for block, resid in enumerate(stream.entering):
        assert torch.equal(resid, cache[f"blocks.{block}.hook_resid_pre"])
    assert torch.equal(stream.final, cache["blocks.3.hook_resid_post"])
    assert torch.equal(ModelUnembed(model)(stream.final), logits)
    assert residual_stream(model, tokens, dtype=torch.bfloat16).final.dtype == torch.bfloat16


def test_stages_are_the_embedding_the_blocks_but_the_last_and_the_output() -> None:
    assert stage_names(3) == ("embedding", "after block 0", "after block 1", "output")
