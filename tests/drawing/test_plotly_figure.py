"""What Plotly is given: every mark with its numbers, colours and names, and text that stays text."""

import numpy as np
import pytest

from diffmamba_interp.drawing.panels import Axis, Bars, Level, Line
from diffmamba_interp.drawing.plotly_figure import as_plotly, plain, to_plotly
from tests.drawing.drawings import BLUE, NAN, RED, curves, everything, heat_map, line


def test_a_line_follows_its_band_in_its_own_colour_and_look() -> None:
    band, drawn = to_plotly(curves([line(1.0, 2.0, style=RED)])).data
    assert list(band.x) == ["0", "1", "1", "0"]
    assert list(band.y) == pytest.approx([1.1, 2.1, 1.9, 0.9])
    assert (band.fillcolor, band.showlegend) == ("rgba(213, 94, 0, 0.18)", False)
    assert (list(drawn.x), list(drawn.y), drawn.name) == (["0", "1"], [1.0, 2.0], "a")
    assert (drawn.line.color, drawn.line.dash, drawn.marker.symbol) == ("#D55E00", "dash", "square")
    assert [list(ends) for ends in drawn.customdata] == pytest.approx(np.array([[0.9, 1.1], [1.9, 2.1]]))


def test_a_band_has_a_gap_where_an_interval_is_missing() -> None:
    middle = Line(name="a", x=[0, 1, 2], y=[1.0, 2.0, 3.0], low=[0.5, NAN, 2.5], high=[1.5, NAN, 3.5], style=BLUE)
    band, drawn = to_plotly(curves([middle])).data
    assert list(band.x) == [0, 0, None, 2, 2]
    assert list(drawn.y) == [1.0, 2.0, 3.0]
    assert len(to_plotly(curves([line(1.0, half=NAN)])).data) == 1


def test_an_interval_can_be_drawn_as_bars() -> None:
    (drawn,) = to_plotly(curves([line(1.0, 2.0, half=0.25, interval="bars")])).data
    assert (list(drawn.error_y.array), list(drawn.error_y.arrayminus)) == ([0.25, 0.25], [0.25, 0.25])


def test_a_name_has_one_entry_in_the_legend_for_all_panels() -> None:
    figure = to_plotly(curves([line(1.0), line(2.0, name="b", style=RED)], [line(1.0, name="b", style=RED), line(2.0)]))
    assert [trace.name for trace in figure.data if trace.showlegend] == ["a", "b"]
    groups = {(trace.legendgroup, trace.line.color) for trace in figure.data if trace.name}
    assert groups == {("a", BLUE.colour), ("b", RED.colour)}
    assert to_plotly(curves([line(1.0)], has_legend=False)).layout.showlegend is False


def test_hollow_markers_and_notes_are_told_place_by_place() -> None:
    _, drawn = to_plotly(curves([line(1.0, 2.0, hollow=[True, False], notes=["p = 1", "%{x}"])])).data
    assert list(drawn.marker.symbol) == ["circle-open", "circle"]
    assert [row[2] for row in drawn.customdata] == ["p = 1", "%&#123;x}"]
    assert "%{customdata[2]}" in drawn.hovertemplate


def test_panels_of_a_line_share_their_y_axis_and_stand_in_order() -> None:
    figure = to_plotly(curves(*[[line(1.0)]] * 4, columns=3))
    domains = [figure.layout[f"xaxis{n}"].domain for n in ("", 2, 3)]
    assert (domains[0][0], domains[2][1]) == pytest.approx((0, 1))
    assert all(left[1] < right[0] for left, right in zip(domains, domains[1:], strict=False))
    assert [note.text for note in figure.layout.annotations] == [f"panel {n}" for n in range(4)]
    assert (figure.layout.yaxis.title.text, figure.layout.yaxis2.title.text) == ("y axis", None)
    assert (figure.layout.yaxis3.matches, figure.layout.yaxis3.showticklabels) == ("y", False)
    assert figure.layout.yaxis4.showticklabels is True
    # Nothing stands below the last three.
    assert [figure.layout[f"xaxis{n}"].title.text for n in ("", 2, 3, 4)] == [None, "x axis", "x axis", "x axis"]
    assert figure.layout.yaxis4.domain[1] < figure.layout.yaxis.domain[0]
    assert to_plotly(curves([line(1.0)], [line(1.0)], shared_y=False)).layout.yaxis2.matches is None


