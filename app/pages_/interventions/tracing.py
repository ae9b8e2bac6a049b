"""Where the answer comes from: values patched from one prompt into another, and tokens taken out in the order in which
a measure ranks them. Both ask the model as it is, without the page's changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from app.pages_.interventions.request import NOTHING, POINTS, Answer, differential_blocks
from app.shell import loading, state
from app.shell.carriers import places_of, swap_rows, swap_steps, swapped
from app.shell.change_headlines import faithfulness_headline, patched_quantity, patching_headline
from app.shell.downloads import csv_file, draw_downloads, html_file
from app.shell.errors import shown_errors
from app.shell.estimates import agreed, stoppable
from app.shell.figures import draw_figure, paled
from app.shell.folders import ModelKey
from app.shell.glossary import draw_note
from app.shell.headlines import draw_headline
from app.shell.kept_runs import PatchingRun
from app.shell.lens_reading import LensRequest, clickable, lens_step, read_step, token_ids, trajectory
from app.shell.links import OF_MANY, draw_links, places_links
from app.shell.loading import ChosenModel
from app.shell.prompt_pairs import choose_other
from app.shell.prompts import Prompt, markdown, token_text
from app.shell.steps import Ref, Step, Steps, as_python, model_steps, run_steps, token_text_lines, tokens_step
from app.shell.wording import placed, word
from diffmamba_interp import HookedMamba
from diffmamba_interp.figures.faithfulness import faithfulness_figure, ranking_name
from diffmamba_interp.figures.interventions import patch_grid_figure
from diffmamba_interp.figures.lens import lens_difference_heat_map
from diffmamba_interp.files.table_text import csv_text
from diffmamba_interp.implicit_attention import SOURCE_SCORES, source_scores
from diffmamba_interp.interventions import (
    FaithfulnessRecord,
    PatchGrid,
    attribution_patching,
    estimate_error,
    faithfulness,
)
from diffmamba_interp.interventions.faithfulness import FRACTIONS

PATCH_CELL = "patch_cell"
COLUMNS = {"tokens": "each token", "spans": "needle, distractors, question and the rest"}
EXACT, ESTIMATE = "exact", "estimate, one backward pass"
PICTURE_HEIGHT, AROUND_ROWS, ROW_HEIGHT = 450, 250, 8
"""Of the grids, pixels: at least, beside the rows, and of one."""
AS_IT_IS = "Of the model as it is, without what is changed above, and of one prompt (n = 1). Over many prompts:"


@dataclass(frozen=True, kw_only=True)
class PatchRequest:
    """What is patched, and in which columns, from the prompt into another one."""

    point: str
    columns: str
    other: Prompt

    @property
    def shorter(self) -> str:
        """What makes it quicker."""
        if self.columns == "tokens":
            return "Shorten the prompt, or patch whole spans"
        return "Shorten the prompt" + (", or patch what each block writes" if self.point == "gated" else "")


def choose_patching(chosen: ChosenModel, prompt: Prompt, answer: Answer) -> PatchRequest | None:
    """None if nothing is to be patched. Raises as `choose_other`."""
    left, right = st.columns(2)
    offered = [point for point in POINTS if point != "branch_out" or differential_blocks(chosen.cfg)]
    with left:
        label = "Patched from this prompt into another"
        point = state.selectbox(label, "patched", offered, NOTHING, format_func=POINTS.get)
    if point == NOTHING:
        return None
    with right:
        ready = "spans" if point == "gated" else "tokens"
        columns = state.selectbox("Columns", "patch_columns", list(COLUMNS), ready, format_func=COLUMNS.get)
    other = choose_other(chosen, prompt, answer.token, other_answer(answer))
    return PatchRequest(point=point, columns=columns, other=other)


def draw_patching(
    chosen: ChosenModel, prompt: Prompt, answer: Answer, request: PatchRequest, lens: LensRequest
) -> None:
    """What the lens reads of both prompts, and both grids."""
    st.header("Patching from this prompt into another")
    point, other = request.point, request.other
    with shown_errors("Patching", request.shorter):
        places = places_of(prompt, request.columns)
        steps = patching_steps(chosen.key, prompt, other, answer, point, places)
        n_rows, what = len(swap_rows(chosen, point)), as_python(steps)
        n_tokens = (n_rows * len(places) + 4) * len(prompt.tokens)
        if not agreed(chosen.key, n_tokens, what=what, reduce=request.shorter, slot="patching"):
            return
        run = partial(kept, chosen.key, steps, ("exact", "estimate"))
        made = stoppable(run, n_rows * len(places), what=what, words="Patching", slot="patching")
        if made is None:
            return
        pair = pair_steps(chosen.key, prompt, lens)
        pair_figure = draw_pair(chosen, prompt, other, lens, pair)
        draw_headline(patching_headline(made["exact"], list(places), logit_words(chosen, answer)))
        draw_links(*OF_MANY, lead=AS_IT_IS)
        run_made = PatchingRun(exact=made["exact"], estimate=made["estimate"], places=tuple(places))
        chosen.keep(prompt, f"patching of {POINTS[point]}", run_made)
        draw_cell_links(made["exact"], places, len(prompt.tokens) - 1)
        figure = run_steps(steps, {**made, "model": None})["patching_figure"]
        figure.update_layout(height=grids_height(n_rows))
        draw_figure(figure, "patching_grids", on_select=take_cell)
        st.caption(in_numbers(made["exact"], made["estimate"], chosen, answer) + paled(figure))
        files = [html_file(figure, "patching.html"), html_file(pair_figure, "prompts.html")]
        files += [csv_file(lambda: grids_csv(made, list(places)), "patching.csv")]
        code = as_python([*model_steps(chosen.key), *steps, *pair])
        draw_downloads(files, code, name="patching", of=prompt.strings)


def grids_height(n_rows: int) -> int:
    """Of the picture, in pixels: of heads there are hundreds, and each is to be seen and clicked."""
    return max(PICTURE_HEIGHT, AROUND_ROWS + ROW_HEIGHT * n_rows)


def draw_cell_links(grid: PatchGrid, places: Mapping[str, tuple[int, ...]], last: int) -> None:
    """Links to the block and position of the cell that was clicked, otherwise of the one that brings most back."""
    cell = chosen_cell(state.remembered(PATCH_CELL, ""), grid)
    if cell is None:
        return
    row, column = cell
    links = places_links(
        block=grid.blocks[row], position=[*places.values()][column][-1], last=last, but="interventions"
    )
    name = f"block {grid.row_names[row]} at {markdown(placed([*places][column]))}"
    draw_links(*links, lead=f"Look at {name}; click a cell for another:")


def chosen_cell(said: str, grid: PatchGrid) -> tuple[int, int] | None:
    """Row and column; those of the largest share where none was clicked, nothing where there is none."""
    row, _, column = said.partition("-")
    recovered = grid.recovered[0]
    if row.isdecimal() and column.isdecimal():
        at = int(row), int(column)
        if at[0] < recovered.shape[0] and at[1] < recovered.shape[1]:
            return at
    if not np.isfinite(recovered).any():
        return None
    place = np.unravel_index(int(np.nanargmax(recovered)), recovered.shape)
    return int(place[0]), int(place[1])


def take_cell() -> None:
    """Go on at the cell that was clicked."""
    with shown_errors("Reading the click"):
        points = st.session_state["patching_grids"]["selection"]["points"]
        if points:
            row, column = points[0]["customdata"][:2]
            state.put(PATCH_CELL, f"{int(row)}-{int(column)}")


def choose_faithfulness() -> bool:
    hint = "Source tokens are knocked out of every scan in the order of each ranking, or left in alone"
    return state.toggle("Take tokens out in the order of each ranking", "faithful", help=hint)


def draw_faithfulness(chosen: ChosenModel, prompt: Prompt, answer: Answer) -> None:
    """The curves."""
    st.header("Which ranking of the tokens holds?")
    with shown_errors("Taking tokens out", "Shorten the prompt."):
        steps = faithfulness_steps(chosen.key, prompt, answer)
        n_runs, what = 2 * len(FRACTIONS) * (len(SOURCE_SCORES) + 2) + 4, as_python(steps)
        if not agreed(chosen.key, n_runs * len(prompt.tokens), what=what, reduce="Shorten the prompt", slot="faithful"):
            return
        run = partial(kept, chosen.key, steps, ("faithful",))
        made = stoppable(run, n_runs, what=what, words="Taking tokens out", slot="faithful")
        if made is None:
            return
        draw_headline(faithfulness_headline(made["faithful"]))
        draw_links(*OF_MANY, lead=AS_IT_IS)
        chosen.keep(prompt, "rankings of the tokens, taken out in their order", made["faithful"])
        figure = run_steps(steps, {**made, "model": None, "scores": None})["faithful_figure"]
        draw_figure(figure, "faithful_curves")
        draw_note(
            "A ranking holds where its curve falls at once on the left, and rises at once on the right. One prompt "
            "decides nothing; grey: orders that know nothing of the model."
        )
        files = [html_file(figure, "faithfulness.html"), csv_file(lambda: curves_csv(made["faithful"]), "curves.csv")]
        code = as_python([*model_steps(chosen.key), *steps])
        draw_downloads(files, code, name="faithfulness", of=prompt.strings)


def pair_steps(key: ModelKey, prompt: Prompt, lens: LensRequest) -> Steps:
    """What the lens reads in this prompt less what it reads in the other, of the answer's probability."""
    names = ("this prompt", "the other prompt")
    how = {"statistic": "target_probability", "names": names, "other_prompt": True}
    return [
        lens_step(lens),
        read_step(prompt, lens, "trajectory"),
        read_step(prompt, lens, "other_trajectory", tokens="other"),
        token_text_lines(key),
        Step(
            "pair_figure",
            lens_difference_heat_map,
            Ref("trajectory"),
            Ref("other_trajectory"),
            Ref("token_text"),
            **how,
        ),
    ]


