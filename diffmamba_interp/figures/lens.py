"""Figures of lenses: predictions by token and depth as a heat map, and held-out KL by depth.

Token text is escaped: whatever a prompt holds is shown as text.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import plotly.graph_objects as go

from diffmamba_interp.lens.evaluation import LensMeasurement
from diffmamba_interp.lens.trajectory import LensTrajectory

Statistic = Literal["probability", "entropy", "kl_to_final", "target_rank", "target_probability"]

# Viridis and Cividis keep their order for every kind of colour vision, and in grey.
_SCALE, _SCALE_OF_RANKS = "Viridis", "Cividis_r"
# Okabe and Ito's vermilion and blue; lines are dashed too.
_LOGIT_COLOUR, _TUNED_COLOUR = "#D55E00", "#0072B2"
_MAX_LABEL = 9
# Beyond so many tokens the cells are too narrow to write in; hovering still shows everything.
_MAX_WRITTEN = 32


@dataclass(frozen=True)
class _Shown:
    """Values [stage, pos], the title of their colour bar, their range and colours."""

    values: np.ndarray
    title: str
    low: float | None
    high: float | None
    scale: str = _SCALE


def lens_heat_map(
    trajectory: LensTrajectory,
    token_text: Callable[[int], str] | Sequence[str],
    *,
    statistic: Statistic = "probability",
    sample: int = 0,
    title: str = "",
) -> go.Figure:
    """Stages (the embedding at the bottom, the output on top) by tokens; the top prediction is written in each cell.

    Args:
        trajectory: what a lens read.
        token_text: the text of a token id, or the texts of all ids.
        statistic: the colour. probability: of the top prediction. entropy, kl_to_final: in nats. target_rank
            (logarithmic), target_probability: of the trajectory's targets.
        sample: which prompt of the batch.
        title: shown above; escaped.

    Returns:
        The figure; hovering lists the most likely tokens of a cell.

    Raises:
        ValueError: an unknown statistic, or one about targets that the trajectory does not have.
        IndexError: no such sample.
    """
    if not 0 <= sample < len(trajectory.tokens):
        raise IndexError(f"sample is {sample}, but the trajectory holds {len(trajectory.tokens)} prompts.")
    text = token_text if callable(token_text) else token_text.__getitem__
    shown = _shown(trajectory, statistic, sample)
    top = trajectory.top_tokens[sample]
    n_stages, n_pos = shown.values.shape
    figure = go.Figure(
        go.Heatmap(
            z=shown.values,
            x=list(range(n_pos)),
            y=list(trajectory.stages),
            text=[[_label(text(int(top[s, t, 0]))) for t in range(n_pos)] for s in range(n_stages)],
            texttemplate="%{text}" if n_pos <= _MAX_WRITTEN else None,
            textfont={"size": 10},
            customdata=[[_hover(trajectory, text, sample, s, t) for t in range(n_pos)] for s in range(n_stages)],
            hovertemplate="%{customdata}<extra></extra>",
            colorscale=shown.scale,
            zmin=shown.low,
            zmax=shown.high,
            colorbar={"title": {"text": shown.title}},
        )
    )
    figure.update_layout(
        title={"text": html.escape(title)},
        xaxis={
            "title": {"text": "token read"},
            "tickvals": list(range(n_pos)),
            "ticktext": [_label(text(int(token))) for token in trajectory.tokens[sample]],
        },
        yaxis={"title": {"text": "lens reads"}, "type": "category"},
    )
    return figure


def kl_by_stage(measurement: LensMeasurement, *, title: str = "") -> go.Figure:
    """Held-out KL to the final output by stage, logit lens and tuned lens, with their 95 % intervals."""
    stages = [stage.stage for stage in measurement.stages]
    figure = go.Figure()
    for name, colour, dash, estimates in (
        ("logit lens", _LOGIT_COLOUR, "dash", [stage.logit_lens_kl_nats for stage in measurement.stages]),
        ("tuned lens", _TUNED_COLOUR, "solid", [stage.kl_nats for stage in measurement.stages]),
    ):
        figure.add_scatter(
            x=stages,
            y=[estimate.value for estimate in estimates],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [estimate.high - estimate.value for estimate in estimates],
                "arrayminus": [estimate.value - estimate.low for estimate in estimates],
            },
            name=name,
            mode="lines+markers",
            line={"color": colour, "dash": dash},
        )
    figure.update_layout(
        title={"text": html.escape(title)},
        xaxis={"title": {"text": "lens reads"}, "type": "category"},
        yaxis={"title": {"text": "KL to the final output, nats"}, "type": "log"},
    )
    return figure


def _shown(trajectory: LensTrajectory, statistic: Statistic, sample: int) -> _Shown:
    if statistic not in get_args(Statistic):
        raise ValueError(f"statistic is {statistic!r}: it must be one of {', '.join(get_args(Statistic))}.")
    if statistic == "probability":
        return _Shown(trajectory.top_probabilities[sample, ..., 0], "probability of<br>top token", 0.0, 1.0)
    if statistic == "entropy":
        return _Shown(trajectory.entropy_nats[sample], "entropy, nats", 0.0, None)
    if statistic == "kl_to_final":
        return _Shown(trajectory.kl_to_final_nats[sample], "KL to output,<br>nats", 0.0, None)
    if trajectory.target_ranks is None or trajectory.target_log_probabilities is None:
        raise ValueError(f"statistic is {statistic!r}, but the trajectory has no targets: give lens_trajectory some.")
    if statistic == "target_rank":
        ranks = np.log10(trajectory.target_ranks[sample])
        return _Shown(ranks, "log10 rank<br>of target", 0.0, None, _SCALE_OF_RANKS)
    return _Shown(np.exp(trajectory.target_log_probabilities[sample]), "probability<br>of target", 0.0, 1.0)


def _hover(trajectory: LensTrajectory, text: Callable[[int], str], sample: int, stage: int, pos: int) -> str:
    at = (sample, stage, pos)
    lines = [
        f"<b>{trajectory.stages[stage]}</b>, token {pos}: {_visible(text(int(trajectory.tokens[sample, pos])))}",
        f"entropy {trajectory.entropy_nats[at]:.3f} nats, KL to output {trajectory.kl_to_final_nats[at]:.3f} nats",
    ]
    if trajectory.targets is not None and trajectory.target_ranks is not None:
        target = _visible(text(int(trajectory.targets[sample, pos])))
        lines.append(f"target {target}: rank {trajectory.target_ranks[at]}")
    lines += [
        f"{100 * probability:5.1f} %  {_visible(text(int(token)))}"
        for token, probability in zip(trajectory.top_tokens[at], trajectory.top_probabilities[at], strict=True)
    ]
    return "<br>".join(lines)


def _label(text: str) -> str:
    return _visible(text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "…")


def _visible(text: str) -> str:
    """Escaped, with what cannot be seen made visible; Plotly reads a small HTML and `%{...}` in labels."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.replace(" ", "␣"))
    # Plotly decodes &lt; and &amp; but shows &quot; as it is; quotes are harmless here.
    return html.escape(shown, quote=False).replace("%{", "%&#123;")
