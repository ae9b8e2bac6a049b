"""What a page computes as a list of steps, read in two ways: run with what is in memory, and printed as Python.

    Step("record", extract_attention, Ref("model"), Ref("tokens"), block=2)

computes `record` from the results of earlier steps, and is the line `record = extract_attention(model, tokens,
block=2)`. So what is copied from a page computes the page's own numbers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from app.shell.folders import ModelKey, bundled_name, hub_id, tokenizer_folder
from app.shell.prompts import TOKENIZER_FILE, Prompt
from diffmamba_interp import HookedMamba
from diffmamba_interp.lens import LensKind, demo_lens_folder
from diffmamba_interp.models.demo import DEMO_NAMES, demo_folder

LINE_WIDTH = 100
IMPORTED_WHOLE = {"torch": (torch, "import torch"), "np": (np, "import numpy as np")}


@dataclass(frozen=True)
class Ref:
    """The result of an earlier step."""

    name: str


class Step:
    """`name = function(*args, **kwargs)`; without a name, what comes out is thrown away.

    function: of a module or a class, or "model.eval": of the result of an earlier step. Arguments are values that
    Python writes as they are made, paths, `Ref`s, steps without a name, and lists, tuples and dicts of those.
    """

    def __init__(self, name: str, function: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> None:
        self.name, self.function, self.args, self.kwargs = name, function, args, kwargs

    def run(self, results: Mapping[str, Any], /, **unprinted: Any) -> Any:
        function = self.function
        if isinstance(function, str):
            of, _, method = function.partition(".")
            function = getattr(results[of], method)
        args, kwargs = (_filled(given, results) for given in (list(self.args), self.kwargs))
        return function(*args, **kwargs, **unprinted)

    def lines(self, imports: set[str]) -> list[str]:
        function, parts = self.written(imports)
        start = f"{self.name} = {function}" if self.name else function
        line = f"{start}({', '.join(parts)})"
        return [line] if len(line) <= LINE_WIDTH else [f"{start}(", *(f"    {part}," for part in parts), ")"]

    def written(self, imports: set[str]) -> tuple[str, list[str]]:
        """The function and its arguments as Python."""
        function = self.function if isinstance(self.function, str) else _home(self.function, imports)
        parts = [source(value, imports) for value in self.args]
        parts += [f"{name}={source(value, imports)}" for name, value in self.kwargs.items()]
        return function, parts


class Lines:
    """Python that makes `name`, where the page has the same at hand: its run is given it."""

    def __init__(self, name: str, *code: str, imports: Iterable[str] = ()) -> None:
        self.name, self.code, self.imports = name, list(code), imports

    def lines(self, imports: set[str]) -> list[str]:
        imports.update(self.imports)
        return self.code


class Within:
    """Steps that run within what `function(*args)` enters and leaves, as interventions."""

    def __init__(self, function: Callable[..., Any], *args: Any, steps: Sequence[Step]) -> None:
        self.context, self.steps = Step("", function, *args), steps

    def lines(self, imports: set[str]) -> list[str]:
        return [
            f"with {source(self.context, imports)}:",
            *(f"    {line}" for step in self.steps for line in step.lines(imports)),
        ]


Steps = Sequence[Step | Lines | Within]


def run_steps(
    steps: Steps, results: Mapping[str, Any], unprinted: Mapping[str, Mapping[str, Any]] | None = None
) -> dict:
    """All results by name. A step whose result is given is not run; one without a name always is.

    unprinted: keyword arguments of steps, by their names, that save work and change no number.
    """
    known = dict(results)
    for step in steps:
        if isinstance(step, Within):
            with step.context.run(known):
                known |= run_steps(step.steps, known, unprinted)
        elif not step.name or step.name not in known:
            if isinstance(step, Lines):
                raise KeyError(f"{step.name} is printed only, and was not given")
            value = step.run(known, **(unprinted or {}).get(step.name, {}))
            known |= {step.name: value} if step.name else {}
    return known


def as_python(steps: Steps) -> str:
    """A program that computes what `run_steps` does; what is imported stands at its head."""
    imports: set[str] = set()
    lines = [line for step in steps for line in step.lines(imports)]
    return "\n".join([*sorted(imports, key=lambda line: (line.startswith("from"), line)), "", *lines, ""])


def source(value: Any, imports: set[str]) -> str:
    """The value as Python; what that needs is added to `imports`."""
    if isinstance(value, Ref):
        return value.name
    if isinstance(value, Step):
        function, parts = value.written(imports)
        return f"{function}({', '.join(parts)})"
    if isinstance(value, Path):
        return _place(value, imports)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name!r}: {source(part, imports)}" for name, part in value.items()) + "}"
    if type(value) is list:
        return "[" + ", ".join(source(part, imports) for part in value) + "]"
    if type(value) is tuple:
        parts = [source(part, imports) for part in value]
        return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
    if isinstance(value, torch.dtype):
        imports.add("import torch")
    elif is_dataclass(value) and not isinstance(value, type):
        _home(type(value), imports)
    elif callable(value) and hasattr(value, "__qualname__"):
        return _home(value, imports)
    return repr(value)


def model_steps(key: ModelKey, name: str = "model") -> list[Step]:
    """What loads the model; a page's run is given it."""
    settings = {"device": key.device, "dtype": getattr(torch, key.dtype)}
    return [Step(name, HookedMamba.from_pretrained, key.folder, **settings), Step("", f"{name}.eval")]


