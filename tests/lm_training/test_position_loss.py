"""Losses by position do not depend on how the text is cut into chunks, and windows see just what they say."""

import numpy as np
import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.lm_training.position_loss import binned, position_bins, position_losses, windowed_losses
from tests.models.tiny import random_tokens, tiny_model

WINDOW = 8


@pytest.fixture(scope="module", params=[None, DifferentialConfig(placement=(0,))], ids=["plain", "differential"])
def model(request: pytest.FixtureRequest) -> HookedMamba:
    return tiny_model(request.param)


def expected(model: HookedMamba, tokens: torch.Tensor) -> torch.Tensor:
    log_probs = model(tokens[:, :-1]).log_softmax(dim=-1)
    return -log_probs.gather(-1, tokens[:, 1:, None])[..., 0].detach()


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_through_the_state_give_the_losses_of_one_pass(model: HookedMamba, chunk: int) -> None:
    tokens = random_tokens(2, 25)
    torch.testing.assert_close(position_losses(model, tokens, chunk=chunk), expected(model, tokens))


def test_a_window_sees_at_least_half_a_window_and_nothing_older(model: HookedMamba) -> None:
    tokens = random_tokens(2, 25)
    losses = windowed_losses(model, tokens, window=WINDOW, batch_tokens=3 * WINDOW)
    assert losses.shape == (2, 24)
    torch.testing.assert_close(losses[:, :WINDOW], expected(model, tokens)[:, :WINDOW])
    torch.testing.assert_close(losses[:, 16:20], expected(model, tokens[:, 12:21])[:, 4:])
    older = tokens.clone()
    older[:, :8] = 0
    torch.testing.assert_close(windowed_losses(model, older, window=WINDOW)[:, 16:], losses[:, 16:])
    assert not torch.allclose(position_losses(model, older)[:, 16:], position_losses(model, tokens)[:, 16:])


def test_vocabulary_padding_takes_no_probability() -> None:
    padded = tiny_model(d_vocab=32, d_vocab_padding=9)
    tokens = random_tokens(1, 5)
    log_probs = padded(tokens[:, :-1])[..., :23].log_softmax(dim=-1)
    want = -log_probs.gather(-1, tokens[:, 1:, None])[..., 0].detach()
    torch.testing.assert_close(position_losses(padded, tokens), want)


def test_bins_double_and_end_with_the_text() -> None:
    assert position_bins(1024, 256).tolist() == [0, 256, 512, 1024]
    assert position_bins(1000, 256).tolist() == [0, 256, 512, 1000]
    assert position_bins(100, 256).tolist() == [0, 100]


def test_a_bin_holds_the_mean_of_its_positions() -> None:
    losses = torch.arange(8.0)[None]
    assert binned(losses, np.array([0, 2, 8])).tolist() == [[0.5, 4.5]]


@pytest.mark.parametrize(("n_tokens", "window"), [(24, 8), (7, 8), (25, 7)])
def test_windows_that_do_not_fit_are_refused(model: HookedMamba, n_tokens: int, window: int) -> None:
    with pytest.raises(ValueError, match="half windows"):
        windowed_losses(model, random_tokens(1, n_tokens), window=window)


def test_a_single_token_predicts_nothing(model: HookedMamba) -> None:
    with pytest.raises(ValueError, match="at least two"):
        position_losses(model, random_tokens(1, 1))
