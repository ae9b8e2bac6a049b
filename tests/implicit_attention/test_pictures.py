"""A record's pictures as plain matrices: the right sample, head and window, and nothing of the padding."""

import pytest
import torch

from diffmamba_interp import DifferentialConfig
from diffmamba_interp.implicit_attention import AttentionRecord, Spans, extract_attention
from diffmamba_interp.implicit_attention.pictures import collapse, collapse_by_span, pictures_of, segments
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


SPANS = Spans(needle=((2, 4),), question=((6, 8),))
CUT = (("", 0, 2), ("needle", 2, 4), ("", 4, 6), ("question", 6, 8))


def test_a_prompt_is_cut_where_spans_begin_and_end() -> None:
    assert segments(SPANS, 0, 8) == CUT
    assert segments(SPANS, 3, 5) == (("needle", 3, 4), ("", 4, 5))
    assert segments(Spans(), 2, 7) == (("", 2, 7),)


def test_neighbouring_spans_of_one_class_are_one_segment() -> None:
    assert segments(Spans(distractors=((0, 2), (2, 3))), 0, 4) == (("distractors", 0, 3), ("", 3, 4))


def test_a_cell_is_the_sum_over_sources_and_the_mean_over_destinations() -> None:
    picture = torch.arange(64, dtype=torch.float32).reshape(8, 8).tril()
    cells = collapse(picture, torch.arange(8), segments(SPANS, 0, 8))
    for row, (_, top, bottom) in enumerate(CUT):
        for column, (_, left, right) in enumerate(CUT):
            expected = picture[top:bottom, left:right].sum() / (bottom - top)
            torch.testing.assert_close(cells[row, column], expected)


def test_a_line_of_cells_adds_up_to_what_its_destinations_read() -> None:
    picture = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).tril()
    cells = collapse(picture, torch.arange(8), segments(SPANS, 0, 8))
    torch.testing.assert_close(cells.sum(dim=1)[1], picture[2:4].sum(dim=1).mean())


def test_a_segment_whose_rows_are_not_there_is_empty() -> None:
    cells = collapse(torch.ones(2, 8), torch.tensor([6, 7]), segments(SPANS, 0, 8))
    assert cells[:3].isnan().all()
    assert cells[3].isfinite().all()


def test_a_record_is_collapsed_picture_by_picture_within_its_window() -> None:
    record = extract_attention(tiny_model(DifferentialConfig(placement=(0,))), random_tokens(1, 9), 0)
    found = collapse_by_span(record, SPANS, head=1, window=(1, 8))
    assert [segment.span_class for segment in found.segments] == ["", "needle", "", "question"]
    for name, picture in record.pictures.items():
        expected = picture[0, 1, 6:8, 2:4].sum() / 2
        torch.testing.assert_close(found.values[name][3, 1], expected)


def test_segments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="half-open"):
        segments(SPANS, 3, 3)
    with pytest.raises(ValueError, match="outside of the sources"):
        collapse(torch.ones(2, 4), torch.tensor([0, 1]), segments(SPANS, 0, 8))
