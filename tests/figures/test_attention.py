"""Figures of attention records: the right numbers in the right panel, and text that stays text."""

import numpy as np
import pytest

from diffmamba_interp import DifferentialConfig
from diffmamba_interp.drawing.colours import MAGNITUDE, SIGNED, SPANS
from diffmamba_interp.drawing.panels import Frame
from diffmamba_interp.figures.attention import (
    MAX_SPAN_TICKS,
    attention_drawing,
    attention_figure,
    attention_span_drawing,
    attention_span_figure,
    row_bars,
    segment_label,
)
from diffmamba_interp.figures.attention_panels import record_scale
from diffmamba_interp.implicit_attention import Spans, extract_attention
from diffmamba_interp.implicit_attention.pictures import Segment, collapse_by_span
from tests.models.tiny import random_tokens, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model(DifferentialConfig(placement=(0,)))


@pytest.fixture(scope="module")
def record(model):
    strings = ["<b>bold</b>", "$x$", " the", "\n", "a&amp;b", "\u202eabc", "x" * 99, "", "ok"]
    return extract_attention(model, random_tokens(2, 9), 0, token_strings=[strings] * 2)


def panel_titles(figure) -> list[str]:
    return [note.text for note in figure.layout.annotations]


def shown(drawing) -> dict[str, np.ndarray]:
    """What every panel's cells hold, by its title."""
    return {panel.title: panel.marks[0].values for panel in drawing.panels}


def test_every_picture_stands_in_its_own_panel_with_its_sign(record) -> None:
    drawing = attention_drawing(record, sample=1, head=0)
    cells = shown(drawing)
    assert list(cells) == ["minuend", "λ · subtrahend", "difference"]
    minuend, subtrahend = record.minuend[1, 0].numpy(), record.subtrahend[1, 0].numpy()
    assert np.array_equal(cells["minuend"], minuend)
    assert np.allclose(cells["λ · subtrahend"], float(record.lambda_.detach()) * subtrahend, atol=1e-6)
    assert np.allclose(cells["difference"], cells["minuend"] - cells["λ · subtrahend"], atol=1e-6)
    assert (drawing.scale.colours, drawing.scale.low) == (SIGNED, -drawing.scale.high)
    assert (drawing.x.title, drawing.y.title, drawing.y.backwards) == ("source position", "destination position", True)


def test_a_differential_block_has_three_panels_on_one_symmetric_scale(record) -> None:
    figure = record.figure(sample=1, head=0, clip_quantile=1.0)
    assert panel_titles(figure) == ["minuend", "λ · subtrahend", "difference"]
    for trace, picture in zip(figure.data, record.pictures.values(), strict=True):
        assert np.array_equal(trace.z, picture[1, 0].detach().numpy())
        assert trace.coloraxis == "coloraxis"
    axis = figure.layout.coloraxis
    assert axis.cmin == -axis.cmax
    assert axis.cmax == pytest.approx(max(float(p[1, 0].abs().max()) for p in record.pictures.values()))
    assert "H1 − λ H2" in figure.layout.title.text


def test_a_scale_that_does_not_hold_every_value_says_so_at_its_ends(record, model) -> None:
    scale = attention_drawing(record, sample=1, head=0, clip_quantile=0.5).scale
    assert scale.ticks == {scale.low: f"≤ −{scale.high:.3g}", 0.0: "0", scale.high: f"≥ {scale.high:.3g}"}
    assert attention_drawing(record, sample=1, head=0, clip_quantile=1.0).scale.ticks is None
    norms = extract_attention(model, random_tokens(), 0, "contribution_norm")
    scale = attention_drawing(norms, clip_quantile=0.5).scale
    assert list(scale.ticks) == [0.0, scale.high]


