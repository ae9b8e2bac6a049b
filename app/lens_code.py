"""The lens page as Python."""

from __future__ import annotations

from app.lens_request import LensRequest
from app.loading import ModelKey
from app.prompts import Prompt
from app.python_code import imported, lens_call, model_and_tokens, model_imports, token_text_lines


def lens_code(
    reads: list[tuple[ModelKey, LensRequest]], prompt: Prompt, statistic: str, compare: str, names: list[str]
) -> str:
    """What makes the trajectories and figures of one model or two, of these names; for "difference" that of both too,
    model and baseline."""
    imports = dict.fromkeys(line for key, _ in reads for line in model_imports(key))
    lenses = dict.fromkeys(imported(lens_call(request.lens)) for _, request in reads)
    lines = [
        "import torch",
        *imports,
        "from diffmamba_interp.figures.lens import lens_heat_map",
        f"from diffmamba_interp.lens import {', '.join([*lenses, 'lens_trajectory'])}",
        "",
    ]
    for number, (key, request) in enumerate(reads):
        lines += _read(key, request, prompt, statistic, "second_" if number else "")
    if compare == "difference":
        lines += [
            "from diffmamba_interp.figures.lens import lens_difference_heat_map",
            f"difference_figure = lens_difference_heat_map("
            f"trajectory, second_trajectory, token_text, statistic={statistic!r}, names={tuple(names)!r})",
            "difference = difference_figure.data[0].z",
        ]
    return "\n".join([*lines, ""])


def _read(key: ModelKey, request: LensRequest, prompt: Prompt, statistic: str, prefix: str) -> list[str]:
    given = "".join(f", {name}={value}" for name, value in request.arguments(prompt).items())
    return [
        *model_and_tokens(key, prompt),
        f"lens = {lens_call(request.lens)}",
        f"{prefix}trajectory = lens_trajectory(model, lens, tokens{given})",
        *token_text_lines(key),
        f"{prefix}figure = lens_heat_map({prefix}trajectory, token_text, statistic={statistic!r})",
    ]
