"""What is continued on the playground: made from the widgets, as steps, and files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from app.shell import loading
from app.shell.downloads import Download, csv_file, html_file, npz_file
from app.shell.folders import ModelKey
from app.shell.prompts import Prompt
from app.shell.steps import Ref, Step, Steps, as_python, run_steps, token_text_lines, tokens_step
from app.shell.tables import Cell
from diffmamba_interp.drawing.labels import token_label
from diffmamba_interp.figures.continuations import continuations_csv, continuations_figure
from diffmamba_interp.files.archives import arrays_to_bytes
from diffmamba_interp.interventions import Continuations, Intervention, ScaleLambda, continuations

AS_IT_IS = "as it is"
TOP_K = 10


@dataclass(frozen=True, kw_only=True)
class PlaygroundRequest:
    """factor: of lambda in `blocks` (None: all that have one) of the changed model; None for a model without any.
    n_steps: tokens to write. temperature, seed: of drawing them; 0 takes the likeliest."""

    n_steps: int
    factor: float | None = None
    blocks: tuple[int, ...] | None = None
    temperature: float = 0.0
    seed: int = 0

    @property
    def variants(self) -> dict[str, list[Intervention]]:
        """Interventions by name."""
        if self.factor is None:
            return {AS_IT_IS: []}
        where = {} if self.blocks is None else {"blocks": self.blocks}
        name = "without the subtraction" if self.factor == 0 and self.blocks is None else f"λ times {self.factor:g}"
        if self.blocks is not None:
            name += f" in block {', '.join(map(str, self.blocks))}"
        return {AS_IT_IS: [], name: [ScaleLambda(factor=self.factor, **where)]}

    @property
    def passes(self) -> int:
        """Forward passes over the prompt."""
        return 2 * len(self.variants) - 1


def continued_steps(key: ModelKey, prompt: Prompt, request: PlaygroundRequest) -> list[Step]:
    drawn = {"temperature": request.temperature, "seed": request.seed} if request.temperature else {}
    variants: dict[str, list[Intervention]] = request.variants
    made = Step(
        "continued", continuations, Ref("model"), Ref("tokens"), variants, request.n_steps, top_k=TOP_K, **drawn
    )
    return [tokens_step(key, prompt), made]


def figure_steps() -> list[Step]:
    return [Step("figure", continuations_figure, Ref("continued"), Ref("token_text"))]


def printed_steps(key: ModelKey, prompt: Prompt, request: PlaygroundRequest) -> Steps:
    return [*continued_steps(key, prompt, request), token_text_lines(key), *figure_steps()]


def continued(key: ModelKey, prompt: Prompt, request: PlaygroundRequest) -> Continuations:
    """The continuations, from the cache if they were made before."""
    steps = continued_steps(key, prompt, request)
    return loading.result(
        key, as_python(steps), lambda model: run_steps(steps, {"model": model})["continued"], lambda _: 50_000
    )


def likely_table(
    record: Continuations, text: Callable[[int], str], variant: int, step: int, *, followed: bool
) -> list[dict[str, Cell]]:
    """The likeliest tokens of a step, of the variant's own text or while it reads the first one's."""
    tokens, probabilities = (
        (record.followed_tokens, record.followed_probabilities)
        if followed
        else (record.top_tokens, record.top_probabilities)
    )
    pairs = zip(tokens[variant, step], probabilities[variant, step], strict=True)
    return [
        {"rank": rank, "token": token_label(text(int(token))), "probability": float(probability)}
        for rank, (token, probability) in enumerate(pairs, start=1)
    ]


def continued_files(record: Continuations, figure: go.Figure, text: Callable[[int], str]) -> list[Download]:
    names = ("tokens", "top_tokens", "top_probabilities", "followed_tokens", "followed_probabilities", "probability")
    return [
        html_file(figure),
        csv_file(lambda: continuations_csv(record, text)),
        npz_file(lambda: arrays_to_bytes({n: getattr(record, n) for n in names} | {"names": np.array(record.names)})),
    ]