def draw_pair(chosen: ChosenModel, prompt: Prompt, other: Prompt, lens: LensRequest, steps: Steps) -> go.Figure:
    """Both prompts and their difference through the lens."""
    text = partial(token_text, tokenizer=chosen.tokenizer)
    read = {"trajectory": trajectory(chosen.key, prompt, lens), "other_trajectory": trajectory(chosen.key, other, lens)}
    for which, of, through_lens in zip(("this", "the other"), (prompt, other), read.values(), strict=True):
        chosen.keep(of, f"lens, {which} prompt", through_lens, token_ids(through_lens))
    figure = run_steps(steps, {**read, "token_text": text, "lens": None})["pair_figure"]
    shown = clickable(figure)
    draw_figure(shown, "pair_map")
    st.caption(
        "Probability of the answer through the lens, this prompt less the other: red where this one has more. Below, "
        "which single values carry that." + paled(shown)
    )
    return shown


def other_answer(answer: Answer) -> int | None:
    """The first wrong label."""
    return next((label for label in answer.labels if label != answer.token), None)


def patching_steps(
    key: ModelKey,
    prompt: Prompt,
    other: Prompt,
    answer: Answer,
    point: str,
    places: Mapping[str, tuple[int, ...]],
) -> list[Step]:
    """Both grids, and the figure that has them side by side."""
    read = (answer.token, other_answer(answer))
    prompts = (Ref("model"), Ref("tokens"), Ref("other"))
    return [
        *swap_steps(key, prompt, other, read, point, places),
        Step("estimate", attribution_patching, *prompts, **swapped(read, point, places)),
        Step(
            "patching_figure",
            patch_grid_figure,
            {EXACT: Ref("exact"), ESTIMATE: Ref("estimate")},
            place_names=list(places),
            title=f"Change of {patched_quantity(read[1])}",
        ),
    ]


