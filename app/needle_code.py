"""The needle page as Python."""

from __future__ import annotations

from collections.abc import Sequence

from app.loading import ModelKey
from app.needle_request import LOGIT, TUNED, NeedleRead, SampleRequest
from app.python_code import lens_call, load_model, model_imports, tokenizer_line
from diffmamba_interp.needle import Measure


def curves_code(
    reads: Sequence[NeedleRead], request: SampleRequest, measure: Measure, statistic: str, *, log: bool, n: int
) -> str:
    """What makes the trajectories, curves and figures again, of the first `n` prompts; their difference, of two
    models."""
    return "\n".join(
        [
            "import torch",
            *_imports(reads),
            "from diffmamba_interp.figures.needle import curves_by_stage, difference_by_stage",
            "from diffmamba_interp.lens import LogitLens, load_demo_lens, load_lens",
            "from diffmamba_interp.needle import Story, compare, make_needle_samples, needle_trajectory, summarise",
            "",
            "read = {}",
            *[line for read in reads for line in [load_model(read.key), _lenses(read)]],
            *_samples(reads[0].key, request, n),
            "trajectories = [",
            "    needle_trajectory(model, lenses, samples, name=name) for name, (model, lenses) in read.items()",
            "]",
            f'how = {{"measures": ({measure!r}, "snr_db"), "statistics": ({statistic!r},), "by": ()}}',
            "curves = summarise(trajectories, **how)",
            "values, snr = ([c for c in curves if c.measure == m] for m in how['measures'])",
            f"figure = curves_by_stage(values, log={log})",
            "snr_figure = curves_by_stage(snr)",
            "if len(trajectories) == 2 and trajectories[0].stages == trajectories[1].stages:",
            "    differences = compare(*trajectories[::-1], **how)",
            "    difference_figures = [",
            "        difference_by_stage([c for c in differences if c.measure == m]) for m in how['measures']",
            "    ]",
            "",
        ]
    )


def attention_code(reads: Sequence[NeedleRead], request: SampleRequest, n: int) -> str:
    """What makes the numbers of the attention's curves again, [prompt, block]."""
    return "\n".join(
        [
            "import torch",
            *_imports(reads),
            "from diffmamba_interp.implicit_attention.allocation import CLASSES, PICTURES",
            "from diffmamba_interp.implicit_attention.prompt_allocation import DIRECTIONS, allocate_prompts",
            "from diffmamba_interp.needle import Story, make_needle_samples",
            "from diffmamba_interp.statistics import bootstrap",
            "",
            "models, snr_db, cancelled, over_allocation = {}, {}, {}, {}",
            *[line for read in reads for line in [load_model(read.key), f"models[{read.name!r}] = model"]],
            *_samples(reads[0].key, request, n),
            "noise = [CLASSES.index(name) for name in ('distractors', 'filler')]",
            "for name, model in models.items():",
            "    allocation = allocate_prompts(model, samples)",
            "    mass = allocation.mass[:, DIRECTIONS.index('answer')].double()",
            "    snr = allocation.snr_db[:, DIRECTIONS.index('answer')].double()",
            "    net, minuend, scaled = (mass[:, :, place] for place in range(3))  # in the order of PICTURES",
            "    snr_db[name] = dict(zip(PICTURES, snr.unbind(-1)))",
            "    cancelled[name] = dict(zip(CLASSES, (1 - net / (minuend + scaled)).unbind(-1)))",
            "    shares = mass[..., noise].sum(-1) / mass.sum(-1)",
            "    over_allocation[name] = dict(zip(PICTURES, shares.unbind(-1)))",
            f"interval = bootstrap(over_allocation[{reads[0].name!r}]['net'].numpy())  # value, low, high by block",
            "",
        ]
    )


def _imports(reads: Sequence[NeedleRead]) -> list[str]:
    return [
        *dict.fromkeys(line for read in reads for line in model_imports(read.key)),
        "from transformers import PreTrainedTokenizerFast",
    ]


def _lenses(read: NeedleRead) -> str:
    made = {LOGIT: "LogitLens.from_model(model)"}
    if read.lens.lens is not None:
        made[TUNED] = lens_call(read.lens.lens)
    lenses = ", ".join(f"{name!r}: {made[name]}" for name in read.lens_names)
    return f"read[{read.name!r}] = model, {{{lenses}}}"


def _samples(key: ModelKey, request: SampleRequest, n: int) -> list[str]:
    """Lines that define `samples`: as many as were read, of as many as were made."""
    lines = [tokenizer_line(key)]
    if request.stories:
        lines += ["stories = [", *(f"    {story!r}," for story in request.stories), "]"]
        made = "make_needle_samples(tokenizer, stories=stories, n=None, length=0)"
    else:
        made = (
            f"make_needle_samples(tokenizer, task={request.task!r}, n={request.n}, length={request.length}, "
            f"seed={request.seed})"
        )
    whole = len(request.stories) or request.n
    return [*lines, f"samples = {made}" + (f"[:{n}]" if n < whole else "")]