def test_axes_are_drawn_as_they_are_described() -> None:
    ticks = {"0": "<zero>", "1": "$1$"}
    x = Axis(title="x", kind="category", ticks=ticks, upright=True)
    layout = to_plotly(curves([line(1.0, 2.0)], x=x, y=Axis(kind="log"))).layout
    assert (layout.xaxis.type, layout.xaxis.tickangle) == ("category", 90)
    assert (layout.xaxis.tickvals, layout.xaxis.ticktext) == (("0", "1"), ("&lt;zero&gt;", "&#36;1&#36;"))
    assert layout.yaxis.type == "log"
    assert to_plotly(curves([line(1.0)], y=Axis(limits=(0.0, 2.0)))).layout.yaxis.range == (0.0, 2.0)
    assert to_plotly(curves([line(1.0)], y=Axis(limits=(0.0, 2.0), backwards=True))).layout.yaxis.range == (2.0, 0.0)
    assert to_plotly(curves([line(1.0)], y=Axis(backwards=True))).layout.yaxis.autorange == "reversed"


def test_a_logarithmic_axis_has_its_limits_where_they_were_asked_for() -> None:
    layout = to_plotly(curves([line(1.0, 2.0)], y=Axis(kind="log", limits=(0.01, 100.0)))).layout
    assert layout.yaxis.range == pytest.approx((-2.0, 2.0))


def test_cells_have_the_scale_of_the_drawing_and_their_text() -> None:
    figure = to_plotly(heat_map())
    heat, *words = figure.data
    axis = figure.layout.coloraxis
    assert heat.coloraxis == "coloraxis"
    assert (axis.cmin, axis.cmax, axis.colorbar.title.text) == (-1.0, 1.0, "what<br>it is")
    assert (axis.colorscale[0][1], axis.colorscale[-1][1]) == ("#053061", "#67001F")
    assert (list(heat.x), list(heat.y)) == (["l", "m", "r"], ["up", "down"])
    assert heat.text[1][0] == "half"
    assert heat.texttemplate is None
    written = {(x, y): text for ink in words for x, y, text in zip(ink.x, ink.y, ink.text, strict=True)}
    assert written == {
        (x, y): text
        for y, row in zip(heat.y, heat.text, strict=True)
        for x, text in zip(heat.x, row, strict=True)
        if text
    }
    assert "source %{x}<br>destination %{y}" in heat.hovertemplate


def test_marks_that_are_no_lines_keep_places_and_colours() -> None:
    figure = to_plotly(everything())
    heat, frame, under, targets, bars = figure.data
    assert (heat.x0, heat.dx, heat.hoverinfo) == (0, 1, "skip")
    assert (frame.name, frame.marker.color, under.name) == ("frame", "#E69F00", "under")
    assert ([list(row) for row in targets.customdata], targets.text) == ([[7, "seven"]], ("&lt;seven&gt;",))
    assert figure.layout.hoverdistance == -1
    assert (list(bars.y), list(bars.marker.color)) == ([1.0, -1.0], ["#111111", "#222222"])
    assert (list(bars.error_y.array), list(bars.error_y.arrayminus)) == ([1.0, 1.0], [0.5, 1.0])
    # The first frame comes last, on top of the other one.
    assert [shape.type for shape in figure.layout.shapes] == ["line", "rect", "rect", "line"]
    assert (figure.layout.shapes[2].line.color, figure.layout.shapes[2].line.width) == ("#E69F00", 3)
    assert (figure.layout.shapes[0].x0, figure.layout.shapes[0].x1, figure.layout.shapes[0].line.dash) == (1, 1, "dot")
    assert (figure.layout.shapes[3].y0, figure.layout.shapes[3].xref) == (0, "x2 domain")


def test_stacked_bars_stand_on_their_bases() -> None:
    bars = Bars(name="b", x=["a"], y=[0.25], base=[0.5], colours=["#111111"], text=["<25>"])
    figure = to_plotly(curves([bars]))
    assert (figure.data[0].base, figure.data[0].y, figure.layout.barmode) == ((0.5,), (0.25,), "overlay")
    assert figure.data[0].text == ("&lt;25&gt;",)


def test_text_is_shown_as_the_characters_that_it_has() -> None:
    assert plain('<b>a & b</b>\n$x$ %{y} "it\'s"') == '&lt;b&gt;a &amp; b&lt;/b&gt;<br>&#36;x&#36; %&#123;y} "it\'s"'
    figure = to_plotly(curves([line(1.0, name="<i>")], title="<b>", subtitle="<u>"))
    assert figure.layout.title.text == "&lt;b&gt;<br><sub>&lt;u&gt;</sub>"
    assert {trace.name for trace in figure.data} == {None, "&lt;i&gt;"}


def test_a_function_of_a_drawing_becomes_one_of_a_figure_with_its_own_words() -> None:
    def draw(value: float, *, title: str = ""):
        """Draws."""
        return curves([line(value), Level(at=0.0, colour="#666666")], title=title)

    figure = as_plotly(draw)(2.0, title="t")
    assert (figure.data[1].y, figure.layout.title.text, as_plotly(draw).__doc__) == ((2.0,), "t", "Draws.")
