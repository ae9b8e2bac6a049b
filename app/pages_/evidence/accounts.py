"""Which block carries the answer: three meanings of that, what each one names, and why they may differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.shell.carriers import named, swap_rows
from app.shell.change_headlines import differ
from app.shell.estimates import LONG_S, forward_seconds
from app.shell.headlines import Headline
from app.shell.links import Link, asked
from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt
from app.shell.wording import placed, said
from diffmamba_interp.figures.heads import ranked_heads
from diffmamba_interp.implicit_attention import HeadScores
from diffmamba_interp.interventions import PatchGrid, SweepRecord
from diffmamba_interp.interventions.records import PROBABILITY

SUBTRACTION = "The subtraction there matters"
READING = "The last position reads the needle there"
SWAPPING = "Swapping the state there changes the answer"
SHOWN = 0.01
"""A smaller share of the logit difference is told as none."""

BY_BLOCK = Link(
    label="Every block, λ from 0 to 2 times", page="interventions",
    changes={"swept": "lambda", "swept_apart": "True"} | asked("interventions"),
)  # fmt: skip
WHY = (
    "That is no contradiction. A block can be needed though the last position reads little in it: later blocks read "
    "what it writes. What is read need not be used, and several heads may read the same. A swapped state counts where "
    "a fact is first written, at its own words, and again where it is passed on."
)


@dataclass(frozen=True, kw_only=True)
class Account:
    """asks: one meaning. says: what it names in this prompt, with the number. block: that one; None for none.
    links: where it is seen."""

    asks: str
    says: str
    block: int | None = None
    links: tuple[Link, ...] = ()


def of_subtraction(record: SweepRecord, answer: str) -> Account:
    """record: λ 0 in all blocks, then in each on its own."""
    clean = float(record.clean[PROBABILITY].mean())
    alone = record.intervened[PROBABILITY][1:, record.doses.index(0.0)].mean(axis=-1)
    lowering = [at for at in np.argsort(alone, kind="stable") if alone[at] < clean and differ(clean, float(alone[at]))]
    if not lowering:
        says = f"λ 0 in no block alone lowers the probability of “{answer}”, {said(clean)}."
        return Account(asks=SUBTRACTION, says=says, links=(BY_BLOCK,))
    first, *rest = lowering
    block, *other = ((record.groups[at + 1] or (0,))[0] for at in (first, *rest[:1]))
    says = f"Block {block}: λ 0 in it alone takes the probability of “{answer}” from {said(clean)} to "
    says += said(float(alone[first]))
    says += f"; next is block {other[0]}, to {said(float(alone[rest[0]]))}." if other else "."
    return Account(asks=SUBTRACTION, says=says, block=block, links=(BY_BLOCK,))


def of_reading(scores: HeadScores) -> Account:
    first, second = ranked_heads(scores, "needle_share", 2)
    alike = float(scores.uniform["needle_share"][0])
    says = (
        f"{named(first).capitalize()}: {first.value:.0%} of what it reads at the last position lies on the needle; "
        f"next is {named(second)}, {second.value:.0%} (reading all tokens alike: {alike:.0%})."
    )
    of_head = {"block": str(first.block), "heads": str(first.head)}
    links = (
        Link(label="This head on Attention", page="attention", changes=of_head),
        Link(label="All heads", page="heads", changes={"measure": "needle_share"}),
    )
    return Account(asks=READING, says=says, block=first.block, links=links)


def swapping_links(chosen: ChosenModel, prompt: Prompt, n_places: int) -> tuple[Link, ...]:
    """To the grids of all blocks and of all heads, each with what it takes."""
    links = []
    for what, point in (("Every block", "mixer_out"), ("Every head", "gated")):
        n_passes = len(swap_rows(chosen, point)) * n_places + 4
        seconds = forward_seconds(chosen.key, n_passes * len(prompt.tokens))
        when = "as it opens" if seconds <= LONG_S else "when you press Run there"
        label = f"{what}: computed {when}, about {max(seconds, 1.0):.0f} s"
        changes = {"patched": point, "patch_columns": "spans"} | asked("interventions") | asked("patching")
        links.append(Link(label=label, page="interventions", changes=changes))
    return tuple(links)


def of_swapping(grid: PatchGrid, places: Sequence[str], pair: str, links: tuple[Link, ...] = ()) -> Account:
    """grid: of what each block writes, a column a place. pair: which words changed places in the other prompt."""
    recovered = np.nan_to_num(grid.recovered[0], nan=-np.inf)
    if not np.isfinite(recovered).any():
        return Account(
            asks=SWAPPING, says=f"The prompt with {pair} exchanged is answered alike: nothing to bring back."
        )
    best = [(column, int(recovered[:, column].argmax())) for column in range(len(places))]
    (column, row), *rest = sorted(best, key=lambda at: -recovered[at[1], at[0]])
    if recovered[row, column] < SHOWN:
        says = f"No block at any place brings back {SHOWN:.0%} of the logit difference or more."
        return Account(asks=SWAPPING, says=says, links=links)
    says = (
        f"Block {grid.blocks[row]}: what it writes at {placed(places[column])}, put into the prompt with {pair} "
        f"exchanged, brings back {recovered[row, column]:.0%} of the logit difference"
        f"{', more than all of it' if recovered[row, column] > 1 else ''}"
    )
    for other, at in [(other, at) for other, at in rest[:1] if recovered[at, other] >= SHOWN]:
        says += f"; of other places most comes from block {grid.blocks[at]} at {placed(places[other])}, "
        says += f"{recovered[at, other]:.0%}"
    return Account(asks=SWAPPING, says=f"{says}.", block=grid.blocks[row], links=links)


def verdict(accounts: Sequence[Account], n_waiting: int = 0) -> Headline:
    """Whether the meanings name the same block. n_waiting: how many are not computed yet."""
    known = [account for account in accounts if account.block is not None]
    told = "; ".join(f"{account.asks[0].lower()}{account.asks[1:]}: block {account.block}" for account in known)
    blocks = {account.block for account in known}
    says = ["“Carries” has three meanings here, and each may name another block."]
    if len(known) > 1 and len(blocks) == 1:
        says = [f"By all {len(known)} meanings of “carries” that are known here, block {blocks.pop()} does."]
    elif len(known) > 1:
        says = [f"Which block carries it depends on what “carries” means: {told}.", WHY]
    elif known:
        says.append(f"Known here is one: {told}.")
    waiting = [f"{n_waiting} of the three not computed yet: press Run below."] if n_waiting else []
    return Headline(says=tuple(says), against=(*waiting, "One prompt (n = 1): others may name other blocks."))