def faithfulness_steps(key: ModelKey, prompt: Prompt, answer: Answer) -> list[Step]:
    """Scores, curves and the figure. Of a prompt with spans the context is ranked, else all but the last token."""
    context = sorted(
        {
            place
            for name in ("needle", "distractors", "filler")
            for start, end in getattr(prompt.spans, name)
            for place in range(start, end)
            if place < len(prompt.tokens) - 1
        }
    )
    given: dict[str, Any] = {"answers": [answer.token]}
    if answer.labels:
        given |= {"labels": list(answer.labels), "reading": "label_probability"}
    given |= {"sources": context} if context else {}
    return [
        tokens_step(key, prompt),
        Step("scores", source_scores, Ref("model"), Ref("tokens"), answer.token),
        Step("faithful", faithfulness, Ref("model"), Ref("tokens"), Ref("scores"), **given),
        Step("faithful_figure", faithfulness_figure, Ref("faithful")),
    ]


def kept(
    key: ModelKey, steps: Sequence[Step], names: Sequence[str], on_progress: Callable[[int], None]
) -> dict[str, Any]:
    """The results of these names, the first of which tells how far it is; from the cache if they were made before."""
    needed = [step for step in steps if not step.name.endswith("_figure")]
    tell = loading.giving_way(key, on_progress)

    def make(model: HookedMamba) -> dict[str, Any]:
        results = run_steps(needed, {"model": model}, {names[0]: {"on_progress": tell}})
        return {name: results[name] for name in names}

    def size(made: Mapping[str, Any]) -> int:
        arrays = [a for record in made.values() for a in vars(record).values() if isinstance(a, np.ndarray)]
        return sum(array.nbytes for array in arrays) + 20_000

    return cast(dict[str, Any], loading.result(key, ("tracing", as_python(needed)), make, size))


