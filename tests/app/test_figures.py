"""Figures on pages: their colours in both themes, their names in words, and which colours the pages leave to models."""

import tomllib
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from app.shell import viewport
from app.shell.figures import LEGEND_ROW, fitted, for_dark, in_words, legend_by_panel, paled
from app.shell.plotly_element import NAME
from diffmamba_interp.drawing.colours import (
    DARK_GROUND,
    LIGHT_GROUND,
    MODELS,
    OTHER_MODELS,
    SIGNED,
    SIGNED_ON_DARK,
    colour_at,
    contrast,
    on_dark,
)
from diffmamba_interp.drawing.panels import (
    LEAST_END,
    Axis,
    Bars,
    ColourScale,
    Drawing,
    Frame,
    HeatMap,
    Level,
    Line,
    Panel,
    symmetric,
)
from diffmamba_interp.drawing.plotly_figure import WORDS, to_plotly
from tests.app.conftest import IDS, OpenApp, figures


@pytest.fixture(scope="module")
def curves() -> go.Figure:
    indigo, black = OTHER_MODELS[2], MODELS["mamba2"]
    return to_plotly(
        Drawing(
            title="One & two",
            panels=[
                Panel(
                    title="qa1",
                    marks=[
                        Line(name="mine", x=[0, 1], y=[0.0, 1.0], low=[0.0, 0.5], high=[0.5, 1.0], style=indigo),
                        Bars(name="bars", x=[0, 1], y=[1.0, 2.0], colours=["#222222", black.colour]),
                        Level(at=0.0, colour="#222222"),
                        Frame(name="needle", x=(0, 1), y=(0, 1), colour="#332288"),
                    ],
                )
            ],
            x=Axis(title="block"),
            y=Axis(title="share"),
        )
    )


def test_every_colour_of_a_figure_is_brightened_for_the_dark_ground_and_the_figure_itself_kept(
    curves: go.Figure,
) -> None:
    before = curves.to_json()
    shown = for_dark(curves)
    band, line, bars, swatch = shown.data
    indigo = on_dark(OTHER_MODELS[2].colour)
    assert indigo != OTHER_MODELS[2].colour
    assert line.line.color == indigo
    assert band.fillcolor.startswith(f"rgba({int(indigo[1:3], 16)}, {int(indigo[3:5], 16)}")
    assert list(bars.marker.color) == ["#EEEEEE", MODELS["mamba2"].colour]
    assert swatch.marker.color == indigo
    assert {shape.line.color for shape in shown.layout.shapes} == {"#EEEEEE", indigo}
    assert curves.to_json() == before


def test_a_signed_map_is_dark_at_0_on_the_dark_ground() -> None:
    heat = HeatMap(values=np.array([[-1.0, 0.0, 1.0]]), x=["a", "b", "c"], y=["d"])
    scale = ColourScale(title="weight", low=-1.0, high=1.0)
    figure = to_plotly(Drawing(panels=[Panel(marks=[heat])], scale=scale))
    assert [colour for _, colour in figure.layout.coloraxis.colorscale] == list(SIGNED)
    assert [colour for _, colour in for_dark(figure).layout.coloraxis.colorscale] == list(SIGNED_ON_DARK)
    assert in_words(figure) == "Map; colour: weight"


def test_words_on_cells_are_read_on_their_colours_in_both_themes() -> None:
    values = np.array([[-1.0, -0.7, -0.4, 0.0, 0.4, 0.7, 1.0, np.nan]])
    heat = HeatMap(values=values, x=list("abcdefgh"), y=["r"], text=[list("ABCDEFGH")], notes=[list("ABCDEFGH")])
    figure = to_plotly(Drawing(panels=[Panel(marks=[heat])] * 2, scale=ColourScale(title="weight", low=-1.0, high=1.0)))
    for shown, scale, ground in ((figure, SIGNED, LIGHT_GROUND), (for_dark(figure), SIGNED_ON_DARK, DARK_GROUND)):
        words = [trace for trace in shown.data if trace.meta == WORDS]
        assert sorted(text for trace in words for text in trace.text) == sorted("ABCDEFGH" * 2)
        assert {trace.xaxis for trace in words} == {"x", "x2"}
        for trace in words:
            for value in trace.customdata:
                cell = colour_at(scale, (value + 1) / 2) if np.isfinite(value) else ground
                assert contrast(trace.textfont.color, cell) >= 4.5
            assert trace.unselected.textfont.color == trace.textfont.color


