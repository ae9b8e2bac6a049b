"""What several pages ask for: models, dtype and device, the prompt (in the side bar), and the lens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.shell import loading, state
from app.shell.downloads import draw_text
from app.shell.errors import shown_errors
from app.shell.folders import HUB, ModelKey, is_hub_id
from app.shell.links import ANSWER
from app.shell.loading import ChosenModel
from app.shell.needle_runs import MAX_SAMPLES
from app.shell.prompt_line import draw_prompt
from app.shell.prompts import (
    DEFAULT_TEXT,
    SEPARATOR,
    Prompt,
    default_ids,
    label_doubts,
    markdown,
    marked_answer,
    occurring_marks,
    parse_prompt,
    prompt_of_sample,
    ready_marks,
    token_text,
)

if TYPE_CHECKING:
    from diffmamba_interp.needle import NeedleSample

from app.shell.lens_reading import BUNDLED_LENSES, LOGIT_LENS, LensRequest, bundled_lens, lens_request
from diffmamba_interp import HookedMamba
from diffmamba_interp.lens import load_lens
from diffmamba_interp.text.documents import Bos
from diffmamba_interp.text.tokenizer import bos_tokens

FIRST_CHOICE = "bundled:diff-mamba2"
"""Taken as the first model to show, if it is there."""

SECOND_CHOICES = {"bundled:diff-mamba2": "bundled:mamba2"}
NO_MODEL = "none"
SOURCES = {"text": "typed text", "needle": "generated needle prompt"}
TASKS = {
    "qa1": "qa1: where is a person",
    "qa2": "qa2: where is an object",
    "qa3": "qa3: where was an object before",
    "qa4": "qa4: what lies north of a place",
    "qa5": "qa5: who gave what to whom",
}
LENGTHS = ("0", "256", "512", "1024", "2048", "4096")
MAX_SEED = 99
AGREED_TO_FETCH = "hub_models_agreed"
MARKS = "Mark in it"


def choose_model() -> ChosenModel | None:
    """The model that the side bar names; None, with an error box on the page, if it cannot be read."""
    with shown_errors("Opening the model"):
        root = loading.options().root
        names, _ = loading.found_folders(root)
        default = FIRST_CHOICE if FIRST_CHOICE in names else names[0] if names else ""
        below = f"A bundled model, a checkpoint folder below {root.resolve()}, or `hub:owner/name`"
        with st.sidebar:
            name = state.selectbox("Model", "model", names, default, accept_new_options=True, help=below)
            dtype = state.selectbox("Numbers", "dtype", tuple(loading.DTYPES), "float32")
            device = choose_device()
        if not name:
            raise FileNotFoundError(
                f"no checkpoint folder below the root {root.resolve()}: start the explorer with "
                "`-- --root FOLDER`, or type a folder's name in the side bar."
            )
        return loading.open_model(name, dtype, device) if may_fetch(name, "first") else None
    return None


def may_fetch(name: str, slot: str) -> bool:
    """Whether the model may be asked for: those of the hub after a press only, since a link can name one.

    slot: tells the places of one page apart.
    """
    agreed: set[str] = st.session_state.setdefault(AGREED_TO_FETCH, set())
    if name in agreed or not is_hub_id(name) or not loading.options().hub:
        return True
    st.info("This view asks for a model of the Hugging Face hub. Nothing was sent there yet:")
    st.code(name.removeprefix(HUB), language=None)
    st.button("Ask the hub for it", key=f"fetch_{slot}", type="primary", on_click=agreed.add, args=(name,))
    return False


def choose_second_model(first: ChosenModel) -> ChosenModel | None:
    """A model to show beside the first, in the same dtype; None if none is wanted or it cannot be read."""
    with shown_errors("Opening the second model"):
        names, _ = loading.found_folders(loading.options().root)
        others = [NO_MODEL, *(name for name in names if name != first.name)]
        default = SECOND_CHOICES.get(first.name, NO_MODEL)
        with st.sidebar:
            name = state.selectbox(
                "Beside it", "beside", others, default if default in others else NO_MODEL, accept_new_options=True
            )
            if name == first.name:
                st.warning("This is the first model: name another one, or none.")
        if name in (NO_MODEL, first.name) or not may_fetch(name, "second"):
            return None
        return loading.open_model(name, first.key.dtype, first.key.device)
    return None


def choose_device() -> str:
    """Where the models run; nothing to choose where there is one place only."""
    devices = loading.devices()
    if len(devices) == 1:
        return devices[0]
    return state.selectbox("Runs on", "device", devices, devices[0])


def choose_prompt(chosen: ChosenModel) -> Prompt | None:
    """The prompt in the side bar; None, with an error box on the page, if it is none for this model."""
    with shown_errors("Reading the prompt"):
        with st.sidebar:
            prompt, marks = _typed_ids(chosen) if chosen.tokenizer is None else _text_or_sample(chosen)
            with marks:
                hint = "What should follow; empty: what the model finds most likely"
                answer = state.text_input("Answer", "answer", prompt.answer.strip(), help=hint)
                # Where another answer is marked the known one is wrong.
                labels = (prompt.answer.strip(), *prompt.wrong)
                others = [label for label in labels if label not in ("", answer.strip())]
                hint = "Between semicolons; for the signal-to-noise ratio and the other prompt. May be empty."
                wrong = state.text_input("Wrong answers", "wrong", f"{SEPARATOR} ".join(others), help=hint)
            _doubt_labels(chosen, prompt, answer, wrong)
            st.caption(f"{len(prompt.tokens):,} tokens")
        prompt = marked_answer(prompt, answer, wrong)
        draw_prompt(prompt, "" if chosen.tokenizer else " ")
        return prompt
    return None


def _doubt_labels(chosen: ChosenModel, prompt: Prompt, answer: str, wrong: str) -> None:
    """Warn of what was marked as an answer, right or wrong, and does not stand in the prompt."""
    ids = list(prompt.tokens)
    text = chosen.tokenizer.decode(ids, skip_special_tokens=False) if chosen.tokenizer else " ".join(prompt.strings)
    labels = [answer.strip(), *map(str.strip, wrong.split(SEPARATOR))]
    for label, why in label_doubts(text, labels, (prompt.answer.strip(), *prompt.wrong)):
        st.warning(f"{markdown(repr(label[:60]))} {why}")


def forget_answer() -> None:
    """Another prompt is chosen: what was marked as the answer of the last one is none of it."""
    for key in ANSWER:
        state.forget(key)


FORGETS: dict[str, Any] = {"on_change": forget_answer}


def _typed_ids(chosen: ChosenModel) -> tuple[Prompt, DeltaGenerator]:
    label = "Prompt: token ids, since this model has no tokenizer"
    typed = state.text_area(label, "ids", default_ids(chosen.cfg.d_vocab), height=160)
    return parse_prompt(typed, None, chosen.cfg.d_vocab), st.expander(MARKS)


def _text_or_sample(chosen: ChosenModel) -> tuple[Prompt, DeltaGenerator]:
    source = state.selectbox("Prompt", "source", list(SOURCES), "text", format_func=SOURCES.__getitem__, **FORGETS)
    if source == "needle":
        return _sample(chosen, _choose_bos(chosen)), st.expander(MARKS)
    typed = state.text_area("Text", "prompt", DEFAULT_TEXT, height=160, label_visibility="collapsed")
    bos = _choose_bos(chosen)
    marks = st.expander(MARKS)
    with marks:
        hint = "Texts of the prompt, between semicolons"
        ready_needle, ready_distractors = ready_marks(typed)
        needle = state.text_input("Needle", "needle", ready_needle, help=hint)
        distractors = state.text_input("Distractors", "distractors", ready_distractors)
    needle, no_needle = occurring_marks(typed, needle)
    distractors, no_distractors = occurring_marks(typed, distractors)
    for mark in [*no_needle, *no_distractors]:
        st.warning(f"{markdown(repr(mark[:60]))} does not occur in the prompt, so it is not marked.")
    return parse_prompt(typed, chosen.tokenizer, chosen.cfg.d_vocab, needle, distractors, bos), marks


def _choose_bos(chosen: ChosenModel) -> Bos:
    """Whether the prompt begins as the tokenizer begins a text; asked only where it puts something there."""
    assert chosen.tokenizer is not None
    before = bos_tokens(chosen.tokenizer)
    if not before:
        return "auto"
    names = "".join(token_text(token, chosen.tokenizer) for token in before)
    hint = "The tokenizer puts it before every text"
    return "auto" if state.toggle(f"Begin with {markdown(names)}", "bos", True, help=hint) else "never"


def _sample(chosen: ChosenModel, bos: Bos) -> Prompt:
    """A prompt of the generated retrieval tasks, which the address can name however long it is."""
    assert chosen.tokenizer is not None
    task = state.selectbox("Task", "task", list(TASKS), "qa1", format_func=TASKS.__getitem__, **FORGETS)
    length = state.selectbox("Tokens", "length", LENGTHS, "512", format_func=length_in_words, **FORGETS)
    left, right = st.columns(2)
    with left:
        seed = state.number_input("Seed", "seed", 0, MAX_SEED, 0, **FORGETS)
    with right:
        hint = "Which of the seed's prompts, counted from 0, as on the needle page"
        number = state.number_input("Number", "number", 0, MAX_SAMPLES - 1, 0, help=hint, **FORGETS)
    sample = needle_sample(chosen.key, task, int(length), seed, number, bos)
    draw_text(sample.prompt, "Its text")
    return prompt_of_sample(sample, chosen.tokenizer, chosen.cfg.d_vocab)


def length_in_words(length: str) -> str:
    """A choice of how many tokens the filler makes a prompt have; "0" is the facts as they are."""
    return "no filler" if length == "0" else length


def needle_sample(key: ModelKey, task: str, length: int, seed: int, number: int = 0, bos: Bos = "auto") -> NeedleSample:
    """One of a seed's generated retrieval prompts in the model's tokens.

    Raises ValueError where nothing fits the length.
    """

    def make() -> NeedleSample:
        from transformers import PreTrainedTokenizerFast

        from diffmamba_interp.needle import make_needle_samples

        wrapped = PreTrainedTokenizerFast(tokenizer_object=loading.tokenizer(key))
        return make_needle_samples(wrapped, task=task, n=number + 1, length=length, seed=seed, bos=bos)[number]

    return loading.cache().get(
        ("sample", key.folder, key.revision, task, length, seed, number, bos), make, lambda made: 100 * made.n_tokens
    )


def choose_fitting_lenses(models: list[ChosenModel], key: str) -> list[LensRequest]:
    """The lens that is chosen, for each model; the logit lens, with a note, where a bundled one does not fit.

    Raises as `lens_request`, and ValueError where two models have lenses of different kinds or, once it is read, where
    a lens folder is of another model.
    """
    names = [choose_lens("Lens", key, models[0])]
    names += [lens_of_second(names[0], model) for model in models[1:]]
    requests = [request_for(name, model) for name, model in zip(names, models, strict=True)]
    kinds = sorted({request.name for request in requests})
    if len(kinds) > 1:
        raise ValueError(f"the lenses are of different kinds ({' and '.join(kinds)}): choose lenses of one kind.")
    unfit = [
        model.name
        for name, model, request in zip(names, models, requests, strict=True)
        if name in BUNDLED_LENSES and not fits(model, request)
    ]
    if not unfit:
        return requests
    st.caption(
        f"The {names[0]} of {markdown(', '.join(unfit))} was made for other weights than these: the logit lens reads "
        "instead."
    )
    return [request_for(LOGIT_LENS, model) for model in models]


def request_for(name: str, model: ChosenModel) -> LensRequest:
    return lens_request(name, model.key, first=0, last=0, needs_target=False, target=None)


def fits(model: ChosenModel, request: LensRequest) -> bool:
    """Whether the lens was made for the model's read-out."""

    def make(loaded: HookedMamba) -> bool:
        assert request.lens is not None
        try:
            load_lens(request.lens, loaded)
        except ValueError:
            return False
        return True

    return loading.result(model.key, ("lens fits", request.lens, request.revision), make, lambda _: 100)


