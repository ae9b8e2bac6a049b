"""Is an account of which tokens matter faithful? Take them out in its order, and put them back in its order.

    deletion[k]    the reading with the k highest sources knocked out          falls fast under a faithful ranking
    insertion[k]   with all sources knocked out but the k highest              rises fast
    area           the mean height of a curve over the share taken, by the trapezoid rule, in the reading's unit
    gap            area under insertion less area under deletion               the larger, the more faithful

A source is knocked out of every scan (`KnockOut`), so nothing behind it reads it through a state. Any scores can be
ranked; two rankings that know nothing of the model stand beside them: "random" and "recency", the latest token first.
(Samek et al. 2017; Petsiuk et al. 2018, for pictures. Departure: a token is taken out of the states, not masked.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import Count, checked, shown
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.interventions.intervention import intervene
from diffmamba_interp.interventions.knock_out import KnockOut, Level
from diffmamba_interp.interventions.patching import ROWS
from diffmamba_interp.interventions.reading import UNITS, answer_readings
from diffmamba_interp.interventions.targets import Blocks, require_tokens
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.resampling import N_RESAMPLES
from diffmamba_interp.statistics import Estimate, bootstrap
from diffmamba_interp.text.stable_random import StableRandom

FaithfulnessReading = Literal["answer_logit", "answer_log_probability", "label_probability", "snr_db"]
RANDOM, RECENCY = "random", "recency"
FRACTIONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)


class Areas(NamedTuple):
    """Means over prompts with 95 % bootstrap intervals, in the reading's unit.

    over_random: the gap less that of the random ranking, prompt by prompt.
    """

    deletion: Estimate
    insertion: Estimate
    gap: Estimate
    over_random: Estimate


@dataclass(frozen=True, kw_only=True, eq=False)
class FaithfulnessRecord(JsonRecord):
    """Curves of each ranking, prompt by prompt.

    reading, unit: what was read at the last position. rankings: by name, "random" and "recency" last. fractions: share
    of the sources that is taken, rising from 0 to 1. level: of the knock-out. n_sources: that were ranked, per sample.
    deletion, insertion: the reading, in its unit.
    """

    reading: str
    unit: str
    rankings: tuple[str, ...]
    fractions: tuple[float, ...]
    level: Level
    n_sources: tuple[int, ...]
    deletion: Float[np.ndarray, "sample ranking fraction"]
    insertion: Float[np.ndarray, "sample ranking fraction"]

    @property
    def deletion_area(self) -> Float[np.ndarray, "sample ranking"]:
        """Mean height of the deletion curves."""
        return np.trapezoid(self.deletion, self.fractions, axis=-1)

    @property
    def insertion_area(self) -> Float[np.ndarray, "sample ranking"]:
        """Mean height of the insertion curves."""
        return np.trapezoid(self.insertion, self.fractions, axis=-1)

    @property
    def gap(self) -> Float[np.ndarray, "sample ranking"]:
        """Insertion area less deletion area: 0 for a ranking that is no better than its reverse."""
        return self.insertion_area - self.deletion_area

    def areas(self, *, n_resamples: int = N_RESAMPLES, seed: int = 0) -> dict[str, Areas]:
        """Every ranking's areas, with intervals over the prompts."""
        gap = self.gap
        over_random = gap - gap[:, [self.rankings.index(RANDOM)]]
        columns = [
            bootstrap(values, n_resamples=n_resamples, seed=seed).estimates
            for values in (self.deletion_area, self.insertion_area, gap, over_random)
        ]
        return {name: Areas(*row) for name, row in zip(self.rankings, zip(*columns, strict=True), strict=True)}

    @classmethod
    def joined(cls, records: Sequence[FaithfulnessRecord]) -> FaithfulnessRecord:
        """The prompts of all records, whose lengths may differ. Raises ValueError for records of other curves."""
        if not records:
            raise ValueError("records is empty: give at least one.")
        first = records[0]
        for name in ("reading", "unit", "rankings", "fractions", "level"):
            if any(getattr(record, name) != getattr(first, name) for record in records):
                raise ValueError(f"records differ in {name}: join those that were made alike.")
        return cls(
            **{
                **vars(first),
                "n_sources": tuple(n for record in records for n in record.n_sources),
                "deletion": np.concatenate([record.deletion for record in records]),
                "insertion": np.concatenate([record.insertion for record in records]),
            }
        )


