"""A record's pictures as plain matrices: the right sample, head and window, and nothing of the padding."""

import pytest
import torch

from diffmamba_interp import DifferentialConfig
from diffmamba_interp.implicit_attention import AttentionRecord, extract_attention
from diffmamba_interp.implicit_attention.pictures import pictures_of
from tests.models.tiny import random_tokens, tiny_model


@pytest.fixture(scope="module")
def record() -> AttentionRecord:
    """Two samples, the second with padding."""
    model = tiny_model(DifferentialConfig(placement=(0,)))
    return extract_attention(model, random_tokens(2, 9), 0, lengths=torch.tensor([9, 6]))


def test_one_head_is_shown_as_it_is_and_no_head_is_the_mean(record: AttentionRecord) -> None:
    one, mean = pictures_of(record, head=2), pictures_of(record)
    for name, picture in record.pictures.items():
        torch.testing.assert_close(one.values[name], picture[0, 2], rtol=0, atol=0)
        torch.testing.assert_close(mean.values[name], picture[0].mean(dim=0), rtol=0, atol=0)
    assert mean.rows.tolist() == list(range(9))


def test_padding_is_cut_off(record: AttentionRecord) -> None:
    found = pictures_of(record, sample=1)
    assert found.values["difference"].shape == (6, 6)
    assert found.rows.tolist() == list(range(6))


def test_a_window_keeps_its_rows_and_sources(record: AttentionRecord) -> None:
    found = pictures_of(record, head=1, window=(2, 5))
    assert torch.equal(found.values["minuend"], record.minuend[0, 1, 2:5, 2:5])
    assert (found.rows.tolist(), found.start) == ([2, 3, 4], 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 2}, "samples 0 to 1"),
        ({"head": 9}, "heads"),
        ({"window": (3, 3)}, "half-open"),
        ({"window": (0, 10)}, "<= 9"),
        ({"sample": 1, "window": (0, 7)}, "<= 6"),
    ],
)
def test_what_the_record_does_not_have_is_refused(record: AttentionRecord, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pictures_of(record, **options)


def test_a_window_without_a_row_is_refused() -> None:
    model = tiny_model(DifferentialConfig(placement=(0,)))
    last = extract_attention(model, random_tokens(1, 9), 0, rows=[-1])
    with pytest.raises(ValueError, match="no row there"):
        pictures_of(last, window=(0, 4))
