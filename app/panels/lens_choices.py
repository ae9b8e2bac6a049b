"""What is asked of the lens page: which lens, which statistic, which positions, one model or two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import streamlit as st

from app import loading, view_state
from app.lens_request import BUNDLED_LENS, LOGIT_LENS, STATISTICS, LensRequest, bundled_lens, lens_request
from app.panels.chosen_model import ChosenModel
from app.prompts import Prompt, parse_token
from diffmamba_interp.figures.lens import Statistic

# Positions shown at a time: as many as have room for their text.
WINDOW, NARROW_WINDOW = 16, 8
COMPARE = {"one": "the first model", "beside": "both models side by side", "difference": "model minus baseline"}


@dataclass(frozen=True, kw_only=True)
class LensChoices:
    """compare: of `COMPARE`. requests: one per model that is read. first: position of the first column."""

    compare: str
    statistic: Statistic
    requests: list[tuple[ChosenModel, LensRequest]]

    @property
    def first(self) -> int:
        return self.requests[0][1].first

    @property
    def n_read_outs(self) -> int:
        """How often the whole vocabulary is computed."""
        return sum((r.last - r.first + 1) * (model.cfg.n_layers + 1) for model, r in self.requests)


def choose_reads(models: list[ChosenModel], prompt: Prompt) -> LensChoices:
    """The choices in a line of widgets. Raises ValueError for a prompt or models that do not allow them."""
    columns = st.columns(4)
    with columns[0]:
        names = [choose_lens("Lens", "lens", models[0])]
    with columns[1]:
        statistic = view_state.selectbox(
            "Colour", "colour", list(STATISTICS), "probability", format_func=STATISTICS.__getitem__
        )
    with columns[2]:
        offered = list(COMPARE) if len(models) > 1 else ["one"]
        compare = view_state.selectbox("Models", "compare", offered, "one", format_func=COMPARE.__getitem__)
    needs_target, target = statistic.startswith("target"), None
    with columns[3]:
        if needs_target:
            hint = "Empty: the token that follows in the prompt."
            typed = view_state.text_input("Target token", "target", prompt.answer, help=hint)
            target = parse_token(typed, models[0].tokenizer, models[0].cfg.d_vocab) if typed else None
        if compare != "one":
            require_same_vocabulary(*models)
            names.append(lens_of_second(names[0], models[1]))
    window = NARROW_WINDOW if compare == "beside" else WINDOW
    first, last = choose_window(prompt, window, whole=not needs_target or target is not None)
    requests = [
        (model, lens_request(name, model.key, first=first, last=last, needs_target=needs_target, target=target))
        for name, model in zip(names, models, strict=False)
    ]
    return LensChoices(compare=compare, statistic=cast(Statistic, statistic), requests=requests)


def choose_lens(label: str, key: str, model: ChosenModel) -> str:
    """A lens by name; the tuned one that comes with the model, if there is one, unless told otherwise."""
    _, folders = loading.found_folders(loading.options().root)
    bundled = [BUNDLED_LENS] if bundled_lens(model.key) else []
    names = [*bundled, LOGIT_LENS, *folders]
    return view_state.selectbox(label, key, names, names[0], accept_new_options=True)


def lens_of_second(name: str, second: ChosenModel) -> str:
    """The same lens for the second model; a folder holds the lens of one model only, so another is asked for."""
    if name == LOGIT_LENS or (name == BUNDLED_LENS and bundled_lens(second.key)):
        return name
    return choose_lens("Lens of the second model", "lens_beside", second)


def choose_window(prompt: Prompt, window: int, *, whole: bool) -> tuple[int, int]:
    """First and last position shown; the end of a long prompt unless told otherwise.

    whole: may the last position be among them, which has no next token?
    """
    end = len(prompt.tokens) - (0 if whole else 1)
    if end < 1:
        raise ValueError("a prompt of one token has no next token: give a longer prompt, or a target token.")
    first = 0
    if end > window:
        label = f"First of the {window} positions shown"
        first = view_state.slider(label, "first", 0, end - window, end - window)
    return first, min(first + window, end) - 1


def require_same_vocabulary(first: ChosenModel, second: ChosenModel) -> None:
    """Raise ValueError unless the tokens of one model are those of the other."""
    texts = [None if model.tokenizer is None else model.tokenizer.get_vocab() for model in (first, second)]
    if first.cfg.d_vocab != second.cfg.d_vocab or texts[0] != texts[1]:
        raise ValueError(
            f"{first.name} and {second.name} have different vocabularies ({first.cfg.d_vocab} and "
            f"{second.cfg.d_vocab} tokens, or other texts): choose two models that read the same tokens."
        )
