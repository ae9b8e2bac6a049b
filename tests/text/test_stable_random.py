from collections import Counter

import pytest

from diffmamba_interp.text.stable_random import StableRandom


def test_the_same_key_makes_the_same_choices_and_another_key_others() -> None:
    def draws(*key: object) -> list[int]:
        rng = StableRandom(*key)
        return [rng.integer(1000) for _ in range(20)]

    assert draws("a", 1) == draws("a", 1)
    assert draws("a", 1) != draws("a", 2)
    assert draws("a", 1) != draws("a1", "")


def test_choices_are_uniform() -> None:
    rng = StableRandom("uniform")
    counts = Counter(rng.pick("abcd") for _ in range(8_000))
    assert set(counts) == set("abcd")
    assert all(abs(count - 2_000) < 200 for count in counts.values())


def test_a_sample_holds_different_entries_and_a_shuffle_all_of_them() -> None:
    rng = StableRandom("sample")
    items = list(range(30))
    assert len(set(rng.sample(items, 10))) == 10
    shuffled = rng.shuffled(items)
    assert sorted(shuffled) == items
    assert shuffled != items
    assert items == list(range(30))


def test_more_entries_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="cannot draw 3 different entries from 2"):
        StableRandom("x").sample([1, 2], 3)


def test_the_sequence_never_changes() -> None:
    rng = StableRandom("frozen", 0)
    assert [rng.integer(100) for _ in range(8)] == EXPECTED


EXPECTED = [71, 40, 75, 63, 8, 22, 67, 56]
