"""Copy as Python: a program that makes what a page shows, with the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.folders import bundled_name
from app.loading import ModelKey
from app.prompts import TOKENIZER_FILE, Prompt

CALL_WIDTH = 100


def attention_code(
    key: ModelKey, prompt: Prompt, arguments: Mapping[str, Any], figure_arguments: Mapping[str, Any]
) -> str:
    """`arguments`: what `extract_attention` is given beside the model and the tokens; `figure_arguments`: likewise."""
    given = {**arguments, "token_strings": list(prompt.strings)}
    return "\n".join(
        [
            "import torch",
            *_model_imports(key),
            "from diffmamba_interp.implicit_attention import extract_attention",
            "",
            *_model_and_tokens(key, prompt),
            _call("record = extract_attention", ["model", "tokens"], given),
            _call("figure = record.figure", [], figure_arguments),
            "",
        ]
    )


def lens_code(key: ModelKey, prompt: Prompt, lens: Path | None, arguments: Mapping[str, str], statistic: str) -> str:
    """`lens`: folder of a tuned lens, None for the logit lens. `arguments`: of `lens_trajectory`, as Python."""
    if lens is None:
        lens_line, lens_name = "lens = LogitLens.from_model(model)", "LogitLens"
    else:
        lens_line, lens_name = f"lens = load_lens({_path(lens)}, model)", "load_lens"
    given = "".join(f", {name}={value}" for name, value in arguments.items())
    return "\n".join(
        [
            "import torch",
            *_model_imports(key),
            "from diffmamba_interp.figures.lens import lens_heat_map",
            f"from diffmamba_interp.lens import {lens_name}, lens_trajectory",
            "",
            *_model_and_tokens(key, prompt),
            lens_line,
            f"trajectory = lens_trajectory(model, lens, tokens{given})",
            *_token_text(key),
            f"figure = lens_heat_map(trajectory, token_text, statistic={statistic!r})",
            "",
        ]
    )


def _model_imports(key: ModelKey) -> list[str]:
    if bundled_name(key.folder) is not None:
        return ["from diffmamba_interp.models.demo import load_demo"]
    return ["from diffmamba_interp import HookedMamba"]


def _model_and_tokens(key: ModelKey, prompt: Prompt) -> list[str]:
    settings = f"device={key.device!r}, dtype=torch.{key.dtype}"
    bundled = bundled_name(key.folder)
    if bundled is not None:
        model = f"model, tokenizer = load_demo({bundled!r}, {settings})"
    else:
        model = f"model = HookedMamba.from_pretrained({_path(key.folder)}, {settings}).eval()"
    return [model, f"tokens = torch.tensor([{list(prompt.tokens)}], device={key.device!r})"]


def _token_text(key: ModelKey) -> list[str]:
    """Lines that define `token_text`, from a token id to its text."""
    if bundled_name(key.folder) is not None:
        return ["token_text = lambda token: tokenizer.decode([token])"]
    file = key.folder / TOKENIZER_FILE
    if not file.is_file():
        return ["token_text = str"]
    return [
        "from tokenizers import Tokenizer",
        f"tokenizer = Tokenizer.from_file({_path(file)})",
        "token_text = lambda token: tokenizer.decode([token], skip_special_tokens=False)",
    ]


def _path(folder: Path) -> str:
    """Relative to where the explorer was started, if the folder lies below."""
    here = Path.cwd()
    return repr(folder.relative_to(here).as_posix() if folder.is_relative_to(here) else str(folder))


def _call(function: str, first: Sequence[str], given: Mapping[str, Any]) -> str:
    parts = [*first, *(f"{name}={value!r}" for name, value in given.items())]
    line = f"{function}({', '.join(parts)})"
    if len(line) <= CALL_WIDTH:
        return line
    return f"{function}(\n    " + ",\n    ".join(parts) + ",\n)"
