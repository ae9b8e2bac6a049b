"""The attention page as Python."""

from __future__ import annotations

from app.attention_request import AttentionRequest
from app.loading import ModelKey
from app.prompt_spans import segments
from app.prompts import Prompt
from app.python_code import call, model_and_tokens, model_imports


def attention_code(key: ModelKey, prompt: Prompt, request: AttentionRequest) -> str:
    """What makes the record and its figure; by span, the numbers of each cell too."""
    arguments, figure = request.arguments(len(prompt.tokens)), request.figure_arguments(prompt)
    spans = ["from diffmamba_interp.implicit_attention.spans import Spans"] if "spans" in figure else []
    given = {**arguments, "token_strings": list(prompt.strings)}
    return "\n".join(
        [
            "import torch",
            *model_imports(key),
            "from diffmamba_interp.implicit_attention import extract_attention",
            *spans,
            "",
            *model_and_tokens(key, prompt),
            call("record = extract_attention", ["model", "tokens"], given),
            *_FIGURE_LINES[request.view](prompt, request),
            "",
        ]
    )


def _by_position(prompt: Prompt, request: AttentionRequest) -> list[str]:
    first, last = request.window
    lines = [call("figure = record.figure", [], request.figure_arguments(prompt))]
    if (first, last) != (0, len(prompt.tokens) - 1):
        lines.append(f"figure.update_xaxes(range=[{first - 0.5}, {last + 0.5}])")
    return lines


def _by_span(prompt: Prompt, request: AttentionRequest) -> list[str]:
    cut = segments(prompt.spans, *request.window)
    return [
        f"segments = {cut!r}",
        "rows, arrays = record.rows[0].numpy(), record.to_numpy()",
        "collapsed = {}  # [destination span][source span]: sums over sources, means over destinations",
        "for name in record.pictures:",
        f"    picture = arrays[name][0{', 0' if request.head is not None else ''}]",
        "    by_source = [picture[:, start:end].sum(axis=1) for _, start, end in segments]",
        "    inside = [(rows >= start) & (rows < end) for _, start, end in segments]",
        "    collapsed[name] = [[float(source[chosen].mean()) for source in by_source] for chosen in inside]",
        *_by_position(prompt, request),
    ]


def _every_head(prompt: Prompt, request: AttentionRequest) -> list[str]:
    return ["figures = {head: record.figure(head=head, max_cells=40) for head in record.heads}"]


_FIGURE_LINES = {"positions": _by_position, "spans": _by_span, "heads": _every_head}
