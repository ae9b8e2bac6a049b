"""What two continuations of a prompt say: their texts, and where they part."""

from __future__ import annotations

from collections.abc import Callable

from app.shell.headlines import NOTHING, Headline
from app.shell.wording import quoted, said
from diffmamba_interp.drawing.labels import token_label
from diffmamba_interp.interventions import Continuations
from diffmamba_interp.text.tokenizer import END_OF_TEXT

TokenText = Callable[[int], str]


def written(record: Continuations, text: TokenText, variant: int) -> str:
    """A variant's own continuation, white space made visible where it is not a space; up to the end of its text."""
    end = end_of_text(record, text, variant)
    joined = "".join(text(int(token)) for token in record.tokens[variant][:end])
    return token_label(joined.strip(), at_most=400).replace("␣", " ")


def end_of_text(record: Continuations, text: TokenText, variant: int) -> int | None:
    """The step at which a variant ends its text; None where it goes on."""
    return next((step for step, token in enumerate(record.tokens[variant]) if text(int(token)) == END_OF_TEXT), None)


def continued_headline(record: Continuations, text: TokenText) -> Headline:
    """How each variant goes on, and where it parts from the first."""
    if not record.names:
        return NOTHING
    says = [f"“{record.names[0]}” goes on with “{written(record, text, 0)}”."]
    for variant, name in enumerate(record.names[1:], start=1):
        step = record.parting[variant]
        if step is None:
            says.append(f"“{name}” writes the same.")
            continue
        first, other = (quoted(text(int(record.tokens[at, step]))) for at in (0, variant))
        before, after = (float(record.probability[at, step]) for at in (0, variant))
        says.append(
            f"“{name}” writes “{written(record, text, variant)}”: they part at step {step}, where {first} falls from "
            f"{said(before)} to {said(after)} and {other} is written."
            if after < before
            else f"“{name}” writes “{written(record, text, variant)}”: they part at step {step}."
        )
    for variant, name in enumerate(record.names):
        if (end := end_of_text(record, text, variant)) is not None:
            says.append(f"At step {end} “{name}” ends its text: what it writes after that begins another one.")
    return Headline(
        says=tuple(says),
        against=(
            "One prompt. After the step at which they part the variants read different texts: compare them on the "
            "first one's, as the curves do.",
        ),
    )