def test_beside_a_first_token_that_all_read_strong_cells_are_told_apart_and_weak_ones_seen(record) -> None:
    sink, strong, less, weak = 1.0, 0.68, 0.28, 0.02
    values = np.zeros((50, 50))
    values[:, 0], values[9, 4], values[9, 5], values[9, 6] = sink, strong, less, -weak
    scale = record_scale(record, [values])
    assert (scale.low, scale.high, scale.ticks) == (-sink, sink, None)
    shares = [scale.share(value) for value in (strong, less, 0.0, -weak)]
    assert min(np.abs(np.diff(shares))) > 0.07
    # As far apart in the interactive figure, whose stops lie where the values do.
    stops = attention_figure(record).layout.coloraxis.colorscale
    assert [stop for stop, _ in stops] == pytest.approx([0, 0.18, 0.32, 0.42, 0.48, 0.5, 0.52, 0.58, 0.68, 0.82, 1])


def test_a_plain_block_has_one_panel(model) -> None:
    figure = attention_figure(extract_attention(model, random_tokens(), 1, reduce="mean"))
    assert panel_titles(figure) == ["weights"]
    assert "mean over" in figure.layout.title.text


def test_without_a_head_the_mean_is_shown_and_named(record) -> None:
    figure = attention_figure(record)
    assert np.allclose(figure.data[0].z, record.minuend[0].mean(dim=0).numpy())
    assert "mean of 4 heads" in figure.layout.title.text


def test_norms_have_a_scale_that_starts_at_zero(model) -> None:
    scale = attention_drawing(extract_attention(model, random_tokens(), 0, "contribution_norm")).scale
    assert (scale.low, scale.colours, scale.title) == (0.0, MAGNITUDE, "norm")


def test_token_text_is_no_markup(record) -> None:
    labels = attention_figure(record).layout.xaxis.ticktext
    assert labels[0] == "0 &lt;b&gt;bold&lt;/b&gt;"
    assert labels[1] == "1 &#36;x&#36;"
    assert labels[2:4] == ("2 ␣the", "3 ⏎")
    assert labels[4] == "4 a&amp;amp;b"
    assert labels[5] == "5 \\u202eabc"


def test_chosen_rows_are_labelled_with_their_positions(model) -> None:
    figure = attention_figure(extract_attention(model, random_tokens(), 0, rows=[7, 2]))
    assert figure.layout.yaxis.ticktext == ("7", "2")
    assert figure.layout.yaxis.tickvals == (0, 1)
    assert figure.data[0].z.shape == (2, 9)


def test_padding_is_not_drawn(model) -> None:
    import torch

    record = extract_attention(model, random_tokens(2, 9), 0, lengths=torch.tensor([9, 5]))
    assert attention_figure(record, sample=1).data[0].z.shape == (5, 5)


def test_a_long_prompt_is_pooled_to_its_largest_magnitudes_and_says_so(model) -> None:
    record = extract_attention(model, random_tokens(1, 50), 0, reduce="mean")
    figure = attention_figure(record, max_cells=20)
    z, whole = figure.data[0].z, record.minuend[0].numpy()
    assert z.shape == (17, 17)
    cell = whole[9:12, 6:9]
    assert z[3, 2] == cell.ravel()[np.abs(cell).argmax()]
    assert "pooled 3 × 3" in figure.layout.title.text
    assert tuple(figure.data[0].x[:2]) == (1.0, 4.0)


def test_spans_are_framed_in_every_panel_and_named_in_the_legend(record) -> None:
    figure = attention_figure(record, spans=Spans(needle=((1, 3),), filler=((4, 5), (6, 8))))
    assert len(figure.layout.shapes) == 9
    frames = list(attention_drawing(record, spans=Spans(needle=((1, 3),), filler=((4, 5), (6, 8)))).marks(Frame))[:3]
    assert [(frame.name, frame.colour, frame.x) for frame in frames] == [
        ("needle", SPANS["needle"].colour, (0.5, 2.5)),
        ("filler", SPANS["filler"].colour, (3.5, 4.5)),
        ("filler", SPANS["filler"].colour, (5.5, 7.5)),
    ]
    # In each panel the needle comes last, so that no neighbour's frame hides it.
    assert [(shape.x0, shape.line.width) for shape in figure.layout.shapes[2::3]] == [(0.5, 3)] * 3
    assert [trace.name for trace in figure.data if trace.name] == ["needle", "filler"]


