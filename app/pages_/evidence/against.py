"""What speaks against the subtraction, of this prompt and of many, each with the page where it stands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.pages_.evidence.shipped import accuracy_of_many, gaps_of_many
from app.shell import loading
from app.shell.answers import compared_tokens, next_tokens, ready_answer
from app.shell.carriers import needle_reading, without_subtraction
from app.shell.change_headlines import subtraction_headline
from app.shell.headlines import models_headline
from app.shell.links import OF_MANY, Link, asked
from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt, token_text
from app.shell.wording import quoted, said
from diffmamba_interp.drawing.colours import short_name
from diffmamba_interp.implicit_attention import HeadScores


def items(models: Sequence[ChosenModel], prompt: Prompt) -> list[tuple[str, Link]]:
    """The models that are shown, the first of which is asked about its subtraction."""
    first, names = models[0], [model.name for model in models]
    needle, retrieval = OF_MANY
    told: list[tuple[str, Link]] = []
    if not first.is_plain:
        answer = ready_answer(first, prompt)
        record = without_subtraction(first.key, prompt, answer.token, compared_tokens(answer, first))
        of_it = subtraction_headline(record, first.name, f"“{answer.text}”, {answer.source}")
        off = Link(
            label="Interventions", page="interventions", changes={"lambda_factor": "0.0"} | asked("interventions")
        )
        told.append((" ".join([of_it.says[0], *of_it.against]), off))
        for name in models_headline({first.name: loading.report(first.key)}).against:
            told.append((name, Link(label="Overview", page="overview")))
    for model in models[1:]:
        if model.is_plain and max(prompt.tokens) < model.cfg.d_vocab:
            told.append(
                (of_plain(first, model, prompt), Link(label="Lens", page="lens", changes={"compare": "beside"}))
            )
    if prompt.spans.needle and not first.is_plain:
        said_of, block = of_branches(needle_reading(first.key, prompt))
        told.append((said_of, Link(label="Attention", page="attention", changes={"block": str(block)})))
    told += [(text, needle) for text in gaps_of_many(names)]
    accuracy = accuracy_of_many(names)
    return told + [(accuracy or "Accuracies of both models, task by task, with where it is behind.", retrieval)]


def of_plain(first: ChosenModel, plain: ChosenModel, prompt: Prompt) -> str:
    """What a model that subtracts nothing says."""
    (token, probability), wanted = next_tokens(plain, prompt)[0], next_tokens(first, prompt)[0][0]
    also = ", as does" if token == wanted else ", other than"
    without = " So this prompt can be answered without a subtraction." if token == wanted else ""
    return (
        f"{short_name(plain.name)}, which subtracts nothing, says {quoted(token_text(token, plain.tokenizer))} "
        f"(p {said(probability)}){also} {short_name(first.name)}.{without}"
    )


def of_branches(scores: HeadScores) -> tuple[str, int]:
    """In how many blocks what is subtracted reads more of the needle than what is kept; the one where most."""
    shares = dict(zip(scores.rows, np.nanmean(scores.mean("needle_share"), axis=1), strict=True))
    kept = {block: share for (block, branch), share in shares.items() if branch == "minuend"}
    more = {block: float(shares[block, "subtrahend"] - share) for block, share in kept.items()}
    worst = max(more, key=lambda block: more[block])
    n = sum(value > 0 for value in more.values())
    says = f"In {n} of {len(more)} blocks the subtrahend's heads read more of the needle at the last position than the "
    says += "minuend's (means over heads): there the subtraction takes from the needle"
    if n:
        minuend, subtrahend = (float(shares[worst, branch]) for branch in ("minuend", "subtrahend"))
        alike = float(scores.uniform["needle_share"].mean())
        says += f"; most in block {worst}, {subtrahend:.0%} against {minuend:.0%}"
        below = ", both below what reading all tokens alike would give, "
        says += f"{below}{alike:.0%}" if max(minuend, subtrahend) < alike else f", reading all tokens alike {alike:.0%}"
    return f"{says} (one prompt).", worst
