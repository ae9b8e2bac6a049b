"""What interventions did, in words: what was changed, and the numbers at the output before and after."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from app.shell.glossary import WORDS
from app.shell.wording import signed_text
from diffmamba_interp.drawing.labels import probability_change_text, probability_text
from diffmamba_interp.interventions import InterventionRecord
from diffmamba_interp.interventions.records import PROBABILITY

AT_OUTPUT = {
    PROBABILITY: ("Probability of the answer", "of its first token, among all tokens of the vocabulary"),
    "answer_logit": ("Its logit", WORDS["logit"]),
    "label_probability": ("Among the labels", WORDS["among the labels"]),
    "snr_db": ("SNR", WORDS["SNR"]),
}
"""Readings, what the page calls them, and what that means."""

SMALL = 1e-3
"""Smaller changes, of a probability or of a share of a number, get no colour."""

DETAILS = {"branch": "of the {}", "level": "{}", "at": "{}", "point": "{}", "heads": "for heads {}"}
VALUES = {
    "write": "as what the state takes in",
    "input": "with everything that the convolution makes of it",
    "ssm_y": "at its scan's output",
    "gated": "after its gate",
    "resid_pre": "where each block begins",
    "resid_post": "where each block ends",
    "mixer_out": "in what each block writes",
}
"""What else an intervention says, and its values that are names of the library."""

SHARES = (PROBABILITY, "label_probability")

CHANGES = {
    "ScaleLambda": ("λ times {}", "factor"),
    "SetLambda": ("λ set to {}", "value"),
    "AblateBranch": ("{} off", "branch"),
    "SwapBranches": ("minuend and subtrahend exchanged", ""),
    "AblateHead": ("heads {} off", "heads"),
    "KnockOut": ("positions {} taken out", "positions"),
    "AddNoise": ("noise at {} dB", "snr_db"),
}
"""What an intervention does, and the one of its numbers that stands in the words."""


@dataclass(frozen=True, kw_only=True)
class AtOutput:
    """A number that is read at the output, as the page says it. change: None where nothing changed.

    is_small: too little to matter. is_lower: than before.
    """

    name: str
    meaning: str
    value: str
    change: str | None
    is_small: bool = False
    is_lower: bool = False


def at_output(record: InterventionRecord) -> list[AtOutput]:
    """Every number that is read at the output."""
    numbers = []
    for reading, (name, meaning) in AT_OUTPUT.items():
        if reading not in record.clean:
            continue
        before, after = (float(values[reading][0]) for values in (record.clean, record.intervened))
        if reading in SHARES:
            value, change = probability_text(after), probability_change_text(before, after)
        else:
            unit = " dB" if reading == "snr_db" else ""
            value = f"{after:.4g}{unit}".replace("-", "−")
            change = f"{signed_text(after - before)}{unit} from {before:.4g}".replace("-", "−")
        shown = change if after != before else None
        least = SMALL * (1.0 if reading in SHARES else max(abs(before), 1.0))
        how = {"is_small": abs(after - before) < least, "is_lower": after < before}
        numbers.append(AtOutput(name=name, meaning=meaning, value=value, change=shown, **how))
    return numbers


def in_words(change: Mapping[str, object]) -> str:
    """One intervention, as `describe` gives it, on one line."""
    given = {name: said(value) for name, value in change.items() if name != "kind" and value is not None}
    said_of, number = CHANGES.get(str(change["kind"]), ("", ""))
    if not said_of or (number and number not in given):
        return f"{change['kind']}: {', '.join(' '.join(item) for item in given.items())}".removesuffix(": ")
    done = said_of.format(given.pop(number, ""))
    done = re.sub(r"^(head|position)s (\d+ )", r"\1 \2", done)
    blocks = given.pop("blocks", given.pop("block", ""))
    where = f" in block{'' if blocks.isdecimal() else 's'} {blocks}" if blocks else ""
    details = (DETAILS.get(name, f"{name} {{}}").format(VALUES.get(value, value)) for name, value in given.items())
    return ", ".join([done + where, *details])


def said(value: object) -> str:
    if isinstance(value, list):
        if len(value) > 2 and value == [*range(value[0], value[0] + len(value))]:
            return f"{value[0]}–{value[-1]}"
        return ", ".join(map(str, value)) if len(value) <= 16 else f"{value[0]} … {value[-1]} ({len(value)} of them)"
    return f"{value:g}" if isinstance(value, float) else str(value)
