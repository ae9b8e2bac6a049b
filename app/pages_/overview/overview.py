"""Overview, the start page: what the models are and make of the prompt, questions to go on with, block by block."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from app.pages_.overview.request import FIGURE, block_files, block_rows, next_token_rows, report_steps, subtracts
from app.pages_.overview.story import draw_introduction, quickly_read, story, story_steps
from app.shell import loading
from app.shell.answers import draw_likely
from app.shell.choices import choose_model, choose_prompt, choose_second_model
from app.shell.downloads import draw_downloads
from app.shell.errors import shown_errors
from app.shell.estimates import agreed
from app.shell.figures import draw_figure
from app.shell.glossary import draw_note
from app.shell.headlines import draw_headline
from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt
from app.shell.steps import as_python, run_steps
from app.shell.tables import draw_table
from diffmamba_interp.models.inspection import CheckpointReport

FIGURE_HEIGHT = 300


def page() -> None:
    st.title("Overview")
    first = choose_model()
    second = choose_second_model(first) if first else None
    if first is None:
        return
    prompt = choose_prompt(first)
    models = [model for model in (first, second) if model is not None]
    told = st.container()
    draw_introduction(models)
    with shown_errors("Inspecting the model"):
        reports = {model.name: loading.report(model.key) for model in models}
        for column, model in zip(st.columns(len(models)), models, strict=True):
            with column:
                draw_facts(model, reports[model.name])
        figure = draw_lambdas(reports)
    if prompt is not None:
        with shown_errors("Running the models"):
            draw_next_tokens(models, prompt)
    with shown_errors("Telling what the models make of the prompt"), told:
        draw_headline(story(models, prompt, {model.name: loading.report(model.key) for model in models}))
    with shown_errors("Listing the blocks"):
        for column, report in zip(st.columns(len(models)), reports.values(), strict=False):
            with column:
                draw_blocks(report)
                draw_problems(report)
        shown = [FIGURE] if figure else []
        of_story = story_steps(quickly_read(models, prompt), prompt)
        code = as_python([*report_steps({model.name: model.key for model in models}), *shown, *of_story])
        draw_downloads(block_files(reports, figure), code, name="blocks")
        draw_loaded()


def draw_facts(chosen: ChosenModel, report: CheckpointReport) -> None:
    st.text(chosen.name)
    n_differential = sum(block.kind == "differential" for block in report.blocks)
    facts = {
        "Parameters": f"{report.n_parameters / 1e6:.3f} M",
        "Blocks": str(len(report.blocks)),
        "Differential": str(n_differential),
        "Runs on": f"{chosen.key.device}, {chosen.key.dtype}",
    }
    for column, (name, value) in zip(st.columns([3, 2, 3, 4]), facts.items(), strict=True):
        column.markdown(f":small[{name}]  \n**{value}**")
    with st.expander("Format, scan and conventions"):
        st.text("\n".join([f"Format: {report.format}. Scan: {report.scan}.", *report.conventions]))


def draw_lambdas(reports: dict[str, CheckpointReport]) -> go.Figure | None:
    """Lambda by block, if there is any; None where nothing is subtracted."""
    if not any(map(subtracts, reports.values())):
        st.caption("Every block is a plain mixer: nothing is subtracted here, and there is no λ.")
        return None
    figure = run_steps([FIGURE], {"reports": reports})["figure"]
    if figure.data:
        figure.update_layout(height=FIGURE_HEIGHT, margin={"t": 30, "b": 40})
        draw_figure(figure, "lambda_figure")
    draw_note(
        "λ weighs the subtrahend: difference = minuend − λ · subtrahend. λ = sigmoid + λ_init in the published "
        "Mamba-2 form; a sigmoid within 0.01 of 0 or 1 is saturated (drawn hollow): training hardly moves it."
        + (" A block in which every token has a λ of its own has no point here." if has_gates(reports) else "")
    )
    return figure


def has_gates(reports: dict[str, CheckpointReport]) -> bool:
    return any(
        block.kind == "differential" and block.lambda_ is None for report in reports.values() for block in report.blocks
    )


def draw_blocks(report: CheckpointReport) -> None:
    draw_table(block_rows(report), decimals=4)


def draw_loaded() -> None:
    """Which models are in memory, and how much of the budget is taken."""
    held = [
        f"{key.folder.name} ({key.dtype} on {key.device}, {size / 2**20:.1f} MiB)"
        for key, size in loading.held_models()
    ]
    st.text(
        f"In memory: {', '.join(held) or 'no model'}. Models and results take {loading.cache().used_bytes / 2**20:.1f} "
        f"of {loading.cache().budget_bytes / 2**20:,.0f} MiB."
    )


def draw_problems(report: CheckpointReport) -> None:
    for title, keys in (
        ("missing", report.missing_keys),
        ("unexpected", report.unexpected_keys),
        ("wrongly shaped", report.misshapen_keys),
    ):
        if keys:
            st.error(f"This checkpoint does not load. {title.capitalize()} keys:")
            st.code("\n".join(keys), language=None)


def draw_next_tokens(models: list[ChosenModel], prompt: Prompt) -> None:
    """The likeliest next tokens of every model after the prompt."""
    st.header("What comes next")
    for column, chosen in zip(st.columns(len(models)), models, strict=True):
        with column:
            if max(prompt.tokens) >= chosen.cfg.d_vocab:
                st.caption("This model has a smaller vocabulary.")
            elif agreed(chosen.key, len(prompt.tokens), what=("next", prompt), reduce="Shorten the prompt"):
                draw_likely(next_token_rows(chosen, prompt))


page()
