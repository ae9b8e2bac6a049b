"""Prompts: text or token ids as typed, to tokens, their texts, and the spans of needle, question and distractors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Encoding, Tokenizer

from diffmamba_interp.spans import Spans, TokenRange, disjoint_spans, prompt_spans
from diffmamba_interp.text.documents import Bos
from diffmamba_interp.text.tokenizer import bos_tokens, text_of_token

if TYPE_CHECKING:
    from diffmamba_interp.needle import NeedleSample

MAX_CHARACTERS = 200_000
MAX_TOKENS = 16_384
TOKENIZER_FILE = "tokenizer.json"
DEFAULT_TEXT = (
    "<context>John moved to the garden. Mary went to the kitchen. Sandra travelled to the office. John went back to "
    "the hallway. Mary journeyed to the bathroom.</context> Question: Where is John? Answer:"
)
"""A needle prompt in the form of the retrieval tasks (`diffmamba_interp.needle.haystack`)."""

DEFAULT_NEEDLE = "John went back to the hallway."
DEFAULT_OTHER_FACTS = (
    "John moved to the garden.; Mary went to the kitchen.; Sandra travelled to the office.; "
    "Mary journeyed to the bathroom."
)
"""Marked as distractors, which in a prompt are whole facts (`prompt_spans`)."""

DEFAULT_QUESTION, DEFAULT_ANSWER = "Question: Where is John? Answer:", " hallway"
DEFAULT_WRONG = ("garden", "kitchen", "office", "bathroom")
"""The labels that compete with the answer."""

QUESTION = re.compile(r"</context> (Question: .*?) Answer:$", re.DOTALL)
"""How a prompt of the retrieval tasks ends (`diffmamba_interp.needle.haystack`)."""

SEPARATOR = ";"
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&^=])")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Token ids and the text of each (the id itself, in digits, where there is no tokenizer).

    spans: where needle, question and distractors lie. answer: the right continuation, if known, with its space; wrong:
    the labels that compete with it, if known. is_marked: whether the user said another answer than the known one.
    """

    tokens: tuple[int, ...]
    strings: tuple[str, ...]
    # What is computed from the tokens does not hang on these.
    spans: Spans = field(default_factory=Spans, compare=False)
    answer: str = field(default="", compare=False)
    wrong: tuple[str, ...] = field(default=(), compare=False)
    is_marked: bool = field(default=False, compare=False)


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in a model's folder; None if it has none. Nothing else in the folder is read or run."""
    file = folder / TOKENIZER_FILE
    if not file.is_file():
        return None
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:
        raise ValueError(f"{file.name} in {folder.name} is no tokenizer: {error}") from error


