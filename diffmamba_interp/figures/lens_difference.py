"""Two models' lens trajectories of the same tokens as one heat map: the first's values minus the second's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import plotly.graph_objects as go

from diffmamba_interp.figures.lens import Statistic, lens_heat_map
from diffmamba_interp.figures.scales import SIGNED_SCALE
from diffmamba_interp.lens.trajectory import LensTrajectory


def lens_difference_heat_map(
    first: LensTrajectory,
    second: LensTrajectory,
    token_text: Callable[[int], str] | Sequence[str],
    *,
    statistic: Statistic = "probability",
    sample: int = 0,
    title: str = "",
) -> go.Figure:
    """The first trajectory's values minus the second's, on a signed scale; arguments as in `lens_heat_map`.

    In a cell stands the first model's top token where the second has another; hovering lists the tokens of both.
    The unit is that of `lens_heat_map`: ranks are compared by their logarithm.

    Raises ValueError for trajectories of other tokens or of other stages, and as `lens_heat_map`.
    """
    if first.stages != second.stages:
        raise ValueError(
            f"the models have {len(first.stages) - 1} and {len(second.stages) - 1} blocks: their stages cannot be "
            "subtracted. Compare them side by side."
        )
    figure = lens_heat_map(first, token_text, statistic=statistic, sample=sample, title=title)
    own = figure.data[0]
    other = lens_heat_map(second, token_text, statistic=statistic, sample=sample).data[0]
    if not np.array_equal(first.tokens[sample], second.tokens[sample]):
        raise ValueError("the trajectories are of different tokens: read the same prompt with both models.")
    values = np.asarray(own.z) - np.asarray(other.z)
    end = float(np.abs(values).max()) or 1.0
    same = first.top_tokens[sample, ..., 0] == second.top_tokens[sample, ..., 0]
    lines = zip(own.text, same, strict=True)
    pairs = zip(own.customdata, other.customdata, strict=True)
    figure.update_traces(
        z=values,
        zmin=-end,
        zmax=end,
        colorscale=SIGNED_SCALE,
        text=[["" if agrees else word for word, agrees in zip(*line, strict=True)] for line in lines],
        customdata=[[f"{a}<br>second model:<br>{b}" for a, b in zip(*pair, strict=True)] for pair in pairs],
        colorbar_title_text=f"first − second:<br>{own.colorbar.title.text}",
    )
    return figure
