"""Curves: estimates with their intervals by block, length or dose, and lambda by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffmamba_interp.drawing.colours import GREY, Style, model_styles, series_styles, short_name
from diffmamba_interp.drawing.panels import Axis, Drawing, Level, Line, Panel, Point, ticks_at
from diffmamba_interp.drawing.plotly_figure import as_plotly
from diffmamba_interp.models.inspection import BlockReport, CheckpointReport

MAX_MODELS = 4


@dataclass(frozen=True, kw_only=True)
class Curves:
    """A panel. ticks: label of each place. points: of each curve one per tick, by the name of a model, branch, span or
    whatever else tells the curves apart."""

    title: str
    ticks: Sequence[str]
    points: Mapping[str, Sequence[Point]]


def curves_drawing(
    panels: Sequence[Curves],
    *,
    title: str,
    x_axis: str,
    y_axis: str,
    y_limits: tuple[float, float] | None = None,
    styles: Mapping[str, Style] | None = None,
) -> Drawing:
    """Every panel on one scale, with a line at 0 if anything lies below it; a curve keeps its look in all panels.

    y_limits: None fits all intervals; what lies beyond is drawn at the limits. styles: of names that have none of
    their own. Raises ValueError for a curve whose points are not one per tick.
    """
    names = [name for panel in panels for name in panel.points]
    looks = series_styles(names) | dict(styles or {})
    below = any(low < 0 for panel in panels for points in panel.points.values() for _, low, _ in points)
    return Drawing(
        title=title,
        x=Axis(title=x_axis, kind="category"),
        y=Axis(title=y_axis, limits=y_limits),
        panels=[
            Panel(
                title=panel.title,
                marks=[
                    *([Level(at=0.0, colour=GREY)] if below else []),
                    *(
                        Line.of_points(short_name(name), panel.ticks, points, looks[name])
                        for name, points in panel.points.items()
                    ),
                ],
            )
            for panel in panels
        ],
    )


def lambda_drawing(reports: Mapping[str, CheckpointReport], *, title: str = "") -> Drawing:
    """Lambda of every differential block, one line per model (at most four), and lambda_init as dots.

    Saturated blocks are drawn hollow. Models are named by the mapping's keys. Raises ValueError for more than four.
    """
    if len(reports) > MAX_MODELS:
        raise ValueError(f"there are {len(reports)} models: give at most {MAX_MODELS}.")
    styles = model_styles(reports)
    blocks = {name: [b for b in report.blocks if b.lambda_ is not None] for name, report in reports.items()}
    lines = [_lambda_line(name, blocks[name], styles[name]) for name in reports if blocks[name]]
    inits = {b.index: b.lambda_init for report in reports.values() for b in report.blocks if b.lambda_init is not None}
    if inits:
        places = sorted(inits)
        start = Style(colour=GREY, dash="dot")
        lines.append(Line(name="λ_init", x=places, y=[inits[place] for place in places], style=start, markers=False))
    values = [value for line in lines for value in line.y]
    n_blocks = max((len(report.blocks) for report in reports.values()), default=0)
    return Drawing(
        title=title,
        x=Axis(title="block", ticks=ticks_at([str(block) for block in range(n_blocks)], at_most=24)),
        y=Axis(title="λ", limits=(min([0.0, *values]), 1.05 * max([0.1, *values]))),
        panels=[Panel(marks=lines)],
    )


lambda_figure = as_plotly(lambda_drawing)


def _lambda_line(name: str, blocks: list[BlockReport], style: Style) -> Line:
    return Line(
        name=short_name(name),
        x=[block.index for block in blocks],
        y=[float("nan") if block.lambda_ is None else block.lambda_ for block in blocks],
        style=style,
        hollow=[bool(block.saturated) for block in blocks],
        notes=["saturated" if b.saturated else "open" if b.saturated is False else "" for b in blocks],
    )
