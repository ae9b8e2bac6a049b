"""Retrieval: accuracy by task and length, and the ratio of two models; as measured, or run here in small."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from app.pages_.retrieval.grid import (
    FIGURES,
    RESULTS,
    GridRequest,
    grid_files,
    measured_steps,
    printed_grid,
    run_grid,
    summary_steps,
)
from app.shell import state
from app.shell.choices import TASKS, choose_model, choose_second_model, length_in_words
from app.shell.downloads import KeptRecord, draw_downloads, keep_record
from app.shell.errors import shown_errors
from app.shell.estimates import require_feasible
from app.shell.figures import LEGEND_BELOW, draw_figure
from app.shell.headlines import draw_headline, retrieval_headline
from app.shell.kept_runs import RetrievalRun
from app.shell.links import Link, draw_links
from app.shell.loading import ChosenModel, baseline_last
from app.shell.steps import as_python, run_steps
from diffmamba_interp.drawing.colours import short_name
from diffmamba_interp.files.json_files import read_json_object
from diffmamba_interp.needle.accuracy_grid import Cell, PromptRow

LIVE = "run here"
TITLES = {
    "paper": "measured: bAbI stories in novels",
    "builtin": "measured: generated stories in generated text",
    LIVE: "run a small grid here",
}
LENGTHS = ("0", "256", "512", "1024", "2048", "4096")
ROWS, REQUEST = "retrieval_rows", "retrieval_request"


def page() -> None:
    st.title("Retrieval")
    first = choose_model()
    second = choose_second_model(first) if first else None
    shipped = [name for name in TITLES if (RESULTS / name / "results.json").is_file()]
    source = state.selectbox(
        "Accuracies", "results", [*shipped, LIVE], (shipped or [LIVE])[0], format_func=TITLES.__getitem__
    )
    if source != LIVE:
        with shown_errors("Reading the results"):
            file = RESULTS / source / "results.json"
            steps = measured_steps(file)
            results = run_steps(steps, {})
            st.caption(in_words(file, len(results["others"])))
            draw(results["cells"], as_python([*steps, *FIGURES]), results["others"])
    elif first is not None:
        with shown_errors("Running the grid"):
            # The ratio is that of the second to the first.
            live(baseline_last([model for model in (first, second) if model])[::-1])


def in_words(file: Path, n_others: int) -> str:
    """What the results were made with, in a sentence. n_others: training seeds beside the first."""
    about = read_json_object(file)["provenance"]
    weights = ", ".join(f"{name} {digest[:12]}…" for name, digest in about["models"].items())
    faint = f"Faint curves: {n_others} other training seed{'' if n_others == 1 else 's'}. " if n_others else ""
    return (
        f"Measured beforehand with the weights {weights}; seed {about['seed']}, on {about['device']}. {faint}"
        "Each length has its own number of prompts: point at a marker."
    )


def live(models: Sequence[ChosenModel]) -> None:
    request = choose_grid()
    if models[0].tokenizer is None or any(m.cfg.d_vocab != models[0].cfg.d_vocab for m in models):
        raise ValueError("the tasks are text: choose models that have a tokenizer, the same one.")
    seconds = request.seconds([model.key for model in models])
    require_feasible(seconds, "Choose fewer prompts, tasks or lengths")
    left, right, words = st.columns([1, 1, 4])
    pressed = left.button("Run", key="run_grid", type="primary", disabled=not request.cells)
    stop = right.empty()
    n_cells = f"{len(request.cells)} cell{'' if len(request.cells) == 1 else 's'}"
    words.caption(f"{n_cells} of {request.n} prompts; about {seconds:.0f} s here.")
    names = [model.name for model in models]
    if pressed:
        # A press while the grid runs makes Streamlit leave this run at its next drawing; the rows stay.
        stop.button("Cancel", key="cancel_grid")
        st.session_state[ROWS], st.session_state[REQUEST] = [], (names, request)
        bar = st.progress(0.0, "Making the prompts")
        run_grid(
            {model.name: model.key for model in models},
            request,
            on_share=bar.progress,
            on_cell=st.session_state[ROWS].extend,
        )
        bar.empty()
        stop.empty()
    if st.session_state.get(ROWS):
        ran_names, ran = st.session_state[REQUEST]
        cells = run_steps(summary_steps(ran_names), {"rows": st.session_state[ROWS]})["cells"]
        if len(cells) < len(ran.cells):
            st.warning(f"Stopped after {len(cells)} of {len(ran.cells)} cells.")
        about = (
            f"{', '.join(ran.tasks)} at {', '.join(map(str, ran.lengths))} tokens, {ran.n} prompts of seed {ran.seed}"
        )
        keep_record(
            KeptRecord(
                title=f"retrieval, {about}", model=" and ".join(ran_names), dtype=models[0].key.dtype,
                device=models[0].key.device, strings=(), record=RetrievalRun(cells=tuple(cells)),
            )
        )  # fmt: skip
        keys = {model.name: model.key for model in models}
        same = (names, request) == (ran_names, ran)
        figures = FIGURES[: len(models)]
        code = as_python([*printed_grid(keys, ran), *figures]) if same else "# press Run again: models or grid changed"
        draw(cells, code)
        draw_prompt_links(st.session_state[ROWS], ran)


def draw_prompt_links(rows: Sequence[PromptRow], request: GridRequest) -> None:
    """What was answered to one prompt, and the pages that open with it; at first one on which the models part."""
    st.header("Go on with one of these prompts", anchor=False)
    by_prompt: dict[tuple[str, int, int], list[PromptRow]] = {}
    for row in rows:
        by_prompt.setdefault((row.task, row.length, row.index), []).append(row)
    cells = {f"{task}, {length_in_words(str(length))}": (task, length) for task, length, _ in by_prompt}
    telling = max(by_prompt, key=lambda at: len({row.is_right for row in by_prompt[at]}))
    left, middle, right = st.columns([2, 1, 4], vertical_alignment="bottom")
    with left:
        ready = next(name for name, cell in cells.items() if cell == telling[:2])
        task, length = cells[state.selectbox("Cell", "grid_cell", list(cells), ready)]
    in_cell = [at[2] for at in by_prompt if at[:2] == (task, length)]
    with middle:
        number = state.number_input(
            "Prompt", "grid_prompt", 0, max(in_cell), telling[2] if telling[:2] == (task, length) else 0
        )
    answers = by_prompt[task, length, number]
    said = "; ".join(
        f"{short_name(row.model)} finds {row.predicted} likeliest{'' if row.is_right else ', which is wrong'}"
        for row in answers
    )
    right.caption(f"Answer: {answers[0].answer}. {said}.")
    of_prompt = {"source": "needle", "task": task, "length": str(length), "seed": str(request.seed),
                 "number": str(number)}  # fmt: skip
    needle = {f"needle_{name}": of_prompt[name] for name in ("task", "length", "seed")}
    needle |= {"needle_n": str(max(request.n, number + 1)), "needle_prompt": str(number)}
    pages = {"needle": needle, **{page: of_prompt for page in ("attention", "lens", "graph", "interventions")}}
    draw_links(*(Link(label=page.capitalize(), page=page, changes=changes) for page, changes in pages.items()))


def choose_grid() -> GridRequest:
    columns = st.columns([3, 3, 1, 1])
    with columns[0]:
        tasks = state.multiselect("Tasks", "tasks", list(TASKS), ["qa1", "qa2"], format_func=TASKS.__getitem__)
    with columns[1]:
        lengths = state.multiselect("Lengths, tokens", "lengths", LENGTHS, ["0", "256"], format_func=length_in_words)
    with columns[2]:
        n = state.number_input("Prompts", "n", 1, 200, 10)
    with columns[3]:
        seed = state.number_input("Seed", "grid_seed", 0, 99, 0)
    return GridRequest(tasks=tuple(tasks), lengths=tuple(int(length) for length in lengths), n=n, seed=seed)


def draw(cells: Sequence[Cell], code: str, others: Sequence[Sequence[Cell]] = ()) -> None:
    """Curves, the ratio where there are two models, and the files; `others`: the cells of other training seeds."""
    draw_headline(retrieval_headline(cells))
    results = run_steps(FIGURES[: len(cells[0].models)], {"cells": cells, "others": others})
    figures = {"accuracy": results["figure"]}
    figures["accuracy"].update_layout(height=380, margin={"t": 66, "b": 10, "l": 70}, legend=LEGEND_BELOW)
    figures["accuracy"].update_xaxes(title_text="tokens")
    draw_figure(figures["accuracy"], "accuracy_figure")
    tasks = sorted({cell.task for cell in cells})
    st.caption(
        "Share of prompts whose most probable label is the answer; bands: 95 % Wilson intervals. 0k: no "
        f"filler; 1k: 1,024 tokens. {'; '.join(TASKS.get(task, task) for task in tasks)}."
    )
    if len(cells[0].models) == 2:
        figures["ratio"] = results["ratio"]
        figures["ratio"].update_layout(height=300, margin={"t": 30, "b": 10})
        draw_figure(figures["ratio"], "ratio_figure")
        names = " over ".join(short_name(model.model) for model in reversed(cells[0].models))
        of_seed = ", of the first training seed" if others else ""
        st.caption(f"Accuracy of {names}{of_seed}. * the paired 95 % interval of their difference excludes zero.")
    every = [cell for grid in (cells, *others) for cell in grid]
    draw_downloads(grid_files(figures, every), code, name="retrieval")


page()
