"""The start page's words: what the models are, what they make of the prompt, and questions that open other pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import streamlit as st

from app.shell import estimates
from app.shell.answers import compared_tokens, ready_answer
from app.shell.carriers import subtraction_steps, without_subtraction
from app.shell.change_headlines import subtraction_headline
from app.shell.choices import fits, request_for
from app.shell.estimates import forward_seconds
from app.shell.glossary import explained
from app.shell.headlines import Headline, lens_headline, models_headline
from app.shell.lens_reading import BUNDLED_LENSES, LOGIT_LENS, LensRequest, bundled_lens, trajectory, trajectory_steps
from app.shell.links import Link, asked, draw_links
from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt, token_text
from app.shell.steps import Steps, model_steps
from diffmamba_interp.models.inspection import CheckpointReport

INTRODUCTION = (
    "A model here is a stack of blocks, each of which adds to a stream that the next token is read from. In a plain "
    "block one mixer writes. In a differential block two mixers read the same: the minuend is kept, and the subtrahend "
    "is taken from it λ times: difference = minuend − λ · subtrahend.",
    "The hope is that what both read alike, noise, cancels. Whether it does is asked on these pages, with what speaks "
    "against it.",
)
QUESTIONS = (
    Link(
        label="Where does the answer come in?", page="needle",
        changes={"needle_length": "0", "needle_n": "16"} | asked("needle"),
        why="16 prompts read block by block, both models",
    ),
    Link(
        label="Does the subtraction help?", page="interventions",
        changes={"lambda_factor": "0.0"} | asked("interventions"),
        why="λ set to 0 in every block, on the prompt of the side bar",
    ),
    Link(
        label="Which block carries it?", page="evidence",
        why="three meanings of “carries”, and each one's answer for this prompt",
    ),
    Link(
        label="What speaks against it?", page="evidence", changes={"question": "against"},
        why="a list of it, and where it stands",
    ),
)  # fmt: skip
TRAJECTORIES = ("trajectory", "second_trajectory")
OF_A_PLAIN_MODEL = tuple(link for link in QUESTIONS if link.page != "interventions")


def draw_introduction(models: Sequence[ChosenModel]) -> None:
    st.html("".join(f"<p>{explained(part)}</p>" for part in INTRODUCTION))
    draw_links(*(OF_A_PLAIN_MODEL if models[0].is_plain else QUESTIONS), cards=True)


def story(models: Sequence[ChosenModel], prompt: Prompt | None, reports: Mapping[str, CheckpointReport]) -> Headline:
    """What the models make of the prompt, where that is quickly told; what they are."""
    read = quickly_read(models, prompt)
    told = models_headline(reports)
    if prompt is None or not read:
        return told
    return through_lens(read, prompt) + of_the_subtraction(read[0], prompt) + told


def story_steps(models: Sequence[ChosenModel], prompt: Prompt | None) -> Steps:
    """What computes the story's numbers again; nothing where it is not told."""
    steps: list = []
    if prompt is None or not models:
        return steps
    for request, model, name in zip(requests_of(models, prompt), models, TRAJECTORIES, strict=False):
        steps += [*model_steps(model.key), *trajectory_steps(model.key, prompt, request, name)]
    first = models[0]
    if steps and not first.is_plain:
        answer = ready_answer(first, prompt)
        swept = subtraction_steps(first.key, prompt, answer.token, compared_tokens(answer, first))
        steps += [*model_steps(first.key), *swept]
    return steps


def quickly_read(models: Sequence[ChosenModel], prompt: Prompt | None) -> list[ChosenModel]:
    """The models that know the prompt's tokens; none where all of it would take long."""
    if prompt is None:
        return []
    read = [model for model in models if max(prompt.tokens) < model.cfg.d_vocab]
    seconds = sum(forward_seconds(model.key, len(prompt.tokens) * n_passes(model)) for model in read)
    return read if seconds <= estimates.LONG_S else []


def n_passes(model: ChosenModel) -> int:
    """Forward passes that the story of a model takes."""
    return 2 if model.is_plain else model.cfg.n_layers + 4


def requests_of(models: Sequence[ChosenModel], prompt: Prompt) -> list[LensRequest]:
    """What is asked of each model's lens, of one kind: the last position."""
    last = len(prompt.tokens) - 1
    requests = [lens_of(model) for model in models]
    if len({request.name for request in requests}) > 1:
        requests = [request_for(LOGIT_LENS, model) for model in models]
    return [replace(request, first=last, last=last) for request in requests]


def through_lens(models: Sequence[ChosenModel], prompt: Prompt) -> Headline:
    """From which block on each model has what it says."""
    requests = requests_of(models, prompt)
    pairs = zip(models, requests, strict=True)
    read = {model.name: trajectory(model.key, prompt, request) for model, request in pairs}
    tokenizer = models[0].tokenizer
    answer = ready_answer(models[0], prompt).token if prompt.answer else None
    return lens_headline(read, lambda token: token_text(token, tokenizer), lens=requests[0].name, answer=answer)


def lens_of(model: ChosenModel) -> LensRequest:
    """The lens that comes with the model, if it fits its weights; else the logit lens."""
    name = next((name for name, kind in BUNDLED_LENSES.items() if bundled_lens(model.key, kind)), LOGIT_LENS)
    request = request_for(name, model)
    return request if name == LOGIT_LENS or fits(model, request) else request_for(LOGIT_LENS, model)


def of_the_subtraction(model: ChosenModel, prompt: Prompt) -> Headline:
    """What λ 0 does to the answer, in all blocks and in each; nothing of a plain model."""
    if model.is_plain:
        return Headline(says=())
    answer = ready_answer(model, prompt)
    record = without_subtraction(model.key, prompt, answer.token, compared_tokens(answer, model))
    is_known = prompt.answer and not prompt.is_marked
    return subtraction_headline(record, model.name, "" if is_known else f"“{answer.text}”, {answer.source}")
