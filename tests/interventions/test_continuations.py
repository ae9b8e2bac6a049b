"""Continuations side by side: each is what `generate` gives, and all read the first one's text."""

import json

import numpy as np
import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.interventions import Continuations, ScaleLambda, SetLambda, continuations, intervene
from tests.models.tiny import random_tokens, tiny_model

WITHOUT = SetLambda(value=0.0)


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement="all"), d_vocab_padding=3)


@pytest.fixture(scope="module")
def record(model: HookedMamba) -> Continuations:
    return continuations(
        model, random_tokens(1, 9), {"as it is": (), "without": WITHOUT, "same": ScaleLambda(factor=1.0)}, 6, top_k=4
    )


def test_every_variant_writes_what_generate_writes(model: HookedMamba, record: Continuations) -> None:
    tokens = random_tokens(1, 9)
    assert record.tokens[0].tolist() == model.generate(tokens, 6)[0, 9:].tolist()
    with intervene(model, WITHOUT):
        assert record.tokens[1].tolist() == model.generate(tokens, 6)[0, 9:].tolist()
    assert np.array_equal(record.top_tokens[..., 0], record.tokens)
    assert record.tokens.max() < model.cfg.d_vocab - 3


def test_all_variants_read_the_first_ones_text(model: HookedMamba, record: Continuations) -> None:
    whole = torch.cat([random_tokens(1, 9), torch.from_numpy(record.tokens[:1])], dim=1)
    n_real = model.cfg.d_vocab - 3
    for variant, changes in enumerate(((), WITHOUT)):
        with intervene(model, changes), torch.no_grad():
            probabilities = torch.softmax(model(whole)[0, 8:-1, :n_real], dim=-1)
        expected = probabilities.gather(1, whole[0, 9:, None])[:, 0]
        np.testing.assert_allclose(record.probability[variant], expected, rtol=1e-4)
        best = probabilities.topk(4)
        np.testing.assert_allclose(record.followed_probabilities[variant], best.values, rtol=1e-4)
        assert np.array_equal(record.followed_tokens[variant], best.indices)


def test_where_two_variants_part_is_told(record: Continuations) -> None:
    first, without, same = record.parting
    assert first is None
    assert same is None
    differs = record.tokens[1] != record.tokens[0]
    assert without == (int(differs.argmax()) if differs.any() else None)
    assert not np.allclose(record.probability[1], record.probability[0])


def test_drawn_tokens_come_from_the_same_random_numbers(model: HookedMamba) -> None:
    given = {"as it is": (), "same": ScaleLambda(factor=1.0)}
    drawn = continuations(model, random_tokens(1, 5), given, 8, temperature=5.0, seed=1)
    assert np.array_equal(drawn.tokens[0], drawn.tokens[1])
    other = continuations(model, random_tokens(1, 5), given, 8, temperature=5.0, seed=2)
    assert not np.array_equal(drawn.tokens[0], other.tokens[0])


def test_they_go_to_json_and_back(record: Continuations) -> None:
    again = Continuations.from_dict(json.loads(json.dumps(record.to_dict())))
    assert again.names == record.names
    assert again.interventions == record.interventions
    assert np.array_equal(again.followed_probabilities, record.followed_probabilities)


def test_no_variants_and_several_prompts_are_refused(model: HookedMamba) -> None:
    with pytest.raises(ValueError, match="variants is empty"):
        continuations(model, random_tokens(1, 5), {})
    with pytest.raises((ValueError, TypeError)):
        continuations(model, random_tokens(2, 5), {"as it is": ()})
