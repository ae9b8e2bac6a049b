"""Words that explain themselves where the pointer rests on them, and a headline drawn with them."""

from __future__ import annotations

import html
import re

import streamlit as st

WORDS = {
    "minuend": "the branch of a differential block that is kept: the first of its two mixers",
    "subtrahend": "the branch that is subtracted, λ times: the second of its two mixers",
    "λ": "weight of the subtrahend in a block: difference = minuend − λ · subtrahend",
    "saturated": "the sigmoid in λ is within 0.01 of 0 or 1, where training hardly moves it",
    "lens": "reads the stream after a block as if the model ended there: which token would come next?",
    "needle": "the fact in the prompt that the question asks for",
    "distractors": "facts of the prompt of the needle's kind, which the question does not ask for",
    "wrong labels": "the other answers that the task allows",
    "calibrated": "at one temperature for each model and stage, fitted on other prompts: certainty counts for nothing",
    "log-probability": "natural logarithm of a probability, in nats",
    "hidden attention": "the matrix of a scan: what a position takes from each earlier one; signed, not normalised",
    "gates": "what each channel of a scan's output is multiplied with",
    "head": "a part of a scan with a state of its own",
    "SNR": "signal-to-noise ratio: probability of the answer over the mean of the wrong labels, in decibels",
    "dB": "decibels: 10 dB is a factor of ten, 7 dB of five",
    "interval": "95 % interval: over repetitions 19 of 20 such hold the true value",
    "not told apart": "the 95 % interval holds 0, or there are too few prompts",
    "sink share": "how much of what a head reads comes from full stops and line breaks",
    "block": "norm, mixer and residual add: one layer of the model",
    "logit": "score of a token before the softmax",
    "labels": "the answers that the task allows",
    "among the labels": "probability of the answer if one of the labels must follow: they share it among them",
    "corrected": "for the number of stages that are tested, after Holm: p can only get larger",
    "differential": "of two branches, one of which is subtracted from the other",
    "λ_init": "a number for each depth, which is not trained; λ is that and a trained sigmoid",
    "Diff-S6": "one mixer with two scans, subtracted inside it; Diff-Mamba subtracts whole mixers",
    "scan": "the recurrence of a mixer: each position adds to a state, and reads from it",
    "dt ratio": "mean step size dt of a head at full stops and line breaks, over that at other tokens",
    "gather": "how much a head collects of a fact at the fact's last token",
    "aggregate": "how much a head reads of the needle's end at the last position, where the answer is read",
    "needle share": "how much of what a head reads at the last position lies on the needle",
    "negative mass": "how much of what a head reads has a negative weight",
    "redundancy": "how alike a head reads to the other heads of its scan: 1 for the same",
    "output norm": "how much a head adds to the stream",
    "stream": "what the blocks add to, one vector at each position; the next token is read from it",
    "ranking": "an order of the prompt's tokens by how much they are said to matter for the answer",
    "contributions": "what each token brings to a logit by way of a block, with gates and norms held as they were",
}
"""What pages say of them; the glossary of the README has the definitions."""

_BY_LENGTH = sorted(map(re.escape, WORDS), key=len, reverse=True)
_WORD = re.compile(rf"(?<!\w)({'|'.join(_BY_LENGTH)})(?!\w)", re.IGNORECASE)
_BY_LOWER = {word.lower(): meaning for word, meaning in WORDS.items()}


def explained(text: str) -> str:
    """The text as HTML, each word of `WORDS` at its first place with what it means; everything else escaped."""
    parts, at, met = [], 0, set()
    for match in _WORD.finditer(text):
        word = match[1].lower()
        if word in met:
            continue
        met.add(word)
        meaning = html.escape(_BY_LOWER[word])
        parts += [html.escape(text[at : match.start()]), f'<abbr title="{meaning}" tabindex="0">']
        parts += [html.escape(match[0]), "</abbr>"]
        at = match.end()
    return "".join([*parts, html.escape(text[at:])])


def draw_note(text: str) -> None:
    """Below a figure: small, each word of `WORDS` with what it means."""
    st.html(f'<p class="note">{explained(text)}</p>')
