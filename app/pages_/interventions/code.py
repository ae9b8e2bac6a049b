"""The interventions page as Python."""

from __future__ import annotations

from app.pages_.interventions.pictures import DOSE_READINGS
from app.pages_.interventions.request import DOSE_NAMES, LENS, PROBABILITY, Answer, Changes, DoseRequest
from app.shell.lens_reading import LensRequest
from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt
from app.shell.python_code import imported, lens_call, model_and_tokens, model_imports, token_text_lines


def intervention_code(
    chosen: ChosenModel, prompt: Prompt, answer: Answer, lens: LensRequest, changes: Changes, statistic: str
) -> str:
    """What reads the answer and the lens again, clean and changed."""
    key, made = chosen.key, changes.interventions(chosen.cfg)
    kinds = sorted({type(one).__name__ for one in made} | {"AnswerReading", "compare", "intervene"})
    lens_made = lens_call(lens.lens)
    given = "".join(f", {name}={value}" for name, value in lens.arguments(prompt).items())
    labels = f"labels={list(answer.labels)}, " if answer.labels else ""
    return "\n".join(
        [
            "import numpy as np",
            "import torch",
            *model_imports(key),
            "from diffmamba_interp.figures.lens import lens_heat_map",
            f"from diffmamba_interp.interventions import {', '.join(kinds)}",
            f"from diffmamba_interp.lens import {imported(lens_made)}, lens_trajectory",
            "",
            *model_and_tokens(key, prompt),
            f"lens = {lens_made}",
            *(["changes = [", *(f"    {one!r}," for one in made), "]"] if made else ["changes = []"]),
            f"reading = AnswerReading(tokens=tokens, answers=[{answer.token}], {labels}lenses={{{LENS!r}: lens}})",
            "record = compare(reading, model, changes)",
            "probabilities = {  # by stage: every block's input, and the output",
            f'    when: np.exp([*values["{LENS}.answer_log_probability"][0], values["answer_log_probability"][0]])',
            "    for when, values in (('before', record.clean), ('after', record.intervened))",
            "}",
            f"before = lens_trajectory(model, lens, tokens{given})",
            "with intervene(model, changes):",
            f"    after = lens_trajectory(model, lens, tokens{given})",
            *token_text_lines(key),
            f"figure = lens_heat_map(before, token_text, statistic={statistic!r})",
            f"second_figure = lens_heat_map(after, token_text, statistic={statistic!r})",
            "difference = second_figure.data[0].z - figure.data[0].z",
            "",
        ]
    )


def dose_code(
    chosen: ChosenModel, prompt: Prompt, answer: Answer, changes: Changes, request: DoseRequest, *, log: bool
) -> str:
    """What reads the answer at every dose again."""
    others = {group: changes.interventions(chosen.cfg, free=free(request, group)) for group in request.groups}
    swept = "AddNoise" if request.swept == "noise" else "ScaleLambda"
    kinds = {type(one).__name__ for made in others.values() for one in made} | {swept, "AnswerReading", "sweep"}
    labels = f", labels={list(answer.labels)}" if answer.labels else ""
    dose = f"snr_db=dose, seed={request.seed}" if request.swept == "noise" else "factor=dose"
    readings = [name for name in DOSE_READINGS if name == PROBABILITY or answer.labels]
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
