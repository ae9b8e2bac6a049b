import itertools
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from diffmamba_interp.text.batches import RandomTokenBatches, TokenBatches, pack_tokens
from diffmamba_interp.text.documents import DataError

# Sequence i of length 5 begins with token 5 i.
TOKENS = np.arange(5 * 23 + 3, dtype=np.uint16)


def batches(**options: int | bool | None) -> TokenBatches:
    return TokenBatches(TOKENS, **{"length": 5, "batch_size": 4, **options})


def first(n: int, source: TokenBatches) -> list[Tensor]:
    return list(itertools.islice(source, n))


def starts(batch: Tensor) -> list[int]:
    return (batch[:, 0] // 5).tolist()


def test_packing_cuts_the_run_and_reports_what_is_left() -> None:
    sequences, n_left = pack_tokens(TOKENS, 5)
    assert sequences.shape == (23, 5)
    assert n_left == 3
    np.testing.assert_array_equal(sequences.reshape(-1), TOKENS[:-3])
    assert np.shares_memory(sequences, TOKENS)


def test_text_too_short_for_a_sequence_or_a_batch_is_reported() -> None:
    with pytest.raises(DataError, match="118 tokens, too few for one sequence of 119"):
        pack_tokens(TOKENS, 119)
    with pytest.raises(DataError, match="fills 23 sequences of 5 tokens, fewer than one batch of 24"):
        batches(batch_size=24)
    with pytest.raises(ValueError, match="length is 0"):
        pack_tokens(TOKENS, 0)


def test_an_epoch_holds_every_sequence_once_but_for_the_incomplete_batch() -> None:
    source = batches(n_epochs=1)
    seen = [start for batch in source for start in starts(batch)]
    assert source.n_batches == 5
    assert len(seen) == len(set(seen)) == 20
    assert source.n_unused_tokens == 3


def test_batches_are_int64_sequences_of_the_run() -> None:
    (batch,) = first(1, batches())
    assert batch.shape == (4, 5)
    assert batch.dtype == torch.int64
    for row in batch:
        assert row.tolist() == list(range(int(row[0]), int(row[0]) + 5))
        assert row[0] % 5 == 0


def test_every_epoch_has_an_order_of_its_own_that_the_seed_decides() -> None:
    def orders(seed: int) -> list[list[int]]:
        flat = [start for batch in batches(seed=seed, n_epochs=2) for start in starts(batch)]
        return [flat[:20], flat[20:]]

    assert orders(0) == orders(0)
    assert orders(0)[0] != orders(0)[1]
    assert orders(0) != orders(1)


def test_the_order_is_the_one_that_shipped_models_were_trained_in() -> None:
    source = batches(seed=3, n_epochs=2)
    flat = [start for batch in source for start in starts(batch)]
    orders = [np.random.RandomState([3, epoch]).permutation(23)[:20].tolist() for epoch in (0, 1)]
    assert [flat[:20], flat[20:]] == orders


def test_without_shuffling_the_order_is_that_of_the_run() -> None:
    assert [starts(batch) for batch in batches(shuffle=False, n_epochs=1)][:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("n_done", [0, 1, 4, 5, 7, 12])
def test_a_saved_position_goes_on_with_the_same_batches(n_done: int) -> None:
    source = batches(seed=3)
    first(n_done, source)
    state = json.loads(json.dumps(source.state()))
    expected = first(8, source)
    resumed = batches(seed=3)
    first(2, resumed)
    resumed.restore(state)
    for got, wanted in zip(first(8, resumed), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ranks_together_are_the_single_process(world_size: int) -> None:
    ranks = [first(9, batches(rank=rank, world_size=world_size)) for rank in range(world_size)]
    for single, *shares in zip(first(9, batches()), *ranks, strict=True):
        torch.testing.assert_close(torch.cat(shares), single, rtol=0, atol=0)


def test_a_position_can_be_restored_on_another_number_of_ranks() -> None:
    two = batches(rank=1, world_size=2)
    first(3, two)
    one = batches()
    one.restore(two.state())
    torch.testing.assert_close(first(1, one)[0][2:], first(1, two)[0], rtol=0, atol=0)


@pytest.mark.parametrize("change", [{"length": 4}, {"batch_size": 2}, {"seed": 1}, {"shuffle": False}])
def test_a_position_of_other_settings_is_refused(change: dict) -> None:
    state = batches(**change).state()
    with pytest.raises(ValueError, match="saved position has " + ("" if "length" in change else next(iter(change)))):
        batches().restore(state)


def test_the_end_of_the_last_epoch_stays_the_end() -> None:
    source = batches(n_epochs=2)
    assert len(list(source)) == 10
    assert list(source) == []
    resumed = batches(n_epochs=2)
    resumed.restore(source.state())
    assert list(resumed) == []


@pytest.mark.parametrize(("batch_size", "rank", "world_size"), [(4, 0, 3), (4, 2, 2), (0, 0, 1)])
def test_ranks_that_cannot_share_a_batch_are_refused(batch_size: int, rank: int, world_size: int) -> None:
    with pytest.raises(ValueError, match="cannot be shared"):
        batches(batch_size=batch_size, rank=rank, world_size=world_size)


def test_random_batches_continue_from_a_saved_position() -> None:
    whole = RandomTokenBatches(50, length=4, batch_size=2, seed=3)
    first, second = next(whole), next(whole)
    resumed = RandomTokenBatches(50, length=4, batch_size=2, seed=3)
    assert torch.equal(next(resumed), first)
    later = RandomTokenBatches(50, length=4, batch_size=2, seed=3)
    later.restore(resumed.state())
    assert torch.equal(next(later), second)
    assert not torch.equal(first, second)


def test_the_shares_of_all_ranks_joined_are_the_batch_of_one_process() -> None:
    alone = RandomTokenBatches(50, length=4, batch_size=6)
    shares = [RandomTokenBatches(50, length=4, batch_size=6, rank=r, world_size=3) for r in range(3)]
    assert torch.equal(torch.cat([next(share) for share in shares]), next(alone))
    with pytest.raises(ValueError, match="rank 0 of 4"):
        RandomTokenBatches(50, length=4, batch_size=6, world_size=4)