def logit_words(chosen: ChosenModel, answer: Answer) -> str:
    """What is read of both prompts, by its tokens."""
    wrong = other_answer(answer)
    of, less = (None if token is None else word(token_text(token, chosen.tokenizer)) for token in (answer.token, wrong))
    return f"the logit of “{of}”" if less is None else f"the logit difference “{of}” − “{less}”"


def in_numbers(exact: PatchGrid, estimate: PatchGrid, chosen: ChosenModel, answer: Answer) -> str:
    """What is read of both prompts, and how well the estimate orders the cells."""
    error = estimate_error(estimate, exact)
    here, there = (f"{value[0]:.3g}".replace("-", "−") for value in (exact.clean, exact.corrupted))
    return (
        f"Read: {markdown(logit_words(chosen, answer))}, {here} in this prompt, {there} in the other. Red: "
        f"a value of this prompt moves the other's answer towards this one's. Rank correlation of estimate and exact: "
        f"{error.rank_correlation[0]:.2f}; the estimate misses {error.missed[0]:.0%} of the changes' size."
    )


def grids_csv(made: Mapping[str, PatchGrid], places: Sequence[str]) -> str:
    """One line per cell: exact change and its estimate, in logits."""
    exact, estimate = made["exact"], made["estimate"]
    lines = [
        [name, place, float(exact.change[0, row, column]), float(estimate.change[0, row, column])]
        for row, name in enumerate(exact.row_names)
        for column, place in enumerate(places)
    ]
    return csv_text(["block", "position", "change", "estimate"], lines)


def curves_csv(record: FaithfulnessRecord) -> str:
    """One line per ranking and share."""
    lines = [
        [ranking_name(ranking), fraction, float(record.deletion[0, row, at]), float(record.insertion[0, row, at])]
        for row, ranking in enumerate(record.rankings)
        for at, fraction in enumerate(record.fractions)
    ]
    return csv_text(["ranking", "share", f"{record.reading}, taken out", f"{record.reading}, put back"], lines)