def test_words_in_bars_are_read_on_their_colours_in_both_themes() -> None:
    # The second is nearly black on a light ground, and nearly white on a dark one.
    bars = Bars(name="b", x=[0, 1], y=[1.0, 2.0], colours=["#E69F00", "#222222"], text=["a", "b"])
    figure = to_plotly(Drawing(panels=[Panel(marks=[bars])]))
    for shown in (figure, for_dark(figure)):
        (trace,) = shown.data
        for ink, colour in zip(trace.insidetextfont.color, trace.marker.color, strict=True):
            assert contrast(ink, colour) >= 4.5


def test_a_map_of_tiny_changes_is_pale_and_says_so() -> None:
    def of(size: float) -> go.Figure:
        values = np.array([[-size, size]])
        heat = HeatMap(values=values, x=["a", "b"], y=["d"])
        return to_plotly(Drawing(panels=[Panel(marks=[heat])], scale=symmetric("change", [values], least=LEAST_END)))

    assert of(0.001).layout.coloraxis.cmax == LEAST_END
    assert paled(of(0.001)) == " All changes are small: the largest is 0.001, and the colours end at ±0.05."
    assert paled(of(0.3)) == ""


def test_a_figure_is_told_in_words(curves: go.Figure) -> None:
    assert in_words(curves) == "Chart: One & two; share by block; panels: qa1; lines: mine, bars, needle"


def test_a_figure_grows_with_the_page_a_map_more_than_curves(curves: go.Figure) -> None:
    curves = go.Figure(curves).update_layout(height=400)
    assert fitted(curves, 900) is curves
    assert fitted(curves, 1500).layout.height == pytest.approx(400 * (1500 / 900) ** 0.5)
    heat = HeatMap(values=np.ones((1, 1)), x=["a"], y=["b"])
    scale = ColourScale(title="weight", low=-1.0, high=1.0)
    map_ = to_plotly(Drawing(panels=[Panel(marks=[heat])], scale=scale)).update_layout(height=400)
    assert fitted(map_, 1350).layout.height == 600
    assert fitted(map_, 5000).layout.height == 600
    assert map_.layout.height == 400


def test_on_a_telephone_panels_stand_below_one_another_and_keep_their_titles_and_scales() -> None:
    heat = HeatMap(values=np.ones((1, 1)), x=["a"], y=["b"])
    panels = [Panel(title=title, marks=[heat]) for title in ("one", "two", "three")]
    wide = to_plotly(Drawing(panels=panels, scale=ColourScale(title="weight", low=-1.0, high=1.0)))
    layout = fitted(wide, 300).layout
    axes = [(layout[f"xaxis{place}"], layout[f"yaxis{place}"]) for place in ("", "2", "3")]
    assert all(x.domain == (0, 1) and y.showticklabels for x, y in axes)
    ends = [y.domain for _, y in axes]
    assert ends[0][1] == 1
    assert ends[2][0] == pytest.approx(0)
    assert ends[0][0] > ends[1][1] > ends[1][0] > ends[2][1]
    assert [(note.text, note.y) for note in layout.annotations] == [
        (title, pytest.approx(end[1])) for title, end in zip(("one", "two", "three"), ends, strict=True)
    ]
    assert layout.coloraxis.colorbar.orientation == "h"
    assert layout.height > 3 * 200


