"""Long pictures are pooled to what is strongest in them; other tools are given the pictures as they take them."""

import numpy as np
import pytest
import torch

from diffmamba_interp import DifferentialConfig, extract_attention
from diffmamba_interp.drawing.colours import SIGNED, short_name
from diffmamba_interp.figures.attention_panels import circuitsvis_heads, pooled
from tests.models.tiny import random_tokens, tiny_model


def test_a_pooled_cell_keeps_the_value_of_largest_magnitude_and_its_sign() -> None:
    value = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    cells = pooled(value, 3)
    assert cells.shape == (3, 2)
    for row in range(3):
        for column in range(2):
            part = value[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
            assert cells[row, column] == part.ravel()[np.abs(part).argmax()]


def test_without_pooling_the_values_are_those_given() -> None:
    value = np.eye(3, dtype=np.float32)
    assert pooled(value, 1) is value


def test_circuitsvis_is_given_every_picture_of_every_head_with_its_sign_and_our_colours() -> None:
    words = [f"w{i}" for i in range(7)]
    model = tiny_model(DifferentialConfig(placement=(0,)))
    tokens = random_tokens(2, 7)
    record = extract_attention(model, tokens, 0, lengths=torch.tensor([7, 5]), token_strings=[words, words])
    given = circuitsvis_heads(record, sample=1)
    n_heads = len(record.heads)
    assert given["attention"].shape == (3 * n_heads, 5, 5)
    assert given["tokens"] == words[:5]
    assert given["attention_head_names"][n_heads] == f"{short_name('lambda_subtrahend')}, head 0"
    assert np.allclose(given["attention"][-1], record.difference[1, -1, :5, :5].numpy())
    assert given["min_value"] == -given["max_value"] < 0
    assert (given["negative_color"], given["positive_color"]) == (SIGNED[0], SIGNED[-1])


def test_circuitsvis_is_given_a_mean_over_heads_as_one_and_no_record_of_some_rows() -> None:
    model, tokens = tiny_model(), random_tokens(1, 6)
    given = circuitsvis_heads(extract_attention(model, tokens, 0, reduce="mean"))
    assert given["attention"].shape == (1, 6, 6)
    assert given["tokens"] == [str(token) for token in tokens[0].tolist()]
    with pytest.raises(ValueError, match="extract it with rows=None"):
        circuitsvis_heads(extract_attention(model, tokens, 0, rows=[-1]))
    with pytest.raises(IndexError, match="sample is 1, but the record holds 1"):
        circuitsvis_heads(extract_attention(model, tokens, 0), sample=1)
