"""What the interventions page asks: the answer that is read, and what is changed: lambda, branches, heads, tokens."""

from __future__ import annotations

import re
from typing import cast

import streamlit as st

from app.pages_.interventions.request import POINTS, SWEPT, Answer, Changes, differential_blocks
from app.shell import address, loading, state
from app.shell.answers import compared_tokens, label_tokens, ready_answer
from app.shell.choices import MARKS
from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt, markdown, token_text
from app.shell.state import float_slider
from app.shell.wording import quoted
from diffmamba_interp.hook_names import BRANCHES, Branch
from diffmamba_interp.interventions.knock_out import LEVELS
from diffmamba_interp.spans import SPAN_CLASSES

LEVEL_NAMES = {"write": "what the state takes in", "input": "everything that the convolution makes of it"}
BOTH = "every scan"
CHANGES = re.compile(
    r"lambda_(factor|\d+(_set)?)$|heads_off_\d|branches_off$|swapped$|knock_(spans|positions|blocks|branch)$"
)
"""Keys of the widgets that change something."""

TABS = {"lambda": "λ", "branches": "Branches", "swapped": "Branches", "heads": "Heads", "knock": "Tokens"}
"""By how those keys begin."""

OPEN_TAB = "open_tab"
MAX_LAMBDA = 2.0
EACH_TOKEN = "Every token has a λ of its own here; switched on, one number takes the place of all of them"


def choose_changes(chosen: ChosenModel, prompt: Prompt) -> Changes:
    """What the widgets change. Raises ValueError for positions that are none."""
    n_layers, blocks = chosen.cfg.n_layers, differential_blocks(chosen.cfg)
    top = st.container()
    names = ["λ", "Branches", "Heads", "Tokens"] if blocks else ["Heads", "Tokens"]
    if address.is_opened() or st.session_state.get(OPEN_TAB) not in names:
        changed = {TABS[key.partition("_")[0]] for key in state.values() if CHANGES.match(key)}
        st.session_state[OPEN_TAB] = next((name for name in names if name in changed), names[0])
    tabs = dict(zip(names, st.tabs(names, default=st.session_state[OPEN_TAB]), strict=True))
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
            given["level"] = state.selectbox("Taken out", "level", list(LEVELS), "write", format_func=LEVEL_NAMES.get)
        with middle:
            given["knock_blocks"] = state.range_slider("Of blocks", "knock_blocks", 0, n_layers - 1)
        with right:
            branch = state.selectbox("Of", "knock_branch", [BOTH, *(BRANCHES if blocks else ())], BOTH)
            given["knock_branch"] = None if branch == BOTH else cast(Branch, branch)
    top.button("Reset", key="reset_changes", on_click=forget_changes)
    return Changes(**given)


def forget_changes() -> None:
    """Every widget of the changes starts at its default again."""
    state.replace_all({key: value for key, value in state.values().items() if not CHANGES.match(key)})


def draw_set_aside() -> None:
    """That a link, which opened the page, has undone what was set on it before; a button sets all of it so again."""
    aside = address.set_aside()
    words = "; ".join(dict.fromkeys(filter(None, (set_words(key, value) for key, value in sorted(aside.items())))))
    if words:
        st.info(f"The link that you followed has set aside what was changed here: {markdown(words)}.")
        st.button("Change it so again", key="take_up", on_click=address.take_up, args=(aside,))


def set_words(key: str, value: str) -> str:
    """What a widget of the changes says; empty for one that another one's words tell of."""
    kind, _, place = key.partition("_")
    match kind:
        case "lambda":
            if place.endswith("set"):
                return ""
            return f"λ of all blocks times {value}" if place == "factor" else f"λ of block {place} at {value}"
        case "heads":
            heads = ", ".join(value.split())
            return f"heads off in {scan_name(place.removeprefix('off_').replace('_', '.'))}: {heads}"
        case "branches":
            return f"branches off: {'; '.join(map(scan_name, value.split()))}"
        case "swapped":
            return f"branches exchanged in block {', '.join(value.split())}"
        case "patched":
            return f"patched: {POINTS.get(value, value)}"
        case "swept" if not place:
            return f"swept: {SWEPT.get(value, value)}"
        case "faithful":
            return "tokens taken out in the order of each ranking"
    return "tokens taken out" if place in ("spans", "positions") else ""


