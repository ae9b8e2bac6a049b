"""The interventions page as Python."""

from __future__ import annotations

from app.intervention_request import LENS, Answer, Changes
from app.lens_request import LensRequest
from app.panels.chosen_model import ChosenModel
from app.prompts import Prompt
from app.python_code import imported, lens_call, model_and_tokens, model_imports, token_text_lines


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
