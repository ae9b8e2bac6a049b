"""Right padding given as lengths or as a mask, tensors or lists, with whatever numbers in the padding."""

from typing import Any

import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba, LogitLens, lens_trajectory
from diffmamba_interp.implicit_attention import capture_block, extract_attention, residual_attribution
from diffmamba_interp.lens import residual_stream
from tests.models.tiny import N_TOKENS, random_tokens, tiny_model

LENGTHS = [5, 2]
MASK = [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
TOKENS = random_tokens(2, 5)
PADDED = TOKENS.masked_fill(torch.tensor(MASK) == 0, -100)
PADDED[1, 3] = N_TOKENS + 7
WAYS: list[dict[str, Any]] = [
    {"lengths": LENGTHS},
    {"lengths": torch.tensor(LENGTHS)},
    {"attention_mask": MASK},
    {"attention_mask": torch.tensor(MASK)},
    {"attention_mask": torch.tensor(MASK).bool()},
]


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,))).requires_grad_(False)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_running_takes_every_way_of_saying_where_the_padding_is(
    model: HookedMamba, way: dict[str, Any]
) -> None:
    counts = torch.tensor(MASK).bool()
    expected = model(TOKENS, lengths=torch.tensor(LENGTHS))[counts]
    logits, cache = model.run_with_cache(PADDED, "hook_embed", **way)
    for out in (
        model(PADDED, **way),
        logits,
        model.run_with_hooks(PADDED, **way),
        model.forward_with_state(PADDED, **way)[0],
    ):
        assert torch.equal(out[counts], expected)
    assert list(torch.as_tensor(cache.lengths)) == LENGTHS


def test_the_instruments_take_padding_outside_the_vocabulary(model: HookedMamba) -> None:
    counts = torch.tensor(MASK).bool()
    padded, plain = (
        (
            extract_attention(model, tokens, 0, lengths=LENGTHS).difference,
            residual_attribution(model, tokens, 3, lengths=LENGTHS).difference,
            capture_block(model, tokens, 1, lengths=LENGTHS).mixer_out[counts],
            residual_stream(model, tokens, lengths=LENGTHS).final[counts],
            torch.from_numpy(
                lens_trajectory(
                    model, LogitLens.from_model(model), tokens, targets=tokens, lengths=LENGTHS
                ).target_log_probabilities
            ).swapaxes(1, 2)[counts],
        )
        for tokens in (PADDED, TOKENS)
    )
    for one, other in zip(padded, plain, strict=True):
        assert torch.equal(one, other)


def test_ids_outside_the_vocabulary_are_refused_where_they_count(model: HookedMamba) -> None:
    for lengths in (None, [5, 3]):
        with pytest.raises(ValueError, match="ids from -100"):
            model(PADDED, lengths=lengths)


def test_a_mask_of_unequal_rows_is_refused_by_name(model: HookedMamba) -> None:
    with pytest.raises(TypeError, match="attention_mask is"):
        model(TOKENS, attention_mask=[[1], [1, 1]])
