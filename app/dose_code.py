"""A sweep of the interventions page as Python."""

from __future__ import annotations

from app.dose_pictures import READINGS
from app.dose_request import DOSE_NAMES, PROBABILITY, DoseRequest
from app.intervention_request import Answer, Changes
from app.panels.chosen_model import ChosenModel
from app.prompts import Prompt
from app.python_code import model_and_tokens, model_imports


def dose_code(
    chosen: ChosenModel, prompt: Prompt, answer: Answer, changes: Changes, request: DoseRequest, *, log: bool
) -> str:
    """What reads the answer at every dose again."""
    others = {group: changes.interventions(chosen.cfg, free=free(request, group)) for group in request.groups}
    swept = "AddNoise" if request.swept == "noise" else "ScaleLambda"
    kinds = {type(one).__name__ for made in others.values() for one in made} | {swept, "AnswerReading", "sweep"}
    labels = f", labels={list(answer.labels)}" if answer.labels else ""
    dose = f"snr_db=dose, seed={request.seed}" if request.swept == "noise" else "factor=dose"
    readings = [name for name in READINGS if name == PROBABILITY or answer.labels]
    return "\n".join(
        [
            "import numpy as np",
            "import torch",
            *model_imports(chosen.key),
            "from diffmamba_interp.figures.interventions import dose_response_figure",
            f"from diffmamba_interp.interventions import {', '.join(sorted(kinds))}",
            "",
            *model_and_tokens(chosen.key, prompt),
            f"reading = AnswerReading(tokens=tokens, answers=[{answer.token}]{labels})",
            "others = {  # what else is changed while these blocks are swept",
            *(f"    {group!r}: {made!r}," for group, made in others.items()),
            "}",
            "",
            "def changed(dose, blocks):",
            f"    return [*others[blocks], {swept}({dose}, blocks=blocks)]",
            "",
            f"record = sweep(reading, model, changed, doses={request.doses!r}, groups={list(request.groups)!r},",
            f"               dose={DOSE_NAMES[request.swept]!r})",
            "for values in (record.clean, record.intervened):",
            f'    values[{PROBABILITY!r}] = np.exp(values["answer_log_probability"])',
            f"figures = {{name: dose_response_figure(record, name, quantity='value') for name in {readings!r}}}",
            *([f"figures[{PROBABILITY!r}].update_yaxes(type='log')"] if log else []),
            "",
        ]
    )


def free(request: DoseRequest, group: tuple[int, ...]) -> tuple[int, ...]:
    """The blocks whose lambda is swept."""
    return group if request.swept == "lambda" else ()
