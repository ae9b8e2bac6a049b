"""Which block carries an answer, by three meanings of "carries", each of one prompt: steps, and what came out.

subtraction     the answer with λ 0 in all differential blocks, then in each of them on its own
reading         what every head reads of the needle at the last position
swapping        values of the prompt put into another prompt, which has another answer
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch

from app.shell import loading
from app.shell.folders import ModelKey
from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt
from app.shell.steps import Ref, Step, as_python, run_steps, tokens_step
from diffmamba_interp import HookedMamba
from diffmamba_interp.drawing.labels import token_label
from diffmamba_interp.figures.heads import RankedHead
from diffmamba_interp.implicit_attention import HeadScores, needle_share
from diffmamba_interp.interventions import AnswerReading, PatchGrid, ScaleLambda, SweepRecord, patch_grid, sweep
from diffmamba_interp.interventions.compare import dosed
from diffmamba_interp.interventions.records import with_probability
from diffmamba_interp.spans import SPAN_CLASSES


def subtraction_steps(key: ModelKey, prompt: Prompt, answer: int, labels: Sequence[int]) -> list[Step]:
    """The answer without the subtraction: in all differential blocks, then in each of them on its own. labels: of its
    ratio to the wrong ones, the answer's among them; empty where there are none. The same on every page, which then
    share the sweep."""
    cfg = loading.config(key)
    blocks = [block for block in range(cfg.n_layers) if cfg.block_kind(block) == "differential"]
    groups = [tuple(blocks), *((block,) for block in blocks)]
    compared: dict[str, Any] = {"labels": list(labels)} if labels else {}
    return [
        tokens_step(key, prompt),
        Step("reading", AnswerReading, tokens=Ref("tokens"), answers=[answer], **compared),
        Step("without", dosed, ScaleLambda, "factor"),
        Step("swept", sweep, Ref("reading"), Ref("model"), Ref("without"), doses=(0.0,), groups=groups),
        Step("record", with_probability, Ref("swept")),
    ]


def without_subtraction(key: ModelKey, prompt: Prompt, answer: int, labels: Sequence[int]) -> SweepRecord:
    return cast(SweepRecord, _kept(key, subtraction_steps(key, prompt, answer, labels), "record", "swept"))


def reading_steps(key: ModelKey, prompt: Prompt) -> list[Step]:
    """What every head reads of the needle at the last position."""
    return [
        tokens_step(key, prompt),
        Step("needle_reading", needle_share, Ref("model"), Ref("tokens"), prompt.spans),
    ]


def needle_reading(
    key: ModelKey, prompt: Prompt, around: Callable[[HookedMamba], AbstractContextManager[None]] | None = None
) -> HeadScores:
    """around: what is open while the blocks are run; not entered where the scores were made before."""
    steps = reading_steps(key, prompt)

    def make(model: HookedMamba) -> HeadScores:
        with around(model) if around else nullcontext():
            return cast(HeadScores, run_steps(steps, {"model": model})["needle_reading"])

    return cast(HeadScores, loading.result(key, as_python(steps), make, lambda made: made.nbytes))


def named(head: RankedHead) -> str:
    return f"block {head.block}, head {head.head}" + (f" of the {head.branch}" if head.branch else "")


def swap_steps(
    key: ModelKey, prompt: Prompt, other: Prompt, read: tuple[int, int | None], point: str,
    places: Mapping[str, tuple[int, ...]],
) -> list[Step]:  # fmt: skip
    """Both prompts, and the exact grid of one column a place. read: answer, and the wrong one that is subtracted."""
    prompts = (Ref("model"), Ref("tokens"), Ref("other"))
    return [
        tokens_step(key, prompt),
        Step("other", torch.tensor, [list(other.tokens)], device=key.device),
        Step("exact", patch_grid, *prompts, **swapped(read, point, places)),
    ]


def swapped(read: tuple[int, int | None], point: str, places: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Keyword arguments of a grid."""
    answer, wrong = read
    given: dict[str, Any] = {"answers": [answer], **({} if wrong is None else {"against": [wrong]})}
    return given | {"point": point, "positions": [*places.values()]}


def swap_grid(key: ModelKey, steps: list[Step]) -> PatchGrid:
    return cast(PatchGrid, _kept(key, steps, "exact", "exact"))


def swap_rows(chosen: ChosenModel, point: str) -> list[int]:
    """The block of each row that a grid will have."""
    rows: list[int] = []
    for block in range(chosen.cfg.n_layers):
        kind = chosen.cfg.block_kind(block)
        n_branches = 2 if kind == "differential" else 0 if point == "branch_out" else 1
        n_heads = chosen.cfg.mixer_sizes(kind).n_heads if point == "gated" else 1
        rows += [block] * (n_heads * (n_branches if point in ("branch_out", "gated") else 1))
    return rows


def places_of(prompt: Prompt, columns: str) -> dict[str, tuple[int, ...]]:
    """The positions of each column by its name; spans that the prompt does not have are left out."""
    if columns == "tokens":
        return {f"{place} {token_label(text)}": (place,) for place, text in enumerate(prompt.strings)}
    spans = {
        name: tuple(place for start, end in getattr(prompt.spans, name) for place in range(start, end))
        for name in SPAN_CLASSES
    }
    in_spans = {place for places in spans.values() for place in places}
    spans["the rest"] = tuple(place for place in range(len(prompt.tokens)) if place not in in_spans)
    return {name: places for name, places in spans.items() if places}


def _kept(key: ModelKey, steps: list[Step], name: str, longest: str = "") -> object:
    """The result of this name, from the cache if it was made before. longest: the step between whose parts others can
    use the model."""
    between = {longest: {"on_progress": loading.giving_way(key)}} if longest else {}
    return loading.result(
        key,
        as_python(steps),
        lambda model: run_steps(steps, {"model": model}, between)[name],
        lambda made: getattr(made, "nbytes", 20_000),
    )
