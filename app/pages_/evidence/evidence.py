"""Evidence: which block carries the answer, by each meaning of that, and what speaks against the subtraction."""

from __future__ import annotations

import streamlit as st

from app.pages_.evidence.accounts import (
    READING,
    SUBTRACTION,
    SWAPPING,
    Account,
    of_reading,
    of_subtraction,
    of_swapping,
    swapping_links,
    verdict,
)
from app.pages_.evidence.against import items
from app.pages_.evidence.shipped import carriers_of_many
from app.shell import state
from app.shell.answers import compared_tokens, label_token, ready_answer
from app.shell.carriers import needle_reading, places_of, swap_grid, swap_rows, swap_steps, without_subtraction
from app.shell.choices import choose_model, choose_prompt, choose_second_model
from app.shell.errors import shown_errors
from app.shell.estimates import agreed
from app.shell.glossary import explained
from app.shell.headlines import draw_headline
from app.shell.links import OF_MANY, Link, draw_links
from app.shell.loading import ChosenModel
from app.shell.prompt_pairs import exchanged_prompt
from app.shell.prompts import Prompt

QUESTIONS = {"carries": "Which block carries it?", "against": "What speaks against it?"}
POINT = "mixer_out"


def page() -> None:
    st.title("Evidence")
    first = choose_model()
    second = choose_second_model(first) if first else None
    prompt = choose_prompt(first) if first else None
    if first is None or prompt is None:
        return
    question = state.selectbox("Question", "question", list(QUESTIONS), "carries", format_func=QUESTIONS.get)
    with shown_errors("Collecting the evidence", "Shorten the prompt."):
        if question == "carries":
            draw_carriers(first, prompt)
        else:
            draw_against([model for model in (first, second) if model], prompt)


def draw_carriers(chosen: ChosenModel, prompt: Prompt) -> None:
    """Each meaning with its answer, once it is computed; what they say together stands above."""
    told = st.container()
    accounts = []
    parts = {SUBTRACTION: by_subtraction, READING: by_reading, SWAPPING: by_swapping}
    for number, (asks, part) in enumerate(parts.items(), start=1):
        st.header(f"{number}. {asks}", anchor=False)
        with shown_errors(asks):
            account = part(chosen, prompt)
            if account is not None:
                accounts.append(account)
                say(account.says)
                if account.links:
                    draw_links(*account.links)
    with told:
        draw_headline(verdict(accounts, len(parts) - len(accounts)))
    st.header("Over many prompts", anchor=False)
    for sentence in carriers_of_many(chosen.name):
        say(sentence)
    from_where_on = Link(label="Lens: from which block on it can be read", page="lens")
    draw_links(*OF_MANY, from_where_on, lead="What one prompt says need not hold for others:")


def by_subtraction(chosen: ChosenModel, prompt: Prompt) -> Account | None:
    if chosen.is_plain:
        return Account(asks=SUBTRACTION, says="Nothing is subtracted in this model.")
    if not at_hand(chosen, prompt, chosen.cfg.n_layers + 2, "subtraction"):
        return None
    answer = ready_answer(chosen, prompt)
    record = without_subtraction(chosen.key, prompt, answer.token, compared_tokens(answer, chosen))
    return of_subtraction(record, answer.text)


def by_reading(chosen: ChosenModel, prompt: Prompt) -> Account | None:
    if not prompt.spans.needle:
        return Account(asks=READING, says="No needle is marked in the prompt: mark one at the side (Mark in it).")
    return of_reading(needle_reading(chosen.key, prompt)) if at_hand(chosen, prompt, 2, "reading") else None


def by_swapping(chosen: ChosenModel, prompt: Prompt) -> Account | None:
    answer = ready_answer(chosen, prompt)
    wrong = label_token(answer.wrong[0], chosen) if answer.wrong else None
    other = exchanged_prompt(prompt, answer.token, wrong)
    if wrong is None or other.tokens == prompt.tokens:
        says = (
            "Needs an answer and a wrong one that stand in the prompt, to exchange: mark them at the side (Mark in it)."
        )
        return Account(asks=SWAPPING, says=says)
    places = places_of(prompt, "spans")
    if not at_hand(chosen, prompt, len(swap_rows(chosen, POINT)) * len(places) + 4, "swapping"):
        return None
    steps = swap_steps(chosen.key, prompt, other, (answer.token, wrong), POINT, places)
    links = swapping_links(chosen, prompt, len(places))
    return of_swapping(swap_grid(chosen.key, steps), list(places), f"“{answer.text}” and “{answer.wrong[0]}”", links)


def at_hand(chosen: ChosenModel, prompt: Prompt, n_passes: int, slot: str) -> bool:
    """Whether it is cheap, or was asked for: else there is a button."""
    return agreed(chosen.key, n_passes * len(prompt.tokens), what=prompt, reduce="Shorten the prompt", slot=slot)


def draw_against(models: list[ChosenModel], prompt: Prompt) -> None:
    n_passes = models[0].cfg.n_layers + 6
    if not at_hand(models[0], prompt, n_passes, "against"):
        return
    for text, link in items(models, prompt):
        say(text)
        draw_links(link)


def say(text: str) -> None:
    st.html(f"<p>{explained(text)}</p>")


page()