def default_ids(d_vocab: int, length: int = 24) -> str:
    """Token ids to start with: one stretch twice, so that something can be recognised."""
    half = [(7 * place + 3) % d_vocab for place in range(length // 2)]
    return " ".join(str(token) for token in half * 2)


def parse_prompt(
    typed: str,
    tokenizer: Tokenizer | None,
    d_vocab: int,
    needle: str = "",
    distractors: str = "",
    bos: Bos = "auto",
) -> Prompt:
    """The prompt that was typed: text if there is a tokenizer, otherwise ids between blanks or commas.

    needle, distractors: texts in it to mark. bos: whether text begins with the tokenizer's beginning-of-text token
    ("auto": its own habit). Raises ValueError, saying which part, for what is empty, too long, no
    number or outside of the vocabulary.
    """
    if len(typed) > MAX_CHARACTERS:
        raise ValueError(f"the prompt has {len(typed):,} characters: give at most {MAX_CHARACTERS:,}.")
    if tokenizer is None:
        return _prompt(_ids_of_digits(typed), None, d_vocab, Spans())
    text, encoded = _encoded(typed, tokenizer)
    before = bos_tokens(tokenizer, bos) if encoded.ids else ()
    offsets = [(0, 0)] * len(before) + encoded.offsets
    prompt = _prompt((*before, *encoded.ids), tokenizer, d_vocab, spans_of_text(text, offsets, needle, distractors))
    if DEFAULT_NEEDLE in text and text.endswith(DEFAULT_QUESTION):
        wrong = tuple(label for label in DEFAULT_WRONG if label in text)
        return replace(prompt, answer=DEFAULT_ANSWER, wrong=wrong)
    return prompt


def prompt_of_sample(sample: NeedleSample, tokenizer: Tokenizer, d_vocab: int) -> Prompt:
    """A generated needle prompt."""
    tokens = tuple(sample.tokens.tolist())
    prompt = _prompt(tokens, tokenizer, d_vocab, prompt_spans(sample))
    return replace(prompt, answer=f" {sample.answer}", wrong=tuple(sample.distractors))


def parse_token(typed: str, tokenizer: Tokenizer | None, d_vocab: int) -> int:
    """The one token that was typed. Raises ValueError for text of none or several, or as `parse_prompt`."""
    tokens = parse_prompt(typed, tokenizer, d_vocab, bos="never").tokens
    if len(tokens) != 1:
        pieces = " ".join(repr(token_text(token, tokenizer)) for token in tokens[:8])
        raise ValueError(f"{typed[:40]!r} is {len(tokens)} tokens ({pieces}): give the text of one token.")
    return tokens[0]


def token_text(token: int, tokenizer: Tokenizer | None) -> str:
    """The text of one token, or its id in digits."""
    return str(token) if tokenizer is None else text_of_token(token, tokenizer)


def _prompt(tokens: tuple[int, ...], tokenizer: Tokenizer | None, d_vocab: int, spans: Spans) -> Prompt:
    if not tokens:
        raise ValueError("the prompt is empty: give at least one token.")
    if len(tokens) > MAX_TOKENS:
        raise ValueError(f"the prompt has {len(tokens):,} tokens: give at most {MAX_TOKENS:,}.")
    for place, token in enumerate(tokens):
        if token >= d_vocab:
            raise ValueError(f"token {place} is {token}, but the model's vocabulary is 0 to {d_vocab - 1}.")
    strings = tuple(token_text(token, tokenizer) for token in tokens)
    return Prompt(tokens=tokens, strings=strings, spans=spans)


def _encoded(typed: str, tokenizer: Tokenizer) -> tuple[str, Encoding]:
    # Half of a surrogate pair can be typed but not encoded.
    text = typed.encode("utf-8", "replace").decode("utf-8")
    return text, tokenizer.encode(text, add_special_tokens=False)


def _ids_of_digits(typed: str) -> tuple[int, ...]:
    parts = [part for part in re.split(r"[\s,;]+", typed) if part]
    for place, part in enumerate(parts):
        if not (part.isascii() and part.isdigit() and len(part) <= 9):
            raise ValueError(
                f"token {place} is {part[:40]!r}, which is no token id. This model's folder has no "
                f"{TOKENIZER_FILE}, so the prompt is token ids: whole numbers between blanks or commas."
            )
    return tuple(int(part) for part in parts)


def spans_of_text(text: str, offsets: Sequence[TokenRange], needle: str, distractors: str) -> Spans:
    """Spans of a typed prompt: the question by the prompt's form, the rest where the given texts occur.

    offsets: characters of each token. needle, distractors: texts between semicolons. A token belongs to the first
    of needle, question and distractors that it overlaps. Raises ValueError for a text that does not occur.
    """
    question = QUESTION.search(text)
    stretches = {
        "needle": list(_occurrences(text, needle)),
        "question": [question.span(1)] if question else [],
        "distractors": list(_occurrences(text, distractors)),
    }
    return disjoint_spans(
        {name: [_tokens_of(stretch, offsets) for stretch in found] for name, found in stretches.items()}
    )


def occurring_marks(text: str, marks: str) -> tuple[str, list[str]]:
    """Of texts between semicolons those that occur, written as they were, and a list of the others."""
    parts = [part for part in (part.strip() for part in marks.split(SEPARATOR)) if part]
    return f"{SEPARATOR} ".join(part for part in parts if part in text), [p for p in parts if p not in text]


def ready_marks(text: str) -> tuple[str, str]:
    """The ready prompt's needle and distractors that an edited text still has; none in a text of its own."""
    (needle, no_needle), (others, no_others) = (
        occurring_marks(text, marks) for marks in (DEFAULT_NEEDLE, DEFAULT_OTHER_FACTS)
    )
    n_facts = 2 + DEFAULT_OTHER_FACTS.count(SEPARATOR)
    return (needle, others) if 2 * len(no_needle + no_others) <= n_facts else ("", "")


def marked_answer(prompt: Prompt, answer: str, wrong: str) -> Prompt:
    """The prompt with the answer and, between semicolons, the wrong answers that were typed; empty: none is known."""
    said = answer.strip()
    labels = tuple(part for part in map(str.strip, wrong.split(SEPARATOR)) if part)
    is_marked = said != prompt.answer.strip()
    return replace(prompt, answer=f" {said}" if said else "", wrong=labels, is_marked=is_marked)


def label_doubts(text: str, labels: Sequence[str], known: Collection[str]) -> list[tuple[str, str]]:
    """Of answers that were typed those that do not stand in the prompt, each with what follows from that.

    text: of the prompt. known: labels that come with it, which need not stand there.
    """
    doubts = []
    for label in labels:
        if not label or label in known or label in text:
            continue
        parts = [part for part in map(str.strip, re.split("[,;]", label)) if part]
        if len(parts) > 1 and any(part in text for part in parts):
            why = f"is read as one answer, by its first token alone: several are separated by semicolons ({SEPARATOR})."
        else:
            why = "does not stand in the prompt: it is asked for, but cannot be exchanged there."
        doubts.append((label, why))
    return doubts


def _occurrences(text: str, wanted: str) -> Iterable[TokenRange]:
    for part in filter(None, (part.strip() for part in wanted.split(SEPARATOR))):
        places = [match.span() for match in re.finditer(re.escape(part), text)]
        if not places:
            raise ValueError(f"{part[:60]!r} does not occur in the prompt: give its text, letter by letter.")
        yield from places


def _tokens_of(stretch: TokenRange, offsets: Sequence[TokenRange]) -> TokenRange:
    """The tokens that overlap a stretch of characters."""
    inside = [place for place, (a, b) in enumerate(offsets) if a < stretch[1] and b > stretch[0]]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def markdown(text: str) -> str:
    """The text with Markdown's letters made harmless, for titles and captions that quote tokens."""
    return _SPECIAL.sub(r"\\\1", text)