@checked
@torch.no_grad()
def faithfulness(
    model: HookedMamba,
    tokens: Int[Tensor, "batch pos"],
    scores: Mapping[str, Float[Tensor, "batch _pos"]],
    *,
    answers: Sequence[int],
    labels: Sequence[int] | None = None,
    reading: FaithfulnessReading = "answer_logit",
    sources: Sequence[int] | None = None,
    fractions: Sequence[float] = FRACTIONS,
    level: Level = "write",
    blocks: Blocks = None,
    seed: int = 0,
    rows: Count = ROWS,
    on_progress: Callable[[int], None] | None = None,
) -> FaithfulnessRecord:
    """Deletion and insertion curves of every ranking, on prompts of equal length without padding.

    Args:
        model: hooks that are attached to it take effect on every run.
        scores: of every position, the most important highest; `implicit_attention.source_scores` makes some.
        answers: one token id per prompt, read at the last position. labels: token ids of all labels, the answers among
            them; needed by the readings "label_probability" and "snr_db".
        sources: the positions that are ranked, such as those of the context; None for all but the last, which reads.
        fractions: shares of the sources that are taken, rounded to whole tokens; rising from 0 to 1.
        level, blocks: of the knock-out. seed: of the random ranking.
        rows: prompts in one forward pass. on_progress: called with the number of runs done since the last call.

    Raises:
        ValueError: scores, sources, fractions, answers or labels that do not fit.
    """
    n_batch, n_pos = tokens.shape
    _check(model, tokens, scores, answers, labels, reading, fractions)
    ranked = tuple(range(n_pos - 1)) if sources is None else tuple(sources)
    if not ranked or len(set(ranked)) < len(ranked) or not 0 <= min(ranked) <= max(ranked) < n_pos - 1:
        raise ValueError(
            f"sources is {shown(list(ranked))}: give different positions before the last, 0 to {n_pos - 2}, at least "
            "one."
        )
    orders = _orders(scores, ranked, n_batch, seed)
    counts = [round(fraction * len(ranked)) for fraction in fractions]
    out = torch.zeros(2, n_batch, len(orders), len(fractions), n_pos, dtype=torch.bool)
    for place, order in enumerate(orders.values()):
        for column, k in enumerate(counts):
            for sample in range(n_batch):
                out[0, sample, place, column, order[sample, :k]] = True
                out[1, sample, place, column, order[sample, k:]] = True
    read = _readings(model, tokens, out.flatten(0, 3), answers, labels, reading, level, blocks, rows, on_progress)
    curves = read.reshape(out.shape[:-1])
    return FaithfulnessRecord(
        reading=reading,
        unit=UNITS[reading],
        rankings=tuple(orders),
        fractions=tuple(float(fraction) for fraction in fractions),
        level=level,
        n_sources=(len(ranked),) * n_batch,
        deletion=curves[0],
        insertion=curves[1],
    )


def _orders(
    scores: Mapping[str, Tensor], ranked: tuple[int, ...], n_batch: int, seed: int
) -> dict[str, Int[Tensor, "sample source"]]:
    """The sources of each sample by ranking, the most important first."""
    at = torch.tensor(ranked)
    orders = {
        name: at[torch.argsort(values.detach().cpu()[:, at].double(), dim=1, descending=True, stable=True)]
        for name, values in scores.items()
    }
    drawn = [StableRandom("faithfulness", seed, sample).shuffled(list(ranked)) for sample in range(n_batch)]
    latest = torch.tensor(sorted(ranked, reverse=True)).expand(n_batch, -1)
    return {**orders, RANDOM: torch.tensor(drawn), RECENCY: latest}


def _readings(
    model: HookedMamba,
    tokens: Tensor,
    out: Tensor,
    answers: Sequence[int],
    labels: Sequence[int] | None,
    reading: str,
    level: Level,
    blocks: Blocks,
    rows: int,
    on_progress: Callable[[int], None] | None,
) -> np.ndarray:
    """The reading of each line of `out`, [2 * sample * ranking * fraction, pos]; lines that are the same run once."""
    device, n_batch = model.embed.weight.device, len(tokens)
    sample_of = torch.arange(n_batch).repeat_interleave(len(out) // (2 * n_batch)).repeat(2)
    lines, place = torch.unique(torch.cat([sample_of[:, None], out], dim=1), dim=0, return_inverse=True)
    read: list[Tensor] = []
    answer_ids = torch.tensor(list(answers), device=device)
    for first in range(0, len(lines), rows):
        part = lines[first : first + rows]
        samples = part[:, 0].to(device)
        of_labels = None if labels is None else torch.tensor(list(labels), device=device).expand(len(part), -1)
        with intervene(model, KnockOut(positions=part[:, 1:].bool(), level=level, blocks=blocks)):
            logits = model(tokens.to(device)[samples], positions=[-1])[:, 0]
        read.append(answer_readings(logits, answer_ids[samples], of_labels)[reading].double().cpu())
        if on_progress is not None:
            on_progress(len(part))
    return torch.cat(read)[place].numpy()


def _check(
    model: HookedMamba,
    tokens: Tensor,
    scores: Mapping[str, Tensor],
    answers: Sequence[int],
    labels: Sequence[int] | None,
    reading: str,
    fractions: Sequence[float],
) -> None:
    if not scores:
        raise ValueError("scores is empty, so there is no ranking to follow: give at least one, by name.")
    for name, values in scores.items():
        if name in (RANDOM, RECENCY):
            raise ValueError(f"scores names {name!r}, a ranking that is made here: call yours otherwise.")
        if values.shape != tokens.shape or values.isnan().any():
            raise ValueError(
                f"scores[{name!r}] has shape {tuple(values.shape)}, the tokens {tuple(tokens.shape)}: give a number "
                "for every position, and no NaN."
            )
    if len(answers) != len(tokens):
        raise ValueError(f"answers holds {len(answers)} token ids for {len(tokens)} prompts: give one for each.")
    require_tokens("answers", answers, model.cfg.d_vocab)
    if reading in get_args(FaithfulnessReading)[2:] and labels is None:
        raise ValueError(f"reading is {reading!r} and labels is None: give the token ids of all labels.")
    if labels is not None:
        require_tokens("labels", labels, model.cfg.d_vocab)
        if len(set(labels)) < max(len(labels), 2) or not set(answers) <= set(labels):
            raise ValueError(f"labels is {list(labels)}: give two or more different token ids, all answers among them.")
    rising = list(fractions)
    if len(rising) < 2 or rising[0] != 0 or rising[-1] != 1 or rising != sorted(set(rising)):
        raise ValueError(f"fractions is {rising}: give numbers that rise from 0 to 1.")
