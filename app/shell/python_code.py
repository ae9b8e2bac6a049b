"""Parts of "copy as Python": programs that make what a page shows, with the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.shell.folders import ModelKey, bundled_name, hub_id
from app.shell.prompts import TOKENIZER_FILE, Prompt
from diffmamba_interp.models.demo import DEMO_NAMES

CALL_WIDTH = 100


def model_imports(key: ModelKey) -> list[str]:
    if bundled_name(key.folder) is not None:
        return ["from diffmamba_interp.models.demo import load_demo"]
    return ["from diffmamba_interp import HookedMamba"]


def model_and_tokens(key: ModelKey, prompt: Prompt) -> list[str]:
    """Lines that define `model` (and `tokenizer`, of a bundled one) and `tokens`."""
    return [load_model(key), f"tokens = torch.tensor([{list(prompt.tokens)}], device={key.device!r})"]


def load_model(key: ModelKey) -> str:
    """The line that defines `model`."""
    settings = f"device={key.device!r}, dtype=torch.{key.dtype}"
    bundled = bundled_name(key.folder)
    if bundled is not None:
        return f"model, tokenizer = load_demo({bundled!r}, {settings})"
    return f"model = HookedMamba.from_pretrained({checkpoint_place(key)}, {settings}).eval()"


def checkpoint_place(key: ModelKey) -> str:
    """Where the checkpoint is, as Python: a bundled one, a hub id, or a path."""
    bundled = bundled_name(key.folder)
    if bundled is not None:
        return f"demo_folder({bundled!r})"
    return repr(hub_id(key.folder)) if hub_id(key.folder) else path_text(key.folder)


def token_text_lines(key: ModelKey) -> list[str]:
    """Lines that define `token_text`, from a token id to its text."""
    if bundled_name(key.folder) is not None:
        return ["token_text = lambda token: tokenizer.decode([token])"]
    file = key.folder / TOKENIZER_FILE
    if not file.is_file():
        return ["token_text = str"]
    return [
        "from tokenizers import Tokenizer",
        f"tokenizer = Tokenizer.from_file({path_text(file)})",
        "token_text = lambda token: tokenizer.decode([token], skip_special_tokens=False)",
    ]


def tokenizer_line(key: ModelKey) -> str:
    """The line that makes `tokenizer` one of transformers; a bundled model's is one already."""
    if bundled_name(key.folder) is not None:
        return "# the bundled pair shares one tokenizer"
    return f"tokenizer = PreTrainedTokenizerFast(tokenizer_file={path_text(key.folder / TOKENIZER_FILE)})"


def path_text(folder: Path) -> str:
    """Relative to where the explorer was started, if the folder lies below."""
    here = Path.cwd()
    return repr(folder.relative_to(here).as_posix() if folder.is_relative_to(here) else str(folder))


def lens_call(folder: Path | None) -> str:
    """What makes the lens in a folder for `model`; the logit lens for None. Its first word is to be imported."""
    if folder is None:
        return "LogitLens.from_model(model)"
    # The first page does without lenses, and their library takes seconds to import.
    from diffmamba_interp.lens import demo_lens_folder

    name = next((name for name in DEMO_NAMES if folder == demo_lens_folder(name)), None)
    return f"load_lens({path_text(folder)}, model)" if name is None else f"load_demo_lens({name!r}, model)"


def imported(call: str) -> str:
    """The name that a call of `lens_call` needs."""
    return call.partition("(")[0].partition(".")[0]


def call(function: str, first: Sequence[str], given: Mapping[str, Any]) -> str:
    parts = [*first, *(f"{name}={value!r}" for name, value in given.items())]
    line = f"{function}({', '.join(parts)})"
    if len(line) <= CALL_WIDTH:
        return line
    return f"{function}(\n    " + ",\n    ".join(parts) + ",\n)"
