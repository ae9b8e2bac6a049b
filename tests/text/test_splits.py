from collections import Counter

import pytest

from diffmamba_interp.text.documents import (
    SPLIT_SHARES,
    SPLITS,
    require_split,
    split_of_hash,
    story_hash,
    text_hash,
)


def test_the_splits_take_85_10_and_5_percent_of_many_documents() -> None:
    n = 20_000
    counts = Counter(split_of_hash(text_hash(f"document number {i}")) for i in range(n))
    assert set(counts) == set(SPLITS)
    for split, share in SPLIT_SHARES.items():
        assert abs(counts[split] / n - share) < 4 * (share * (1 - share) / n) ** 0.5


def test_the_shares_add_up_to_one() -> None:
    assert sum(SPLIT_SHARES.values()) == pytest.approx(1.0)


def test_the_borders_of_the_splits_are_where_the_shares_say() -> None:
    digests = [f"{int(u * 2**64):016x}" for u in (0.0, 0.8499, 0.8501, 0.9499, 0.9501)]
    expected = ["lm_train", "lm_train", "lens_train", "lens_train", "eval"]
    assert [split_of_hash(digest) for digest in digests] == expected


def test_white_space_does_not_change_the_split_but_words_do() -> None:
    assert text_hash("a b\n\nc ") == text_hash("a  b c")
    assert text_hash("a b c") != text_hash("a b d")
    assert story_hash(["Mary went. "], "Where?") == story_hash(["Mary  went."], "Where? ")


def test_a_story_is_hashed_with_its_order_and_the_borders_of_its_facts() -> None:
    assert story_hash(["a", "b"], "q") != story_hash(["b", "a"], "q")
    assert story_hash(["a b"], "q") != story_hash(["a", "b"], "q")
    assert story_hash(["a"], "b q") != story_hash(["a b"], "q")


def test_half_a_surrogate_pair_can_be_hashed() -> None:
    assert len(text_hash("x\ud83d")) == 64


def test_an_unknown_split_is_refused_with_the_names() -> None:
    with pytest.raises(ValueError, match="lm_train, lens_train, eval"):
        require_split("test")
