"""The attention page as Python."""

from __future__ import annotations

from app.attention_request import AttentionRequest
from app.loading import ModelKey
from app.prompts import Prompt
from app.python_code import call, model_and_tokens, model_imports


def attention_code(key: ModelKey, prompt: Prompt, request: AttentionRequest) -> str:
    """What makes the record and its figure; by span, the numbers of each cell too."""
    arguments, figure = request.arguments(len(prompt.tokens)), request.figure_arguments(prompt)
    spans = ["from diffmamba_interp.implicit_attention.spans import Spans"] if "spans" in figure else []
    imports, lines = _LINES[request.view]
    given = {**arguments, "token_strings": list(prompt.strings)}
    return "\n".join(
        [
            "import torch",
            *model_imports(key),
            *imports,
            "from diffmamba_interp.implicit_attention import extract_attention",
            *spans,
            "",
            *model_and_tokens(key, prompt),
            call("record = extract_attention", ["model", "tokens"], given),
            *(call(line, first, figure) for line, first in lines),
            "",
        ]
    )


_LINES: dict[str, tuple[list[str], list[tuple[str, list[str]]]]] = {
    "positions": ([], [("figure = record.figure", [])]),
    "spans": (
        [
            "from diffmamba_interp.figures.attention import attention_span_figure",
            "from diffmamba_interp.implicit_attention.segments import collapse_by_span",
        ],
        [("collapsed = collapse_by_span", ["record"]), ("figure = attention_span_figure", ["record"])],
    ),
    "heads": (
        ["from diffmamba_interp.figures.attention_heads import attention_heads_figure"],
        [("figure = attention_heads_figure", ["record"])],
    ),
}
"""Imports and calls of each view, all with the arguments of its figure."""