def tokens_step(key: ModelKey, prompt: Prompt) -> Step:
    return Step("tokens", torch.tensor, [list(prompt.tokens)], device=key.device)


def tokenizer_step(key: ModelKey) -> Step:
    """The model's tokenizer as one of transformers."""
    from transformers import PreTrainedTokenizerFast

    file = tokenizer_folder(key.folder) / TOKENIZER_FILE
    return Step("tokenizer", PreTrainedTokenizerFast, tokenizer_file=Step("", str, file))


def token_text_lines(key: ModelKey) -> Lines:
    """What makes `token_text`, from a token id to its text."""
    file = tokenizer_folder(key.folder) / TOKENIZER_FILE
    if not file.is_file():
        return Lines("token_text", "token_text = str")
    imports = {"from tokenizers import Tokenizer", "from diffmamba_interp.text.tokenizer import text_of_token"}
    where = source(file, imports)
    return Lines(
        "token_text",
        f"tokenizer = Tokenizer.from_file(str({where}))",
        "token_text = lambda token: text_of_token(token, tokenizer)",
        imports=imports,
    )


def _filled(value: Any, results: Mapping[str, Any]) -> Any:
    """The value with results in place of `Ref`s."""
    if isinstance(value, Ref):
        return results[value.name]
    if isinstance(value, Step):
        return value.run(results)
    if isinstance(value, dict):
        return {name: _filled(part, results) for name, part in value.items()}
    # Of named tuples and the like nothing is taken apart.
    return type(value)(_filled(part, results) for part in value) if type(value) in (list, tuple) else value


def _home(value: Any, imports: set[str]) -> str:
    """How Python calls a function or a class, imported from the highest package that gives it out."""
    if value.__module__ == "builtins":
        return value.__qualname__
    called = value.__name__
    for name, (module, line) in IMPORTED_WHOLE.items():
        if getattr(module, called, None) is value:
            imports.add(line)
            return f"{name}.{called}"
    bound_to = getattr(value, "__self__", None)
    top = bound_to if isinstance(bound_to, type) else value
    # A figure may bear another's name: the one by which its module gives it out counts.
    given_out = vars(importlib.import_module(top.__module__)).items()
    name = next(name for name, other in given_out if other is top)
    parts = top.__module__.split(".")
    packages = [".".join(parts[: n + 1]) for n in range(len(parts))]
    home = next(package for package in packages if getattr(importlib.import_module(package), name, None) is top)
    imports.add(f"from {home} import {name}")
    return name if top is value else f"{name}.{called}"


def _place(path: Path, imports: set[str]) -> str:
    """A bundled folder by its function, one of the hub by its id, any other relative to where the explorer runs."""
    model = bundled_name(path)
    if model is not None:
        imports.add("from diffmamba_interp.models.demo import demo_folder")
        return f"demo_folder({model!r})"
    for name, kind in product(DEMO_NAMES, get_args(LensKind)):
        with suppress(FileNotFoundError):
            if path == demo_lens_folder(name, kind):
                imports.add("from diffmamba_interp.lens import demo_lens_folder")
                return f"demo_lens_folder({name!r})" if kind == "tuned" else f"demo_lens_folder({name!r}, {kind!r})"
    bundle = demo_folder(DEMO_NAMES[0]).parent
    if path.is_relative_to(bundle):
        imports.add("from diffmamba_interp.models.demo import DEMO_FOLDER")
        return f"DEMO_FOLDER / {path.relative_to(bundle).as_posix()!r}"
    here = Path.cwd()
    return repr(hub_id(path) or (path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)))
