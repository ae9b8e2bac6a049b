"""Headlines of sweeps: which block is named, where a share is one, and what a block alone raises."""

from dataclasses import replace

import numpy as np

from app.shell.change_headlines import subtraction_headline, sweep_headline
from tests.app.test_headlines import objections, without_subtraction, words


def test_a_share_is_told_of_a_fall_that_is_large_enough_and_no_more_than_all_of_it() -> None:
    tiny = subtraction_headline(without_subtraction(1.0, 0.984, 0.93, 1.0), "one")
    assert (
        words(tiny) == "λ 0 in every block takes the answer's probability in one from 1.00 to 0.98; one block, 0, "
        "alone to 0.93 (n = 1 prompt)."
    )
    assert "Shares" not in objections(tiny)
    above = subtraction_headline(without_subtraction(1.0, 0.5, 0.2, 1.0), "one")
    assert "alone to 0.20, more than all of that in log-probability" in words(above)
    none = subtraction_headline(without_subtraction(1.0, 0.5, 0.999, 1.0), "one")
    assert "to 0.50; no block alone moves it that way (" in words(none)
    assert "leaves the answer's probability in one at 1.00" in words(
        subtraction_headline(without_subtraction(1.0, 0.998, 1.0), "one")
    )


def test_the_next_block_is_named_where_it_is_shown_to_change_something() -> None:
    each = replace(without_subtraction(1.0, 0.93, 0.997, 1.0), groups=((0,), (8,), (9,)))
    assert words(sweep_headline(each)).endswith("from 1.00 to 0.93 (n = 1 prompt).")


def test_what_a_block_alone_raises_speaks_against_it() -> None:
    record = without_subtraction(0.5, 0.1, 0.4, 0.8)
    ratios = {"snr_db": np.array([1.0, 31.0, 9.0]).reshape(-1, 1, 1)}
    with_ratio = replace(
        record, clean=record.clean | {"snr_db": np.array([30.0])}, intervened=record.intervened | ratios
    )
    raised = (
        "λ 0 in block 1 alone raises the answer's probability from 0.50 to 0.80, and in block 0 alone raises the "
        "answer's ratio to the wrong labels from 30.0 dB to 31.0 dB: the subtraction there works against it."
    )
    assert raised in objections(subtraction_headline(with_ratio, "one"))
    assert "in block 1 alone raises its probability from 0.50" in objections(
        subtraction_headline(with_ratio, "one", "“to”, the most likely next token")
    )
    each = replace(with_ratio, groups=((2,), (0,), (1,)))
    assert raised in objections(sweep_headline(each))
    assert "works against" not in objections(sweep_headline(replace(each, dose="noise")))
    assert "works against" not in objections(subtraction_headline(without_subtraction(0.5, 0.1, 0.4, 0.501), "one"))
