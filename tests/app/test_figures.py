"""Figures on pages: their colours in both themes, their names in words, and which colours the pages leave to models."""

import tomllib
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from app.shell.figures import for_dark, in_words
from diffmamba_interp.drawing.colours import MODELS, OTHER_MODELS, SIGNED, SIGNED_ON_DARK, on_dark
from diffmamba_interp.drawing.panels import Axis, Bars, ColourScale, Drawing, Frame, HeatMap, Level, Line, Panel
from diffmamba_interp.drawing.plotly_figure import to_plotly
from tests.app.conftest import OpenApp, figures


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


def test_a_figure_is_told_in_words(curves: go.Figure) -> None:
    assert in_words(curves) == "Chart: One & two; share by block; panels: qa1; lines: mine, bars, needle"


def test_pages_draw_for_the_ground_that_the_browser_has(open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> None:
    scales = []
    for dark in (False, True):
        monkeypatch.setattr("app.shell.figures.is_dark", lambda dark=dark: dark)
        (figure,) = figures(open_app("attention", view="positions"))
        scales.append([colour for _, colour in figure["layout"]["coloraxis"]["colorscale"]])
    assert scales == [list(SIGNED), list(SIGNED_ON_DARK)]


def test_buttons_and_bars_of_pages_do_not_wear_a_models_colour(project_root: Path) -> None:
    theme = tomllib.loads((project_root / "app/.streamlit/config.toml").read_text(encoding="utf-8"))["theme"]
    models = {style.colour for style in (*MODELS.values(), *OTHER_MODELS)}
    for ground in ("light", "dark"):
        assert theme[ground]["primaryColor"] not in models | {on_dark(colour) for colour in models}
