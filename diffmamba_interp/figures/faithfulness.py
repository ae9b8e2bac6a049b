"""Figures of faithfulness: what is left of a reading as ranked tokens are taken out, or put back, and the areas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from diffmamba_interp.drawing.colours import GREY, Style, model_styles, series_styles, short_name
from diffmamba_interp.drawing.panels import Axis, Drawing, Level, Line, Panel, Place
from diffmamba_interp.drawing.plotly_figure import as_plotly
from diffmamba_interp.interventions.faithfulness import RANDOM, RECENCY, Areas, FaithfulnessRecord
from diffmamba_interp.interventions.records import mean_interval

RANKING_NAMES = {
    "hidden": "hidden attention",
    "contribution": "contribution",
    "contribution_norm": "contribution norm",
    "jacobian": "Jacobian",
    "gradient_write": "gradient × write",
}
"""What figures call the rankings of `source_scores`."""

_BASELINES = {
    RANDOM: Style(colour=GREY, dash="dash", symbol="square"),
    RECENCY: Style(colour=GREY, dash="dot", symbol="x"),
}


def ranking_name(ranking: str) -> str:
    """What figures call a ranking."""
    return RANKING_NAMES.get(ranking, ranking)


def faithfulness_drawing(record: FaithfulnessRecord, *, title: str = "") -> Drawing:
    """Mean curves over prompts, deletion beside insertion, one line per ranking with 95 % bootstrap bands.

    The two that know nothing of the model, random and recency, are grey.
    """
    styles = ranking_styles(record.rankings)
    panels = []
    for name, curves in (
        ("taken out, the highest first", record.deletion),
        ("put back, the highest first", record.insertion),
    ):
        low, high = mean_interval(curves)
        middle = curves.mean(axis=0)
        panels.append(
            Panel(
                title=name,
                marks=[
                    Line(
                        name=ranking_name(ranking),
                        x=list(record.fractions),
                        y=middle[row].tolist(),
                        low=low[row].tolist() if len(curves) > 1 else None,
                        high=high[row].tolist() if len(curves) > 1 else None,
                        style=styles[ranking],
                    )
                    for row, ranking in enumerate(record.rankings)
                ],
            )
        )
    unit = f" ({record.unit})" if record.unit and record.unit != "probability" else ""
    n = len(record.deletion)
    return Drawing(
        title=title or "Faithfulness of rankings of source tokens",
        subtitle=f"n = {n}, 95 % bootstrap intervals over prompts" if n > 1 else "one prompt",
        x=Axis(title="share of the source tokens"),
        y=Axis(title=f"{record.reading.replace('_', ' ')}{unit}"),
        panels=panels,
        columns=2,
    )


faithfulness_figure = as_plotly(faithfulness_drawing)


def areas_drawing(
    areas: Mapping[str, Mapping[str, Areas]], *, unit: str = "", title: str = "", subtitle: str = ""
) -> Drawing:
    """The gap of every ranking, insertion less deletion area, over that of a random one, with 95 % intervals, one
    colour per model.

    areas: by model, then by ranking (`FaithfulnessRecord.areas`). unit: of the reading. Above 0: better than chance.
    Raises ValueError for no models.
    """
    if not areas:
        raise ValueError("there are no areas to draw: give those of at least one model.")
    styles = model_styles(areas)
    lines = []
    for model, by_ranking in areas.items():
        rankings = [ranking for ranking in by_ranking if ranking != RANDOM]
        points = [by_ranking[ranking].over_random for ranking in rankings]
        lines.append(
            Line(
                name=short_name(model),
                x=list[Place](map(ranking_name, rankings)),
                y=[point.value for point in points],
                low=[point.low for point in points],
                high=[point.high for point in points],
                interval="bars",
                joined=False,
                style=styles[model],
            )
        )
    return Drawing(
        title=title or "Faithfulness of rankings of source tokens",
        subtitle=subtitle,
        x=Axis(title="ranking", kind="category", upright=True),
        y=Axis(title="gap over that of a random order" + (f" ({unit})" if unit else "")),
        panels=[Panel(marks=[*lines, Level(at=0.0, colour=GREY, dashed=True)])],
        panel_size=(460.0, 220.0),
    )


areas_figure = as_plotly(areas_drawing)


def ranking_styles(rankings: Iterable[str]) -> dict[str, Style]:
    """A look for each ranking; those that know nothing of the model are grey."""
    others = [ranking for ranking in rankings if ranking not in _BASELINES]
    return {**series_styles(others), **_BASELINES}