def choose_lens(label: str, key: str, model: ChosenModel) -> str:
    """A lens by name; the tuned one that comes with the model, if there is one, unless told otherwise."""
    _, folders = loading.found_folders(loading.options().root)
    bundled = [name for name, kind in BUNDLED_LENSES.items() if bundled_lens(model.key, kind)]
    names = [*bundled, LOGIT_LENS, *folders]
    return state.selectbox(label, key, names, names[0], accept_new_options=True)


def lens_of_second(name: str, second: ChosenModel) -> str:
    """The same lens for the second model; a folder holds the lens of one model only, so another is asked for."""
    if name == LOGIT_LENS or (name in BUNDLED_LENSES and bundled_lens(second.key, BUNDLED_LENSES[name])):
        return name
    return choose_lens("Lens of the second model", "lens_beside", second)


def require_same_vocabulary(first: ChosenModel, second: ChosenModel) -> None:
    """Raise ValueError unless the tokens of one model are those of the other."""
    texts = [None if model.tokenizer is None else model.tokenizer.get_vocab() for model in (first, second)]
    if first.cfg.d_vocab != second.cfg.d_vocab or texts[0] != texts[1]:
        raise ValueError(
            f"{first.name} and {second.name} have different vocabularies ({first.cfg.d_vocab} and "
            f"{second.cfg.d_vocab} tokens, or other texts): choose two models that read the same tokens."
        )
