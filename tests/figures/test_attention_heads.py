"""All heads at a glance: every thumbnail holds its head's picture, under a point that says which."""

import numpy as np
import pytest

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.drawing.colours import SIGNED, short_name
from diffmamba_interp.drawing.panels import HeatMap
from diffmamba_interp.figures import attention
from diffmamba_interp.figures.attention import attention_heads_drawing, attention_heads_figure
from diffmamba_interp.implicit_attention import extract_attention
from tests.models.tiny import random_tokens, tiny_model


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,)))


def test_every_head_has_its_thumbnail_and_a_point_to_click(model: HookedMamba) -> None:
    record = extract_attention(model, random_tokens(1, 6), 0)
    canvas, points = attention_heads_figure(record).data
    assert {int(head) for head, _ in points.customdata} == set(record.heads)
    assert len(points.x) == 3 * len(record.heads)
    for x, y, (head, name) in zip(points.x, points.y, points.customdata, strict=True):
        tile = canvas.z[int(y) - 5 : int(y) + 1, int(x) - 5 : int(x) + 1]
        assert np.array_equal(tile, record.pictures[name][0, int(head)].numpy()), (head, name)


def test_every_line_of_thumbnails_is_labelled_with_the_picture_that_it_shows(model: HookedMamba) -> None:
    record = extract_attention(model, random_tokens(1, 6), 0)
    drawing = attention_heads_drawing(record)
    (cells,) = drawing.marks(HeatMap)
    assert drawing.y.backwards
    names = ("minuend", "lambda_subtrahend", "difference")
    for (y, label), name in zip(drawing.y.ticks.items(), names, strict=True):
        assert label == short_name(name)
        for (x, head), number in zip(drawing.x.ticks.items(), record.heads, strict=True):
            assert head == str(number)
            tile = cells.values[int(y) - 5 : int(y) + 1, int(x) - 5 : int(x) + 1]
            assert np.array_equal(tile, record.pictures[name][0, number].numpy()), (label, head)
    assert (drawing.scale.colours, drawing.scale.low) == (SIGNED, -drawing.scale.high)


def test_many_heads_go_on_below(model: HookedMamba, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MAX_IN_LINE", 3)
    record = extract_attention(model, random_tokens(1, 6), 0)
    assert len(record.heads) == 4
    canvas, points = attention_heads_figure(record).data
    assert canvas.z.shape == (6 * 10, 3 * 10)
    x, y = points.x[-1], points.y[-1]
    tile = canvas.z[int(y) - 5 : int(y) + 1, int(x) - 5 : int(x) + 1]
    assert np.array_equal(tile, record.difference[0, 3].numpy())


def test_long_prompts_are_pooled_and_a_window_shows_its_part(model: HookedMamba) -> None:
    record = extract_attention(model, random_tokens(1, 90), 1)
    canvas = attention_heads_figure(record).data[0].z
    assert np.nanmax(np.abs(canvas)) == record.weights[0].abs().max()
    assert canvas.shape[0] < 90
    cut = attention_heads_figure(record, window=(10, 30)).data[0].z
    assert np.array_equal(cut[:20, :20], record.weights[0, 0, 10:30, 10:30].numpy())


def test_a_record_without_heads_is_refused(model: HookedMamba) -> None:
    with pytest.raises(ValueError, match="no head axis"):
        attention_heads_figure(extract_attention(model, random_tokens(1, 6), 0, reduce="mean"))
