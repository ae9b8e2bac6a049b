"""What a lens reads of a prompt: what is asked of `lens_trajectory`, figures whose cells can be clicked, and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch

from app.shell import loading, viewport
from app.shell.downloads import Download, csv_file, html_file, npz_file
from app.shell.folders import ModelKey, bundled_name, fingerprint, resolve_below
from app.shell.prompts import Prompt
from app.shell.steps import Ref, Step, Steps, as_python, run_steps, tokens_step
from app.shell.tables import Cell
from diffmamba_interp.drawing.colours import short_name
from diffmamba_interp.drawing.labels import short_stage, token_label
from diffmamba_interp.figures.lens import lens_comparison_csv
from diffmamba_interp.files.archives import arrays_to_bytes
from diffmamba_interp.lens import LensKind, LensTrajectory, LogitLens, lens_trajectory, load_lens
from diffmamba_interp.lens.folders import demo_lens_folder, lens_kind

STATISTICS = {
    "probability": "probability of the top token",
    "entropy": "entropy",
    "kl_to_final": "KL from the output",
    "target_rank": "rank of the answer",
    "target_probability": "probability of the answer",
}
LOGIT_LENS = "logit lens"
BUNDLED_LENSES: dict[str, LensKind] = {"bundled tuned lens": "tuned", "bundled Jacobian lens": "jacobian"}
"""What comes with a bundled model, by the name under which it is offered; the first is taken unless told otherwise."""
TOP_K = 10
STAGE_HEIGHT, FRAME_HEIGHT = 25, 170
CELL_WIDTH, AROUND, NARROW_AROUND = 54, 120, 70
"""Pixels of a word in its cell, and of what stands beside the cells."""

LEAST_SHOWN, MOST_SHOWN = 3, 32
HOVER = {"align": "left", "font": {"family": "monospace"}}
"""Of a list of tokens: percentages below one another."""

COLOUR_BAR = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "thickness": 10, "len": 0.7}


@dataclass(frozen=True, kw_only=True)
class LensRequest:
    """lens: its folder, None for the logit lens. revision: changes with the folder's files. first, last: the
    positions that are read, last included. target: a token, None for each position's next one; needs_target:
    whether the statistic is about it. kind: of the lens in the folder."""

    lens: Path | None
    revision: str
    first: int
    last: int
    needs_target: bool = False
    target: int | None = None
    kind: LensKind = "tuned"

    @property
    def name(self) -> str:
        """As curves call it."""
        return "logit" if self.lens is None else self.kind

    def targets(self, prompt: Prompt) -> list[int] | None:
        """One token per position of the prompt; the last one's, which has no next, is never read."""
        if not self.needs_target:
            return None
        if self.target is not None:
            return [self.target] * len(prompt.tokens)
        return [*prompt.tokens[1:], prompt.tokens[-1]]


def bundled_lens(key: ModelKey, kind: LensKind = "tuned") -> Path | None:
    """The folder of the lens of a kind that comes with a bundled model; None if there is none."""
    name = bundled_name(key.folder)
    if name is None:
        return None
    try:
        return demo_lens_folder(name, kind)
    except FileNotFoundError:
        return None


def positions_shown(side_by_side: int = 1) -> int:
    """As many positions as have room for their text in one of so many figures."""
    # On a narrow page figures stand below one another, and stages have short names.
    width = viewport.content_width() / (1 if viewport.is_narrow() else side_by_side)
    room = width - (NARROW_AROUND if viewport.is_narrow() else AROUND)
    return min(max(int(room / CELL_WIDTH), LEAST_SHOWN), MOST_SHOWN)


def lens_request(
    name: str, key: ModelKey, *, first: int, last: int, needs_target: bool, target: int | None
) -> LensRequest:
    """`name`: LOGIT_LENS, one of BUNDLED_LENSES or a lens folder below the root. Raises as `resolve_below`."""
    kind = BUNDLED_LENSES.get(name)
    if kind is not None:
        folder = bundled_lens(key, kind)
        if folder is None:
            raise FileNotFoundError(f"no {kind} lens comes with this model: choose the logit lens, or a lens folder.")
    else:
        folder = None if name == LOGIT_LENS else resolve_below(loading.options().root, name)
        kind = "tuned" if folder is None else lens_kind(folder)
    return LensRequest(
        lens=folder, revision=fingerprint(folder) if folder else "", first=first, last=last,
        needs_target=needs_target, target=target, kind=kind,
    )  # fmt: skip


def trajectory(key: ModelKey, prompt: Prompt, request: LensRequest) -> LensTrajectory:
    """The trajectory, from the cache if it was made before. Raises ValueError for another model's lens."""
    return run_lens(key, request, trajectory_steps(key, prompt, request), "trajectory")


def trajectory_steps(key: ModelKey, prompt: Prompt, request: LensRequest, name: str = "trajectory") -> list[Step]:
    return [tokens_step(key, prompt), lens_step(request), read_step(prompt, request, name)]


def lens_step(request: LensRequest) -> Step:
    if request.lens is None:
        return Step("lens", LogitLens.from_model, Ref("model"))
    return Step("lens", load_lens, request.lens, Ref("model"))


