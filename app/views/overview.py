"""Overview: what is loaded, block by block."""

from __future__ import annotations

import streamlit as st

from app import loading
from app.panels.chosen_model import ChosenModel, choose_model
from app.panels.errors import shown_errors
from diffmamba_interp.models.inspection import BlockReport, CheckpointReport

SIGMOID = {True: "saturated", False: "open", None: ""}


def page() -> None:
    st.header("Overview")
    chosen = choose_model()
    if chosen is None:
        return
    with shown_errors("Inspecting the model"):
        report = loading.report(chosen.key)
        draw_facts(chosen, report)
        draw_blocks(report)
        draw_problems(report)


def draw_facts(chosen: ChosenModel, report: CheckpointReport) -> None:
    st.subheader("Model")
    st.code(chosen.name, language=None)
    n_differential = sum(block.kind == "differential" for block in report.blocks)
    facts = {
        "Parameters": f"{report.n_parameters:,}",
        "Blocks": str(len(report.blocks)),
        "Differential": str(n_differential),
        "Device": chosen.key.device,
        "Numbers": chosen.key.dtype,
    }
    for column, (name, value) in zip(st.columns(len(facts)), facts.items(), strict=True):
        column.metric(name, value)
    st.text("\n".join([f"Format: {report.format}. Scan: {report.scan}.", *report.conventions]))


def draw_blocks(report: CheckpointReport) -> None:
    st.subheader("Blocks")
    st.dataframe([block_row(block) for block in report.blocks], hide_index=True, width="stretch")
    st.caption(
        "λ weighs the subtrahend: difference = minuend − λ · subtrahend. λ = sigmoid + λ_init in the published "
        "Mamba-2 form; a sigmoid within 0.01 of 0 or 1 is marked as saturated: training hardly moves it."
    )


def block_row(block: BlockReport) -> dict[str, int | str | float | None]:
    return {
        "block": block.index,
        "kind": block.kind,
        "parameters": block.n_parameters,
        "λ": None if block.lambda_ is None else round(block.lambda_, 4),
        "λ_init": None if block.lambda_init is None else round(block.lambda_init, 4),
        "sigmoid": SIGMOID[block.saturated],
    }


def draw_problems(report: CheckpointReport) -> None:
    for title, keys in (
        ("missing", report.missing_keys),
        ("unexpected", report.unexpected_keys),
        ("wrongly shaped", report.misshapen_keys),
    ):
        if keys:
            st.error(f"This checkpoint does not load. {title.capitalize()} keys:")
            st.code("\n".join(keys), language=None)


page()
