"""Lens trajectories as figures whose cells can be clicked."""

from __future__ import annotations

from collections.abc import Callable

import plotly.graph_objects as go

from diffmamba_interp.drawing.labels import token_label
from diffmamba_interp.figures.lens import Statistic, lens_difference_heat_map, lens_heat_map
from diffmamba_interp.lens import LensTrajectory

STAGE_HEIGHT, FRAME_HEIGHT = 25, 170
COLOUR_BAR = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "thickness": 10, "len": 0.7}


def lens_picture(found: LensTrajectory, text: Callable[[int], str], statistic: Statistic, first: int) -> go.Figure:
    """The heat map, to be clicked. first: position of the first column in the prompt."""
    return shaped(lens_heat_map(found, text, statistic=statistic), first)


def difference_picture(
    model: LensTrajectory, baseline: LensTrajectory, text: Callable[[int], str], statistic: Statistic, first: int,
    names: tuple[str, str],
) -> go.Figure:  # fmt: skip
    """The heat map of the model's values minus the baseline's, to be clicked; see `lens_difference_heat_map`."""
    return shaped(lens_difference_heat_map(model, baseline, text, statistic=statistic, names=names), first)


def shaped(figure: go.Figure, first: int) -> go.Figure:
    """The figure with its colour bar above it, to be clicked."""
    figure.update_layout(coloraxis={"colorbar": COLOUR_BAR}, coloraxis_colorbar_title_side="right")
    make_clickable(figure, first)
    return figure


def make_clickable(figure: go.Figure, first: int) -> None:
    """Lay an invisible point over each cell, since a heat map's own cells cannot be selected.

    A point's custom data: its stage, its position in the prompt, and what pointing at it shows.
    """
    cells = figure.data[0]
    places = [(stage, place) for stage in range(len(cells.y)) for place in range(len(cells.x))]
    unseen = {"marker": {"opacity": 0}}
    figure.add_scatter(
        x=[cells.x[place] for _, place in places], y=[cells.y[stage] for stage, _ in places], mode="markers",
        marker={"opacity": 0, "size": 14}, selected=unseen, unselected=unseen, showlegend=False,
        customdata=[[stage, place + first, cells.customdata[stage][place]] for stage, place in places],
        hovertemplate="%{customdata[2]}<extra></extra>",
    )  # fmt: skip
    cells.hoverinfo, cells.hovertemplate = "skip", None
    n_stages = len(cells.y)
    # Without a limit to the distance, the nearest point is that of the cell under the pointer.
    figure.update_layout(
        hoverdistance=-1, hovermode="closest", clickmode="event+select", dragmode=False,
        height=FRAME_HEIGHT + STAGE_HEIGHT * n_stages, margin={"t": 60, "b": 10},
    )  # fmt: skip
    figure.update_xaxes(range=[-0.5, len(cells.x) - 0.5])
    figure.update_yaxes(range=[-0.5, n_stages - 0.5])


def top_tokens(found: LensTrajectory, text: Callable[[int], str], stage: int, column: int) -> list[dict[str, object]]:
    """One line per likely token of a cell, best first."""
    pairs = zip(found.top_tokens[0, stage, column], found.top_probabilities[0, stage, column], strict=True)
    return [
        {"rank": rank, "token": token_label(text(int(token))), "probability": float(probability)}
        for rank, (token, probability) in enumerate(pairs, start=1)
    ]
