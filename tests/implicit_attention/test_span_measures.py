"""Span measures on rows whose answers are known by hand, and on records."""

import json
import math

import pytest
import torch

from diffmamba_interp import DifferentialConfig
from diffmamba_interp.implicit_attention import (
    SPAN_CLASSES,
    Spans,
    SpanSummary,
    attention_snr,
    branch_cosine,
    extract_attention,
    removed_share,
    summarise_spans,
)
from diffmamba_interp.implicit_attention.span_measures import (
    decibel,
    over_allocation_share,
    span_masks,
    span_mass,
    span_share,
)
from diffmamba_interp.spans import disjoint_spans
from tests.models.tiny import random_tokens, tiny_model

#                     needle      question  distr.  filler  none
ROW = torch.tensor([[4.0, -2.0, 1.0, 1.0, -0.5, 0.5, 1.0]])
SPANS = Spans(needle=((0, 2),), question=((2, 3),), distractors=((3, 4),), filler=((4, 6),))
VISIBLE = torch.ones(1, 7, dtype=torch.bool)


def masks() -> torch.Tensor:
    return span_masks(SPANS, 1, 7)


def test_masses_and_shares_are_sums_of_magnitudes() -> None:
    assert span_mass(ROW, masks()).tolist() == [[6.0, 1.0, 1.0, 1.0]]
    assert span_mass(ROW, masks(), signed=True).tolist() == [[2.0, 1.0, 1.0, 0.0]]
    assert span_share(ROW, masks(), VISIBLE)[0].tolist() == pytest.approx([0.6, 0.1, 0.1, 0.1])
    assert over_allocation_share(ROW, masks(), VISIBLE).item() == pytest.approx(0.2)


def test_the_snr_compares_means_and_not_sums() -> None:
    snr = attention_snr(ROW, masks()[:, 0], VISIBLE)
    assert snr.item() == pytest.approx(3.0 / 0.8)
    assert decibel(snr).item() == pytest.approx(10 * math.log10(3.75))


def test_tokens_that_are_not_visible_count_for_nothing() -> None:
    visible = torch.arange(7)[None] < 4
    assert attention_snr(ROW, masks()[:, 0], visible).item() == pytest.approx(3.0)


def test_without_a_needle_there_is_no_snr() -> None:
    assert math.isnan(attention_snr(ROW, torch.zeros(1, 7, dtype=torch.bool), VISIBLE).item())


def test_the_removed_share_is_one_for_all_and_negative_for_an_addition() -> None:
    difference = torch.tensor([[0.0, 0.0, 0.5, 2.0, -0.5, 0.5, 1.0]])
    assert removed_share(ROW, difference, masks()).tolist() == [[1.0, 0.5, -1.0, 0.0]]


def test_measures_keep_a_head_axis() -> None:
    by_head = torch.stack([ROW, 2 * ROW], dim=1)
    assert span_mass(by_head, masks()).shape == (1, 2, 4)
    assert attention_snr(by_head, masks()[:, 0], VISIBLE).tolist() == [[pytest.approx(3.75), pytest.approx(3.75)]]


def test_the_cosine_of_opposite_branches_is_minus_one() -> None:
    assert branch_cosine(ROW, -3 * ROW).item() == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ({"needle": ((3, 3),)}, "half-open"),
        ({"needle": ((-1, 2),)}, "half-open"),
        ({"needle": ((0, 3),), "filler": ((2, 5),)}, "position 2 is in needle and in filler"),
    ],
)
def test_spans_that_make_no_sense_are_refused(spans: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Spans(**spans)


def test_a_span_behind_the_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="there are 5 positions"):
        SPANS.masks(5)
    with pytest.raises(ValueError, match="one per sample"):
        span_masks([SPANS], 2, 7)


def test_spans_go_to_json_and_back() -> None:
    assert Spans.from_dict(json.loads(json.dumps(SPANS.to_dict()))) == SPANS
    with pytest.raises(ValueError, match="haystack"):
        Spans.from_dict({"haystack": [[0, 1]]})


@pytest.fixture(scope="module")
def model():
    return tiny_model(DifferentialConfig(placement=(0,)))


@pytest.mark.parametrize("options", [{}, {"kind": "contribution", "direction": 3}, {"kind": "contribution_norm"}])
def test_a_summary_measures_the_row_of_each_picture(model, options: dict) -> None:
    record = extract_attention(model, random_tokens(2, 9), 0, **options)
    summary = summarise_spans(record, SPANS)
    assert list(summary.share) == ["minuend", "lambda_subtrahend", "difference"]
    row = record.difference.select(record.row_axis, -1).abs()
    needle = row[..., 0:2]
    assert torch.allclose(summary.of_class(summary.mass["difference"], "needle"), needle.sum(-1))
    expected = 10 * torch.log10(needle.mean(-1) / row[..., 2:].mean(-1))
    assert torch.allclose(summary.snr_db["difference"], expected, atol=1e-4)
    taken = 1 - needle.sum(-1) / record.minuend.select(record.row_axis, -1)[..., 0:2].abs().sum(-1)
    assert torch.allclose(summary.of_class(summary.removed_share, "needle"), taken, atol=1e-5)
    scaled = record.lambda_ * record.subtrahend.select(record.row_axis, -1)[..., 0:2].abs().sum(-1)
    assert torch.allclose(summary.of_class(summary.mass["lambda_subtrahend"], "needle"), scaled)


def test_a_summary_of_an_earlier_row_does_not_see_later_spans(model) -> None:
    record = extract_attention(model, random_tokens(2, 9), 1)
    summary = summarise_spans(record, [SPANS, SPANS], row=3)
    assert summary.position.tolist() == [3, 3]
    assert summary.of_class(summary.mass["weights"], "filler").abs().max() == 0
    assert summary.removed_share is None
    assert torch.allclose(summary.share["weights"].sum(dim=-1), torch.ones(2, record.weights.shape[1]))
    with pytest.raises(ValueError, match="9 rows"):
        summarise_spans(record, SPANS, row=9)


@pytest.mark.parametrize("block", [0, 1])
def test_a_summary_goes_to_json_and_back(model, block: int) -> None:
    record = extract_attention(model, random_tokens(2, 9), block, reduce="mean")
    summary = summarise_spans(record, Spans(needle=((0, 1),)))
    again = SpanSummary.from_dict(json.loads(json.dumps(summary.to_dict(), allow_nan=False)))
    for name, value in summary.share.items():
        assert torch.equal(again.share[name], value)
    assert again.position.tolist() == summary.position.tolist()
    assert len(SPAN_CLASSES) == summary.share[next(iter(summary.share))].shape[-1]


def test_a_position_of_several_classes_goes_to_the_first_and_the_rest_stays_as_it_is() -> None:
    found = disjoint_spans({"filler": [(0, 4), (6, 9)], "needle": [(3, 7)], "distractors": [(4, 5), (9, 11), (11, 12)]})
    assert found == Spans(needle=((3, 7),), distractors=((9, 11), (11, 12)), filler=((0, 3), (7, 9)))


def test_an_interval_may_be_split_and_one_class_holds_no_position_twice() -> None:
    assert disjoint_spans({"needle": [(3, 5)], "filler": [(1, 8)]}).filler == ((1, 3), (5, 8))
    assert disjoint_spans({"needle": [(3, 5), (4, 7), (2, 2)]}).needle == ((3, 5), (5, 7))


def test_disjoint_spans_of_an_unknown_class_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown span classes: haystack"):
        disjoint_spans({"haystack": [(0, 1)]})
