import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from diffmamba_interp import DifferentialConfig
from diffmamba_interp.lm_training.mixture import Batch, Mixture, RowMaker, iterate_batches
from diffmamba_interp.lm_training.preparation import make_mixture
from diffmamba_interp.lm_training.recipe import ModelRecipe
from tests.lm_training.tiny import tiny_config, tiny_recipe


def numbered(part: int) -> RowMaker:
    """Rows that say which part they belong to and which row of it they are."""
    return lambda k: (np.array([part, k], dtype=np.uint32), np.array([1, 1], dtype=np.uint8))


def mixture(*weights: float, batch_size: int = 8, seed: int = 0) -> Mixture:
    parts = [(weight, numbered(part)) for part, weight in enumerate(weights)]
    return Mixture(parts, batch_size=batch_size, seed=seed, d_vocab=100)


def same(one: Batch, two: Batch) -> bool:
    return torch.equal(one.tokens, two.tokens) and torch.equal(one.roles, two.roles)


def test_shares_are_exact_in_every_thousand_rows_and_each_part_counts_its_rows_without_gaps() -> None:
    mixed = mixture(0.30, 0.15, 0.55)
    rows = [tuple(mixed.row(number)[0].tolist()) for number in range(2000)]
    for period in (rows[:1000], rows[1000:]):
        assert Counter(part for part, _ in period) == {0: 300, 1: 150, 2: 550}
    for part, share in enumerate((600, 300, 1100)):
        assert [k for row_part, k in rows if row_part == part] == list(range(share))


def test_a_part_with_a_tiny_weight_is_still_seen() -> None:
    assert mixture(1.0, 1e-9).counts == [999, 1]


def test_a_row_depends_on_seed_and_number_alone() -> None:
    one, other = mixture(1.0, 1.0), mixture(1.0, 1.0)
    forwards = [one.row(number)[0].tolist() for number in range(1500)]
    assert [other.row(number)[0].tolist() for number in reversed(range(1500))] == forwards[::-1]
    assert [mixture(1.0, 1.0, seed=1).row(number)[0].tolist() for number in range(1500)] != forwards


def test_the_rows_of_all_processes_together_are_the_batch_of_one() -> None:
    mixed = mixture(1.0, 2.0)
    whole = mixed.batch(3).tokens.tolist()
    shares = [mixed.batch(3, rank, 3).tokens.tolist() for rank in range(3)]
    assert [len(share) for share in shares] == [3, 3, 2]
    assert [shares[row % 3][row // 3] for row in range(8)] == whole


def test_batches_from_a_later_step_are_those_of_an_uninterrupted_run() -> None:
    mixed = mixture(1.0, 1.0)
    whole, rest = list(iterate_batches(mixed, 0, 6)), list(iterate_batches(mixed, 4, 6))
    assert len(rest) == 2
    assert all(same(one, two) for one, two in zip(whole[4:], rest, strict=True))


def test_worker_processes_make_the_same_batches_in_the_same_order() -> None:
    mixed = mixture(1.0, 1.0)
    alone, helped = list(iterate_batches(mixed, 0, 5)), list(iterate_batches(mixed, 0, 5, workers=2))
    assert all(same(one, two) for one, two in zip(alone, helped, strict=True))


def test_inputs_and_targets_are_one_token_apart() -> None:
    batch = mixture(1.0).batch(0)
    assert torch.equal(batch.inputs, batch.tokens[:, :1])
    assert torch.equal(batch.targets, batch.tokens[:, 1:])
    assert torch.equal(batch.target_roles, batch.roles[:, 1:])


@pytest.mark.parametrize(("d_vocab", "dtype"), [(65_536, torch.uint16), (65_537, torch.int32)])
def test_tokens_take_two_bytes_where_the_vocabulary_allows(d_vocab: int, dtype: torch.dtype) -> None:
    assert Mixture([(1.0, numbered(0))], batch_size=1, seed=0, d_vocab=d_vocab).batch(0).tokens.dtype == dtype


def test_both_models_of_a_pair_see_the_same_tokens_in_the_same_order(
    data: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    plain = tiny_recipe(data)
    differential = dataclasses.replace(
        plain, model=ModelRecipe(config=tiny_config(d_model=32, differential=DifferentialConfig()))
    )
    one, two = (make_mixture(recipe, tokenizer) for recipe in (plain, differential))
    assert all(same(one.batch(step), two.batch(step)) for step in range(8))


def test_the_data_seed_decides_the_rows_and_is_the_runs_seed_by_default(
    data: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    batches = {
        name: make_mixture(tiny_recipe(data, seed=seed, data__seed=data_seed), tokenizer).batch(0)
        for name, seed, data_seed in (("run 1", 1, None), ("data 1", 2, 1), ("run 2", 2, None))
    }
    assert same(batches["run 1"], batches["data 1"])
    assert not same(batches["run 1"], batches["run 2"])