def read_step(prompt: Prompt, request: LensRequest, name: str, tokens: str = "tokens") -> Step:
    """The trajectory of `model` through `lens`."""
    targets = request.targets(prompt)
    given = {} if targets is None else {"targets": Step("", torch.tensor, [targets])}
    return Step(
        name, lens_trajectory, Ref("model"), Ref("lens"), Ref(tokens),
        positions=slice(request.first, request.last + 1), top_k=TOP_K, **given,
    )  # fmt: skip


def run_lens(key: ModelKey, request: LensRequest, steps: Steps, name: str) -> LensTrajectory:
    """The trajectory `name` of the steps, from the cache, which knows it by its Python and the lens's revision."""
    what = ("lens", name, as_python(steps), request.revision)
    return loading.result(key, what, lambda model: run_steps(steps, {"model": model})[name], _trajectory_bytes)


def _trajectory_bytes(trajectory: LensTrajectory) -> int:
    return sum(value.nbytes for value in vars(trajectory).values() if isinstance(value, np.ndarray))


def token_ids(trajectory: LensTrajectory) -> set[int]:
    """Of the tokens that the trajectory's figure names."""
    return {int(token) for tokens in (trajectory.top_tokens, trajectory.tokens) for token in tokens.flat}


def clickable(figure: go.Figure) -> go.Figure:
    """A lens's heat map with its colour bar above it and a point over each cell, which can be clicked.

    A heat map's own cells cannot be selected. A point's custom data: its stage, its position in the prompt, and what
    pointing at it shows.
    """
    figure.update_layout(coloraxis={"colorbar": COLOUR_BAR}, coloraxis_colorbar_title_side="right")
    cells = figure.data[0]
    places = [(stage, place) for stage in range(len(cells.y)) for place in range(len(cells.x))]
    unseen = {"marker": {"opacity": 0}}
    figure.add_scatter(
        x=[cells.x[place] for _, place in places], y=[cells.y[stage] for stage, _ in places], mode="markers",
        marker={"opacity": 0, "size": 14}, selected=unseen, unselected=unseen, showlegend=False,
        customdata=[[stage, int(cells.x[place]), cells.customdata[stage][place]] for stage, place in places],
        hovertemplate="%{customdata[2]}<extra></extra>",
    )  # fmt: skip
    cells.hoverinfo, cells.hovertemplate = "skip", None
    n_stages = len(cells.y)
    # Without a limit to the distance, the nearest point is that of the cell under the pointer.
    figure.update_layout(
        hoverdistance=-1, hovermode="closest", clickmode="event+select", dragmode=False, hoverlabel=HOVER,
        height=FRAME_HEIGHT + STAGE_HEIGHT * n_stages, margin={"t": 60, "b": 10, "r": 10},
    )  # fmt: skip
    figure.update_xaxes(range=[cells.x[0] - 0.5, cells.x[-1] + 0.5])
    figure.update_yaxes(range=[-0.5, n_stages - 0.5])
    if viewport.is_narrow():
        figure.update_yaxes(tickvals=list(cells.y), ticktext=[short_stage(stage) for stage in cells.y])
    return figure


def marked(figure: go.Figure, stage: int, position: int) -> go.Figure:
    """A figure of `clickable` with a frame around one cell, white on black so that it is seen on every colour; the
    given one, which is what downloads hold, stays as it is."""
    shown = go.Figure(figure)
    cell = {"x0": position - 0.5, "x1": position + 0.5, "y0": stage - 0.5, "y1": stage + 0.5}
    for colour, width in (("black", 5), ("white", 2)):
        shown.add_shape(type="rect", **cell, line={"color": colour, "width": width})
    return shown


def top_tokens(
    trajectory: LensTrajectory, text: Callable[[int], str], stage: int, column: int
) -> list[dict[str, Cell]]:
    """One line per likely token of a cell, best first."""
    pairs = zip(trajectory.top_tokens[0, stage, column], trajectory.top_probabilities[0, stage, column], strict=True)
    return [
        {"rank": rank, "token": token_label(text(int(token))), "probability": float(probability)}
        for rank, (token, probability) in enumerate(pairs, start=1)
    ]


def lens_files(
    trajectories: Mapping[str, LensTrajectory], figures: Sequence[go.Figure], token_text: Callable[[int], str]
) -> list[Download]:
    """Every figure; what was read of every model, by its name, as CSV and as NPZ."""
    endings = ["html"] if len(figures) == 1 else [f"{short_name(name).replace('/', '-')}.html" for name in trajectories]
    return [
        *(html_file(figure, ending) for figure, ending in zip(figures, endings, strict=True)),
        csv_file(lambda: lens_comparison_csv(trajectories, token_text)),
        npz_file(lambda: comparison_bytes(trajectories)),
    ]


def comparison_bytes(trajectories: Mapping[str, LensTrajectory]) -> bytes:
    """Arrays of every model, "0.top_tokens" and so on; `models` says which is which."""
    arrays = {
        f"{number}.{name}": np.asarray(value)
        for number, trajectory in enumerate(trajectories.values())
        for name, value in vars(trajectory).items()
        if value is not None
    }
    return arrays_to_bytes({**arrays, "models": np.array(list(trajectories))})


def trajectory_bytes(trajectory: LensTrajectory) -> bytes:
    """Every array by its field's name, and the stages' names."""
    arrays = {name: np.asarray(value) for name, value in vars(trajectory).items() if value is not None}
    return arrays_to_bytes(arrays)