def test_each_panel_has_a_legend_of_its_lines_below_it_on_a_telephone_too() -> None:
    def line(name: str) -> Line:
        return Line(name=name, x=[0, 1], y=[0.0, 1.0], style=MODELS["mamba2"])

    figure = to_plotly(Drawing(panels=[Panel(marks=[line("a"), line("b")]), Panel(marks=[line("a")])]))
    legend_by_panel(figure)
    assert [(trace.xaxis, trace.legend, trace.showlegend) for trace in figure.data] == [
        ("x", "legend2", True), ("x", "legend2", True), ("x2", "legend3", True),
    ]  # fmt: skip
    layout = figure.layout
    assert (layout.legend2.x, layout.legend3.x) == (layout.xaxis.domain[0], layout.xaxis2.domain[0])
    narrow = fitted(figure, 300).layout
    assert narrow.yaxis.domain[0] > narrow.legend2.y > narrow.yaxis2.domain[1]
    assert narrow.yaxis2.domain[0] > narrow.legend3.y
    room = (narrow.legend2.y - narrow.yaxis2.domain[1]) * (narrow.height - narrow.margin.t - narrow.margin.b)
    assert room >= 2 * LEGEND_ROW


def test_on_a_telephone_curves_say_what_they_measure_and_maps_have_room_for_their_titles(curves: go.Figure) -> None:
    narrow = fitted(curves, 300).layout
    (said,) = [note for note in narrow.annotations if note.text == "share"]
    assert (said.x, said.y, said.yanchor) == (0, 1, "bottom")
    assert said.yshift > 0
    assert not any(note.text == "share" for note in curves.layout.annotations)
    heat = HeatMap(values=np.ones((1, 1)), x=["a"], y=["b"])
    scale = ColourScale(title="weight", low=-1.0, high=1.0)
    tops = [
        fitted(to_plotly(Drawing(title="one", subtitle=below, panels=[Panel(marks=[heat])], scale=scale)), 300)
        .layout.margin.t
        for below in ("", "two")
    ]  # fmt: skip
    assert tops[1] >= tops[0] + 30


def test_the_width_is_that_of_a_window_of_1280_until_the_browser_tells_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for told, width in ((None, 900), ({"width": 1500}, 1500), ({"width": "x"}, 900), ({"width": -5}, 900), ({}, 900)):
        monkeypatch.setattr(viewport.st, "session_state", {} if told is None else {"page_width": told})
        assert viewport.content_width() == width


def test_pages_draw_for_the_ground_that_the_browser_has(open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> None:
    scales, grounds = [], []
    for dark in (False, True):
        monkeypatch.setattr("app.shell.figures.is_dark", lambda dark=dark: dark)
        (figure,) = figures(open_app("attention", view="positions"))
        scales.append([colour for _, colour in figure["layout"]["coloraxis"]["colorscale"]])
        grounds.append(figure["layout"]["template"]["layout"]["paper_bgcolor"])
    assert scales == [list(SIGNED), list(SIGNED_ON_DARK)]
    assert grounds == [LIGHT_GROUND, DARK_GROUND]


def test_buttons_and_bars_of_pages_do_not_wear_a_models_colour(project_root: Path) -> None:
    theme = tomllib.loads((project_root / "app/.streamlit/config.toml").read_text(encoding="utf-8"))["theme"]
    models = {style.colour for style in (*MODELS.values(), *OTHER_MODELS)}
    for ground in ("light", "dark"):
        assert theme[ground]["primaryColor"] not in models | {on_dark(colour) for colour in models}


def test_an_element_of_the_figures_kind_comes_before_the_page(open_app: OpenApp) -> None:
    kinds = [element.proto.component_name for element in open_app("attention", ids=IDS).get("bidi_component")]
    assert kinds[0] == "diffmamba_page_width"
    assert set(kinds[1:]) == {NAME}
