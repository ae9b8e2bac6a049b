"""Attention by span as a figure: the numbers of the collapsed record under names that a reader knows."""

import numpy as np
import pytest

from diffmamba_interp import DifferentialConfig
from diffmamba_interp.figures.attention_spans import attention_span_figure, segment_label
from diffmamba_interp.implicit_attention import AttentionRecord, Spans, extract_attention
from diffmamba_interp.implicit_attention.segments import Segment, collapse_by_span
from tests.models.tiny import random_tokens, tiny_model

SPANS = Spans(needle=((2, 4),), question=((6, 7),), filler=((4, 6),))


@pytest.fixture(scope="module")
def record() -> AttentionRecord:
    return extract_attention(tiny_model(DifferentialConfig(placement=(0,))), random_tokens(1, 9), 0)


def test_the_panels_show_the_collapsed_pictures_on_one_signed_scale(record: AttentionRecord) -> None:
    figure = attention_span_figure(record, SPANS, head=2)
    expected = collapse_by_span(record, SPANS, head=2)
    for trace, value in zip(figure.data, expected.values.values(), strict=True):
        assert np.array_equal(trace.z, value.numpy())
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax
    assert "head 2" in figure.layout.title.text
    assert "sums over sources, means over destinations" in figure.layout.title.text


def test_named_spans_are_labelled_and_every_cell_says_who_reads_whom(record: AttentionRecord) -> None:
    figure = attention_span_figure(record, SPANS)
    assert figure.layout.xaxis.ticktext == ("needle 2–3", "question 6")
    assert figure.layout.xaxis.tickvals == (1, 3)
    assert figure.data[0].customdata[3][1] == "question 6 reads needle 2–3"


def test_without_named_spans_the_stretches_themselves_are_labelled(record: AttentionRecord) -> None:
    assert attention_span_figure(record, Spans()).layout.xaxis.ticktext == ("other 0–8",)


def test_a_window_cuts_the_spans_too(record: AttentionRecord) -> None:
    figure = attention_span_figure(record, SPANS, window=(3, 7))
    assert figure.data[0].z.shape == (3, 3)
    assert figure.layout.xaxis.ticktext == ("needle 3", "question 6")


def test_a_title_of_ones_own_is_taken(record: AttentionRecord) -> None:
    assert attention_span_figure(record, SPANS, title="mine").layout.title.text == "mine"


def test_a_segment_is_named_by_its_class_and_positions() -> None:
    assert segment_label(Segment("filler", 3, 4)) == "filler 3"
    assert segment_label(Segment("", 3, 9)) == "other 3–8"
