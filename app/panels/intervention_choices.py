"""Sliders and switches of the interventions page: lambda, branches, heads, and tokens that are knocked out."""

from __future__ import annotations

import re
from typing import cast

import streamlit as st

from app import kept_state, loading, view_state
from app.intervention_request import Changes, differential_blocks
from app.panels.chosen_model import ChosenModel
from app.panels.float_slider import float_slider
from app.panels.knocked_tokens import choose_tokens
from app.prompts import Prompt
from diffmamba_interp.hook_names import BRANCHES, Branch
from diffmamba_interp.interventions.knock_out import LEVELS, Level

LEVEL_NAMES = {"write": "what the state takes in", "input": "everything that the convolution makes of it"}
BOTH = "every scan"
CHANGES = re.compile(r"lambda_(factor|\d+)$|heads_off_\d|branches_off$|swapped$|knock_(spans|positions|blocks|branch)$")
"""Keys of the widgets that change something."""

MAX_LAMBDA = 2.0


def choose_changes(chosen: ChosenModel, prompt: Prompt) -> Changes:
    """What the widgets change. Raises ValueError for positions that are none."""
    n_layers, blocks = chosen.cfg.n_layers, differential_blocks(chosen.cfg)
    top = st.container()
    names = ["λ", "Branches", "Heads", "Tokens"] if blocks else ["Heads", "Tokens"]
    tabs = dict(zip(names, st.tabs(names), strict=True))
    given: dict = {}
    if blocks:
        with tabs["λ"]:
            given |= choose_lambdas(chosen, blocks)
        with tabs["Branches"]:
            given |= choose_branches(blocks)
    with tabs["Heads"]:
        given["heads_off"] = choose_heads(chosen)
    with tabs["Tokens"]:
        given["knocked"] = choose_tokens(prompt)
        left, middle, right = st.columns(3)
        with left:
            given["level"] = cast(
                Level, view_state.selectbox("Taken out", "level", list(LEVELS), "write", format_func=LEVEL_NAMES.get)
            )
        with middle:
            given["knock_blocks"] = view_state.range_slider("Of blocks", "knock_blocks", 0, n_layers - 1)
        with right:
            branch = view_state.selectbox("Of", "knock_branch", [BOTH, *(BRANCHES if blocks else ())], BOTH)
            given["knock_branch"] = None if branch == BOTH else cast(Branch, branch)
    top.button("Change nothing", key="reset_changes", on_click=forget_changes)
    return Changes(**given)


def forget_changes() -> None:
    """Every widget of the changes starts at its default again."""
    kept_state.replace_all({key: value for key, value in kept_state.values().items() if not CHANGES.match(key)})


def choose_lambdas(chosen: ChosenModel, blocks: list[int]) -> dict[str, object]:
    """A factor for all blocks, and a value for those that get their own."""
    report = loading.report(chosen.key)
    factor = float_slider("λ of all differential blocks, times", "lambda_factor", 0.0, 2.0, 1.0)
    own: list[tuple[int, float]] = []
    with st.expander("Block by block"):
        columns = st.columns(4)
        for place, block in enumerate(blocks):
            default = round(float(report.blocks[block].lambda_ or 0.0), 2)
            low, high = min(0.0, default), max(MAX_LAMBDA, default)
            with columns[place % 4]:
                value = float_slider(f"λ of block {block}", f"lambda_{block}", low, high, default)
            if value != default:
                own.append((block, value))
    return {"lambda_factor": factor, "lambdas": tuple(own)}


def choose_branches(blocks: list[int]) -> dict[str, object]:
    """Branches that are zero, and blocks whose branches change places."""
    left, right = st.columns([2, 1])
    with left:
        options = [f"{block}.{branch}" for block in blocks for branch in BRANCHES]
        off = view_state.multiselect("Switched off", "branches_off", options, [], format_func=scan_name)
    with right:
        places = [str(block) for block in blocks]
        swapped = view_state.multiselect("Minuend and subtrahend exchanged in block", "swapped", places, [])
    pairs = (name.split(".") for name in off)
    return {
        "branches_off": tuple((int(block), cast(Branch, branch)) for block, branch in pairs),
        "swapped": tuple(sorted(map(int, swapped))),
    }


def choose_heads(chosen: ChosenModel) -> tuple[tuple[int, Branch | None, tuple[int, ...]], ...]:
    """Heads that are zero, of one scan at a time; those of the others are remembered."""
    kinds = {block: chosen.cfg.block_kind(block) for block in range(chosen.cfg.n_layers)}
    scans: dict[str, tuple[int, Branch | None]] = {}
    for block, kind in kinds.items():
        scans |= (
            {f"{block}.{b}": (block, b) for b in BRANCHES} if kind == "differential" else {f"{block}": (block, None)}
        )
    left, right = st.columns([1, 2])
    with left:
        shown = view_state.selectbox("Of", "head_scan", list(scans), next(iter(scans)), format_func=scan_name)
    found = []
    for name, (block, branch) in scans.items():
        numbers = [str(head) for head in range(chosen.cfg.mixer_sizes(kinds[block]).n_heads)]
        key = heads_key(block, branch)
        if name == shown:
            with right:
                heads = view_state.multiselect("Heads switched off", key, numbers, [])
        else:
            heads = [head for head in kept_state.remembered(key, "").split() if head in numbers]
        if heads:
            found.append((block, branch, tuple(sorted(map(int, heads)))))
    others = [f"{scan_name(name)}: {', '.join(map(str, heads))}" for *scan, heads in found
              for name in [".".join(str(part) for part in scan if part is not None)] if name != shown]  # fmt: skip
    if others:
        st.caption(f"Also off: {'; '.join(others)}.")
    return tuple(found)


def heads_key(block: int, branch: Branch | None) -> str:
    return f"heads_off_{block}" if branch is None else f"heads_off_{block}_{branch}"


def scan_name(name: str) -> str:
    block, _, branch = name.partition(".")
    return f"block {block}" + (f", {branch}" if branch else "")