def choose_lambdas(chosen: ChosenModel, blocks: list[int]) -> dict[str, object]:
    """A factor for all blocks, and a value for those that get their own; where every token has a lambda of its own, one
    number takes their place only when it is asked for."""
    report = loading.report(chosen.key)
    factor = float_slider("λ of all differential blocks, times", "lambda_factor", 0.0, 2.0, 1.0)
    by_block: list[tuple[int, float]] = []
    with st.expander("Block by block"):
        columns = st.columns(4)
        for place, block in enumerate(blocks):
            given = report.blocks[block].lambda_
            default = round(float(given or 0.0), 2)
            low, high = min(0.0, default), max(MAX_LAMBDA, default)
            with columns[place % 4]:
                label, key = f"λ of block {block}", f"lambda_{block}"
                if given is None and not state.toggle(f"One {label}", f"{key}_set", help=EACH_TOKEN):
                    continue
                value = float_slider(label, key, low, high, default)
            if given is None or value != default:
                by_block.append((block, value))
    return {"lambda_factor": factor, "lambdas": tuple(by_block)}


def choose_branches(blocks: list[int]) -> dict[str, object]:
    """Branches that are zero, and blocks whose branches change places."""
    left, right = st.columns([2, 1])
    with left:
        options = [f"{block}.{branch}" for block in blocks for branch in BRANCHES]
        off = state.multiselect("Switched off", "branches_off", options, [], format_func=scan_name)
    with right:
        places = [str(block) for block in blocks]
        swapped = state.multiselect("Minuend and subtrahend exchanged in block", "swapped", places, [])
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
        shown = state.selectbox("Of", "head_scan", list(scans), next(iter(scans)), format_func=scan_name)
    heads_off = []
    for name, (block, branch) in scans.items():
        numbers = [str(head) for head in range(chosen.cfg.mixer_sizes(kinds[block]).n_heads)]
        key = heads_key(block, branch)
        if name == shown:
            with right:
                heads = state.multiselect("Heads switched off", key, numbers, [])
        else:
            heads = [head for head in state.remembered(key, "").split() if head in numbers]
        if heads:
            heads_off.append((block, branch, tuple(sorted(map(int, heads)))))
    others = [f"{scan_name(name)}: {', '.join(map(str, heads))}" for *scan, heads in heads_off
              for name in [".".join(str(part) for part in scan if part is not None)] if name != shown]  # fmt: skip
    if others:
        st.caption(f"Also off: {'; '.join(others)}.")
    return tuple(heads_off)


def heads_key(block: int, branch: Branch | None) -> str:
    return f"heads_off_{block}" if branch is None else f"heads_off_{block}_{branch}"


def scan_name(name: str) -> str:
    block, _, branch = name.partition(".")
    return f"block {block}" + (f", {branch}" if branch else "")


def choose_tokens(prompt: Prompt) -> tuple[int, ...]:
    """Positions that are knocked out, by span and one by one."""
    left, right = st.columns(2)
    with left:
        spans = [name for name in SPAN_CLASSES if getattr(prompt.spans, name)]
        names = state.multiselect("Knocked out: every token of", "knock_spans", spans, [], disabled=not spans)
    with right:
        hint = f"Such as 3 5-8; the prompt has positions 0 to {len(prompt.tokens) - 1}"
        typed = state.text_input("And the positions", "knock_positions", "", help=hint)
    places = {place for name in names for start, end in getattr(prompt.spans, name) for place in range(start, end)}
    return tuple(sorted(places | parse_positions(typed, len(prompt.tokens))))


def parse_positions(typed: str, n_pos: int) -> set[int]:
    """Numbers and ranges, both ends included, between blanks or commas. Raises ValueError for anything else."""
    positions: set[int] = set()
    for part in filter(None, re.split(r"[\s,;]+", typed)):
        ends = part.split("-") if re.fullmatch(r"[0-9]{1,6}(-[0-9]{1,6})?", part) else []
        if not ends or int(ends[0]) > int(ends[-1]) or int(ends[-1]) >= n_pos:
            raise ValueError(
                f"{part[:40]!r} is no position: give numbers or ranges such as 5-8, from 0 to {n_pos - 1}."
            )
        positions.update(range(int(ends[0]), int(ends[-1]) + 1))
    return positions


def read_answer(chosen: ChosenModel, prompt: Prompt) -> Answer:
    """The answer and the wrong labels of the side bar, in words too. Raises ValueError for an answer that is none."""
    ready = ready_answer(chosen, prompt)
    token = ready.token
    labels = compared_tokens(ready, chosen)
    told = f"Asked for: {markdown(quoted(ready.text))}, {ready.source} ({MARKS}, at the side, takes another)."
    if chosen.tokenizer and prompt.is_marked and len(label_tokens(ready.text, chosen)) > 1:
        told += f" It is read by its first token, {markdown(quoted(token_text(token, chosen.tokenizer)))}."
    if max(len(labels), 1) <= len(ready.wrong):
        told += " Wrong answers that begin with the first token of another label are left out."
    st.caption(told)
    return Answer(token=token, labels=labels)