def test_a_window_shows_its_rows_and_sources_at_their_positions(model) -> None:
    record = extract_attention(model, random_tokens(1, 50), 0, reduce="mean")
    figure = attention_figure(record, window=(10, 30))
    trace = figure.data[0]
    assert np.array_equal(trace.z, record.minuend[0, 10:30, 10:30].numpy())
    assert (trace.x[0], trace.y[0], trace.x[1]) == (10, 10, 11)
    assert figure.layout.xaxis.range == (9.5, 29.5)
    assert figure.layout.yaxis.range == (29.5, 9.5)
    assert figure.layout.xaxis.tickvals[:2] == figure.layout.yaxis.tickvals[:2] == (10, 12)
    assert figure.layout.xaxis.ticktext[1] == "12"
    assert "pooled" not in figure.layout.title.text


def test_a_window_is_pooled_from_its_own_first_position(model) -> None:
    record = extract_attention(model, random_tokens(1, 50), 0, reduce="mean")
    figure = attention_figure(record, window=(10, 31), max_cells=10)
    cell = record.minuend[0, 13:16, 10:13].numpy()
    assert figure.data[0].z.shape == (7, 7)
    assert figure.data[0].z[1, 0] == cell.ravel()[np.abs(cell).argmax()]
    assert figure.data[0].x[0] == 11
    assert (names(figure, "y")[1], names(figure, "x")[0]) == ("13 … 15", "10 … 12")


def test_the_colour_scale_is_that_of_the_window(model) -> None:
    record = extract_attention(model, random_tokens(1, 50), 0, reduce="mean")
    figure = attention_figure(record, window=(40, 50), clip_quantile=1.0)
    shown = max(float(picture[0, 40:, 40:].abs().max()) for picture in record.pictures.values())
    assert figure.layout.coloraxis.cmax == pytest.approx(shown)


def test_spans_are_cut_at_the_window(model) -> None:
    record = extract_attention(model, random_tokens(1, 50), 1, reduce="mean")
    spans = Spans(needle=((5, 12),), question=((40, 45),), filler=((28, 35),))
    figure = attention_figure(record, spans=spans, window=(10, 30))
    shapes = figure.layout.shapes
    assert [trace.name for trace in figure.data if trace.name] == ["needle", "filler"]
    assert [(shape.x0, shape.x1) for shape in shapes] == [(27.5, 29.5), (9.5, 11.5)]
    assert {(shape.y0, shape.y1) for shape in shapes} == {(9.5, 29.5)}


def test_the_legend_of_the_spans_hangs_from_the_top(record) -> None:
    legend = attention_figure(record, spans=Spans(needle=((1, 3),))).layout.legend
    assert (legend.yanchor, legend.yref, legend.xanchor) == ("top", "container", "left")


