"""Figures of lenses: predictions by token and depth, also as CSV, two models' difference, held-out KL by depth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from diffmamba_interp.drawing.colours import DEPTH, LENSES, MAGNITUDE, short_name
from diffmamba_interp.drawing.labels import short_stage, token_label
from diffmamba_interp.drawing.panels import (
    LEAST_END,
    Axis,
    ColourScale,
    Drawing,
    HeatMap,
    Line,
    Panel,
    Place,
    minus,
    scale_end,
    symmetric,
)
from diffmamba_interp.drawing.plotly_figure import as_plotly
from diffmamba_interp.files.table_text import csv_text, quoted
from diffmamba_interp.lens.evaluation import LensMeasurement
from diffmamba_interp.lens.trajectory import LensTrajectory
from diffmamba_interp.statistics import Estimate

CellQuantity = Literal["probability", "entropy", "kl_to_final", "target_rank", "target_probability"]
TokenText = Callable[[int], str] | Sequence[str]

SMALLEST_NATS = 1e-4
"""Divergences below are drawn at it: a logarithmic axis has no 0."""

_MAX_LABEL = 9
_MAX_WRITTEN = 32
"""Beyond so many tokens the cells are too narrow to write in; pointing at them still shows everything."""


def lens_drawing(
    trajectory: LensTrajectory,
    token_text: TokenText,
    *,
    statistic: CellQuantity = "probability",
    sample: int = 0,
    title: str = "",
) -> Drawing:
    """Stages (the embedding at the bottom, the output on top) by tokens; the top prediction is written in each cell.

    Args:
        trajectory: what a lens read.
        token_text: the text of a token id, or the texts of all ids.
        statistic: the colour. probability: of the top prediction. entropy, kl_to_final: in nats. target_rank
            (logarithmic), target_probability: of the trajectory's targets.
        sample: which prompt of the batch.
        title: shown above.

    Pointing at a cell lists its most likely tokens.

    Raises:
        ValueError: an unknown statistic, or one about targets that the trajectory does not have.
        IndexError: no such sample.
    """
    if not 0 <= sample < len(trajectory.tokens):
        raise IndexError(f"sample is {sample}, but the trajectory holds {len(trajectory.tokens)} prompts.")
    values, scale = _shown(trajectory, statistic, sample)
    text = token_text if callable(token_text) else token_text.__getitem__
    return _cells(trajectory, values, scale, text, sample, title)


lens_heat_map = as_plotly(lens_drawing)


def lens_difference_drawing(
    model: LensTrajectory,
    baseline: LensTrajectory,
    token_text: TokenText,
    *,
    statistic: CellQuantity = "probability",
    sample: int = 0,
    title: str = "",
    names: tuple[str, str] = ("first", "second"),
    other_prompt: bool = False,
) -> Drawing:
    """The first trajectory's values minus the second's, its baseline's: red where the first has more.

    In a cell stands the first model's top token where the baseline has another; pointing at it lists the tokens of
    both. A probability is that of the first model's top token in both; where the baseline's list of likely tokens lacks
    it, the least of that list stands for it, so that the difference is no smaller than shown. The unit is that of
    `lens_drawing`: ranks are compared by their logarithm. names: of the two, for the label. other_prompt: the second is
    of another prompt of as many tokens, position by position; where the tokens differ, both stand at the axis. The
    other arguments as in `lens_drawing`.

    Raises ValueError for trajectories of other tokens or of other stages, and as `lens_drawing`.
    """
    if model.stages != baseline.stages:
        raise ValueError(
            f"the models have {len(model.stages) - 1} and {len(baseline.stages) - 1} blocks: their stages cannot be "
            "subtracted. Compare them side by side."
        )
    first = lens_drawing(model, token_text, statistic=statistic, sample=sample, title=title)
    second = lens_drawing(baseline, token_text, statistic=statistic, sample=sample)
    same_size = model.tokens.shape[1:] == baseline.tokens.shape[1:]
    if not same_size or (not other_prompt and not np.array_equal(model.tokens[sample], baseline.tokens[sample])):
        raise ValueError("the trajectories are of different tokens: read the same prompt with both models.")
    labels = zip(first.x.ticks or {}, (first.x.ticks or {}).values(), (second.x.ticks or {}).values(), strict=True)
    ticks = {place: own if own == other else f"{own}\n{other}" for place, own, other in labels}
    (cells,), (others,) = (list(drawing.marks(HeatMap)) for drawing in (first, second))
    baseline_values = _of_same_tokens(model, baseline, sample) if statistic == "probability" else others.values
    values = cells.values - baseline_values
    is_same = model.top_tokens[sample, ..., 0] == baseline.top_tokens[sample, ..., 0]
    notes = [
        [f"{a}\n{short_name(names[1])}:\n{b}" for a, b in zip(*pair, strict=True)]
        for pair in zip(cells.notes, others.notes, strict=True)
    ]
    text = cells.text and [
        ["" if same else word for word, same in zip(*line, strict=True)]
        for line in zip(cells.text, is_same, strict=True)
    ]
    assert first.scale is not None
    return replace(
        first,
        x=replace(first.x, ticks=ticks),
        scale=symmetric(f"{minus(*map(short_name, names))}:\n{first.scale.title}", [values], least=LEAST_END),
        panels=[Panel(marks=[replace(cells, values=values, text=text, notes=notes)])],
    )


lens_difference_heat_map = as_plotly(lens_difference_drawing)


def _of_same_tokens(model: LensTrajectory, baseline: LensTrajectory, sample: int) -> np.ndarray:
    """The baseline's probability of the model's top tokens, [stage, pos]; of unlisted ones, the least of its list."""
    listed = baseline.top_tokens[sample] == model.top_tokens[sample, ..., :1]
    probabilities = baseline.top_probabilities[sample]
    return np.where(listed.any(axis=-1), (listed * probabilities).sum(axis=-1), probabilities[..., -1])


def kl_drawing(measurement: LensMeasurement, *, title: str = "", kind: str = "tuned") -> Drawing:
    """KL from the final output, in nats on a logarithmic scale, by stage: both lenses with their 95 % intervals.

    kind: of the lens that was measured, "tuned" or "jacobian".
    """
    stages = [stage.stage for stage in measurement.stages]
    by_lens = {
        "logit": [stage.logit_lens_kl_nats for stage in measurement.stages],
        kind: [stage.kl_nats for stage in measurement.stages],
    }
    return Drawing(
        title=title,
        x=Axis(
            title="lens reads the embedding (emb.) or the stream after block",
            kind="category",
            ticks={stage: short_stage(stage) for stage in stages},
        ),
        y=Axis(title="KL to output, nats", kind="log"),
        panels=[
            Panel(
                marks=[
                    Line.of_points(f"{lens} lens", stages, [_drawable(one) for one in estimates], LENSES[lens])
                    for lens, estimates in by_lens.items()
                ]
            )
        ],
        panel_size=(630.0, 250.0),
    )


def lens_csv(trajectory: LensTrajectory, token_text: Callable[[int], str], *, sample: int = 0) -> str:
    """Columns stage, position in the prompt, token read, entropy and KL in nats, target if any, and the k most likely
    tokens.

    `token_text`: the text of a token id. Raises IndexError for a sample that the trajectory does not have.
    """
    return csv_text(_csv_columns(trajectory), _csv_lines(trajectory, token_text, sample))


def lens_comparison_csv(
    trajectories: Mapping[str, LensTrajectory], token_text: Callable[[int], str], *, sample: int = 0
) -> str:
    """The same of several models, whose names stand in a first column, model.

    Raises ValueError where there are none or they hold different numbers of likely tokens, and as `lens_csv`.
    """
    columns = {tuple(_csv_columns(trajectory)) for trajectory in trajectories.values()}
    if len(columns) != 1:
        raise ValueError(f"trajectories are of {len(columns)} kinds: give at least one, all read in the same way.")
    lines = (
        [model, *line]
        for model, trajectory in trajectories.items()
        for line in _csv_lines(trajectory, token_text, sample)
    )
    return csv_text(["model", *columns.pop()], lines)


def _csv_columns(trajectory: LensTrajectory) -> list[str]:
    names = ["stage", "position", "token", "entropy_nats", "kl_to_final_nats"]
    if trajectory.targets is not None:
        names += ["target", "target_rank", "target_log_probability"]
    k = trajectory.top_tokens.shape[-1]
    return names + [name for place in range(1, k + 1) for name in (f"top_{place}", f"top_{place}_probability")]


def _csv_lines(trajectory: LensTrajectory, token_text: Callable[[int], str], sample: int) -> Iterator[list[object]]:
    if not 0 <= sample < len(trajectory.tokens):
        raise IndexError(f"sample is {sample}, but the trajectory holds {len(trajectory.tokens)}.")
    places = trajectory.places

    def shown(token: int) -> str:
        return quoted(token_text(token))

    def line(stage: int, pos: int) -> list[object]:
        at = (sample, stage, pos)
        values: list[object] = [trajectory.stages[stage], places[pos], shown(int(trajectory.tokens[sample, pos]))]
        values += [float(trajectory.entropy_nats[at]), float(trajectory.kl_to_final_nats[at])]
        if trajectory.targets is not None and trajectory.target_ranks is not None:
            assert trajectory.target_log_probabilities is not None
            target = shown(int(trajectory.targets[sample, pos]))
            values += [target, int(trajectory.target_ranks[at]), float(trajectory.target_log_probabilities[at])]
        for token, probability in zip(trajectory.top_tokens[at], trajectory.top_probabilities[at], strict=True):
            values += [shown(int(token)), float(probability)]
        return values

    n_stages, n_pos = trajectory.entropy_nats.shape[1:]
    return (line(stage, pos) for stage in range(n_stages) for pos in range(n_pos))


def _shown(trajectory: LensTrajectory, statistic: CellQuantity, sample: int) -> tuple[np.ndarray, ColourScale]:
    """Values [stage, pos] and their scale."""
    if statistic not in get_args(CellQuantity):
        raise ValueError(f"statistic is {statistic!r}: it must be one of {', '.join(get_args(CellQuantity))}.")
    if statistic == "probability":
        return trajectory.top_probabilities[sample, ..., 0], _share_scale("probability of\ntop token")
    if statistic == "entropy":
        return _measured(trajectory.entropy_nats[sample], "entropy, nats")
    if statistic == "kl_to_final":
        return _measured(trajectory.kl_to_final_nats[sample], "KL to output,\nnats")
    if trajectory.target_ranks is None or trajectory.target_log_probabilities is None:
        raise ValueError(f"statistic is {statistic!r}, but the trajectory has no targets: give lens_trajectory some.")
    if statistic == "target_probability":
        return np.exp(trajectory.target_log_probabilities[sample]), _share_scale("probability\nof the answer")
    ranks, scale = _measured(np.log10(trajectory.target_ranks[sample]), "log10 rank\nof the answer")
    # The best rank is the brightest, as the greatest probability is.
    return ranks, replace(scale, colours=MAGNITUDE[::-1])


def _share_scale(title: str) -> ColourScale:
    return ColourScale(title=title, low=0.0, high=1.0, colours=DEPTH)


def _measured(values: np.ndarray, title: str) -> tuple[np.ndarray, ColourScale]:
    return values, ColourScale(title=title, low=0.0, high=scale_end([values]), colours=DEPTH)


def _cells(
    trajectory: LensTrajectory,
    values: np.ndarray,
    scale: ColourScale,
    text: Callable[[int], str],
    sample: int,
    title: str,
) -> Drawing:
    n_stages, n_pos = values.shape
    top = trajectory.top_tokens[sample]
    cells = HeatMap(
        values=values,
        x=[float(place) for place in trajectory.places],
        y=trajectory.stages,
        text=[[_label(text(int(top[s, t, 0]))) for t in range(n_pos)] for s in range(n_stages)]
        if n_pos <= _MAX_WRITTEN
        else None,
        notes=[[_note(trajectory, text, sample, s, t) for t in range(n_pos)] for s in range(n_stages)],
    )
    tokens: dict[Place, str] = {
        float(place): _label(text(int(token)))
        for place, token in zip(trajectory.places, trajectory.tokens[sample], strict=True)
    }
    return Drawing(
        title=title,
        x=Axis(title="token read", ticks=tokens),
        y=Axis(title="lens reads", kind="category"),
        scale=scale,
        panels=[Panel(marks=[cells])],
        panel_size=(56.0 * n_pos, 22.0 * n_stages),
    )


def _note(trajectory: LensTrajectory, text: Callable[[int], str], sample: int, stage: int, pos: int) -> str:
    at = (sample, stage, pos)
    token = token_label(text(int(trajectory.tokens[sample, pos])))
    lines = [
        f"{trajectory.stages[stage]}, position {trajectory.places[pos]}: {token}",
        f"entropy {trajectory.entropy_nats[at]:.3f} nats, KL to output {trajectory.kl_to_final_nats[at]:.3f} nats",
    ]
    if trajectory.targets is not None and trajectory.target_ranks is not None:
        target = token_label(text(int(trajectory.targets[sample, pos])))
        lines.append(f"answer {target}: rank {trajectory.target_ranks[at]}")
    lines += [
        f"{100 * probability:5.1f} %  {token_label(text(int(token)))}"
        for token, probability in zip(trajectory.top_tokens[at], trajectory.top_probabilities[at], strict=True)
    ]
    return "\n".join(lines)


def _label(text: str) -> str:
    return token_label(text, at_most=_MAX_LABEL)


def _drawable(estimate: Estimate) -> tuple[float, float, float]:
    value, low, high = (max(one, SMALLEST_NATS) for one in (estimate.value, estimate.low, estimate.high))
    return value, low, high