def test_a_row_is_coloured_by_span_and_every_bar_keeps_its_place() -> None:
    values, spans = np.arange(5.0), Spans(needle=((1, 3),), question=((4, 5),))
    bars = {mark.name: mark for mark in row_bars(values, "#123456", spans)}
    assert {name: list(mark.x) for name, mark in bars.items()} == {"": [0, 3], "needle": [1, 2], "question": [4]}
    assert {name: list(mark.y) for name, mark in bars.items()} == {"": [0, 3], "needle": [1, 2], "question": [4]}
    colours = {"": "#123456"} | {name: SPANS[name].colour for name in ("needle", "question")}
    assert {name: set(mark.colours) for name, mark in bars.items()} == {name: {colours[name]} for name in bars}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 2}, "samples 0 to 1"),
        ({"head": 9}, "heads"),
        ({"clip_quantile": 0.0}, "clip_quantile"),
        ({"window": (4, 10)}, "half-open"),
    ],
)
def test_what_the_record_does_not_have_is_refused(record, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention_figure(record, **options)


# ------------------------------------------------------------------ by span

SPANNED = Spans(needle=((2, 4),), question=((6, 7),), filler=((4, 6),))


def test_the_panels_by_span_show_the_collapsed_pictures_on_one_signed_scale(record) -> None:
    drawing = attention_span_drawing(record, SPANNED, head=2)
    expected = collapse_by_span(record, SPANNED, head=2)
    for name, cells in zip(("minuend", "lambda_subtrahend", "difference"), shown(drawing).values(), strict=True):
        assert np.array_equal(cells, expected.values[name].numpy())
    assert (drawing.scale.colours, drawing.scale.low) == (SIGNED, -drawing.scale.high)
    assert drawing.title.startswith("Block 0: hidden attention, head 2: sums over sources, means over destinations")


def test_named_spans_are_labelled_and_every_cell_says_who_reads_whom(record) -> None:
    figure = attention_span_figure(record, SPANNED)
    every = ("other 0–1", "needle 2–3", "filler 4–5", "question 6", "other 7–8")
    assert figure.layout.xaxis.ticktext == figure.layout.yaxis.ticktext == every
    assert figure.layout.xaxis.tickvals == (0, 1, 2, 3, 4)
    assert figure.data[0].customdata[3][1].startswith("question 6 reads needle 2–3<br>")


def test_without_named_spans_the_stretches_themselves_are_labelled(record) -> None:
    assert attention_span_figure(record, Spans()).layout.xaxis.ticktext == ("other 0–8",)


def test_a_window_cuts_the_spans_too(record) -> None:
    figure = attention_span_figure(record, SPANNED, window=(3, 7))
    assert figure.data[0].z.shape == (3, 3)
    assert figure.layout.xaxis.ticktext == ("needle 3", "filler 4–5", "question 6")


def test_a_position_apart_has_a_line_of_its_own_named_by_its_token(record) -> None:
    figure = attention_span_figure(record, SPANNED, head=2, apart=[8])
    assert figure.layout.yaxis.ticktext[-2:] == ("other 7", "row 8 ok")
    minuend = record.minuend[0, 2].numpy()
    assert figure.data[0].z[-1, 1] == pytest.approx(minuend[8, 2:4].sum(), rel=1e-5)
    assert figure.data[0].z[-2, 1] == pytest.approx(minuend[7, 2:4].sum(), rel=1e-5)


def test_of_many_spans_the_needle_and_the_last_keep_their_labels(model) -> None:
    record = extract_attention(model, random_tokens(1, 120), 0, reduce="mean")
    spans = Spans(needle=((77, 78),), distractors=tuple((place, place + 1) for place in range(1, 70, 2)))
    labels = attention_span_figure(record, spans).layout.xaxis.ticktext
    assert len(labels) <= MAX_SPAN_TICKS
    assert {"needle 77", "other 78–119"} <= set(labels)


def names(figure, axis: str) -> list[str]:
    """What pointing at the cells of a line tells of their places."""
    layout = figure.layout[f"{axis}axis3"]
    assert layout.hoverformat == ".1f"
    return [layout.labelalias[f"{place:.1f}"] for place in figure.data[2][axis]]


def test_every_cell_names_its_tokens_its_branch_and_its_value(record) -> None:
    figure = attention_figure(record, head=1)
    assert figure.data[1].hovertemplate == "%{y} reads %{x}<br>λ · subtrahend: %{z:.4~g}<extra></extra>"
    assert (names(figure, "y")[8], names(figure, "x")[3]) == ("8 ok", "3 ⏎")
    assert figure.data[1].z[8][3] == record.lambda_subtrahend[0, 1, 8, 3]


@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_pooled_cell_names_its_first_and_last_tokens(model, axis: str) -> None:
    record = extract_attention(model, random_tokens(1, 50), 0, reduce="mean")
    assert names(attention_figure(record, max_cells=20), axis)[2:4] == ["6 … 8", "9 … 11"]
    assert names(attention_figure(record, max_cells=20), axis)[-1] == "48 … 49"


def test_a_large_picture_takes_little_more_than_its_values(model) -> None:
    record = extract_attention(model, random_tokens(1, 200), 0, reduce="mean")
    figure = attention_figure(record)
    assert len(figure.to_json()) < 3 * 200 * 200 * 4 * 4 / 3 + 60_000


def test_a_title_of_ones_own_is_taken(record) -> None:
    assert attention_span_figure(record, SPANNED, title="mine").layout.title.text == "mine"


def test_a_segment_is_named_by_its_class_and_positions() -> None:
    assert segment_label(Segment("filler", 3, 4)) == "filler 3"
    assert segment_label(Segment("", 3, 9)) == "other 3–8"
