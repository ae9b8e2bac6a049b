"""What the records say of noise over fillers, in results.json, figures and README.md.

    N1, N2 = sum over filler tokens of K1, of lambda K2        net: with their signs, in logits; of a prompt
    V(X)   = sum over stories of the sum over fillers of (X - mean of the story's X)^2
    kept      = V(N1 - N2) / V(N1)                  below 1: the difference is steadier than the minuend alone
    cancelled = 1 - V(N1 - N2) / (V(N1) + V(N2))    takes no side: 2 cov / (V1 + V2), in [-1, 1]; 0 if unrelated
    snr       = 10 log10 (mean S)^2 / (V(N) / degrees of freedom)        S: the same sum over needle tokens

Contributions of a sum of tokens may cancel within a branch already: sums of sizes |K1 - lambda K2| would count that as
noise which the subtraction did not remove.

    python analyses/noise_variance/report.py      figures and README.md alone, from results.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diffmamba_interp.analysis.page import RECORDS, Page, Results, made_with, points, table, text
from diffmamba_interp.analysis.results import N_RESAMPLES, Records, estimate_from, read_records
from diffmamba_interp.drawing.panels import Drawing
from diffmamba_interp.figures.allocation import head_map_drawing
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.resampling import Counts, crossed_counts
from diffmamba_interp.statistics import Estimate, bootstrap_of, weighted_sum

BASELINE, MODEL = "mamba2", "diff-mamba2"
SOURCES = ("filler", "needle")
BRANCHES = ("minuend", "lambda_subtrahend")
"""Of the plain model the minuend is all there is."""
HEADS = "heads.parquet"
MEASURES = (
    *("mean_minuend", "mean_lambda_subtrahend", "mean_net"),
    *("sd_minuend", "sd_lambda_subtrahend", "sd_net"),
    *("kept", "cancelled"),
    *("needle_minuend", "needle_net", "snr_minuend_db", "snr_net_db", "snr_gained_db"),
)
ENOUGH = 0.25
"""A head counts if its two branches have at least this part of the mean head's variance."""
TITLES = {
    "unseen": "Held-out bAbI stories in novels that no training saw",
    "builtin": "Generated stories in generated texts",
}


def summarise(folder: Path, results: Results) -> dict[str, Any]:
    """n of prompts, stories and fillers; whole: all blocks together; blocks; plain: the other model; heads."""
    records, heads = read_records(folder / RECORDS), read_records(folder / HEADS)
    of_model = {name: column[records["model"] == MODEL] for name, column in records.items()}
    of_plain = {name: column[records["model"] == BASELINE] for name, column in records.items()}
    story, filler = keys(of_model)
    by_block = values_of(of_model)
    whole = measures(by_block.sum(axis=-1, keepdims=True), story, filler)
    plain_blocks = values_of(of_plain)
    plain_values = np.concatenate([plain_blocks.sum(axis=-1, keepdims=True), plain_blocks], axis=-1)
    # A plain block has no subtrahend: nothing is subtracted.
    plain_values[:, :, 1] = 0.0
    plain = measures(plain_values, *keys(of_plain))
    kept = ("mean_net", "sd_net", "needle_net", "snr_net_db")
    return {
        "n": len(story),
        "n_stories": len(set(story)),
        "n_fillers": len(set(filler)),
        "whole": {name: values[0] for name, values in whole.items()},
        "blocks": measures(by_block, story, filler),
        "plain": {name: plain[name][0] for name in kept},
        "plain_blocks": {name: plain[name][1:] for name in kept},
        "heads": by_head(heads),
    }


def keys(records: Records) -> tuple[list[str], list[str]]:
    """Story (with its task) and filler of every line."""
    story = [f"{task} {story}" for task, story in zip(records["task"], records["story"], strict=True)]
    return story, records["filler"].tolist()


def values_of(records: Records) -> Float[np.ndarray, "prompt source branch block"]:
    n_blocks = sum(name.startswith("filler_minuend_") for name in records)
    return np.stack(
        [
            np.stack(
                [
                    np.stack([records[f"{source}_{branch}_{block}"] for block in range(n_blocks)], axis=-1)
                    for branch in BRANCHES
                ],
                axis=1,
            )
            for source in SOURCES
        ],
        axis=1,
    )


def measures(
    values: Float[np.ndarray, "prompt source branch part"], story: Sequence[str], filler: Sequence[str]
) -> dict[str, list[Estimate]]:
    """Every measure of every part (a block, or all together), with intervals over stories and fillers at once."""
    counts = draws_of(story, filler)
    (noise, noise_2), (needle, needle_2) = np.moveaxis(values, 0, 2)
    pictures = np.stack([noise, noise_2, noise - noise_2])
    signal = np.stack([needle, needle_2, needle - needle_2])

    def statistic(draws: Counts) -> np.ndarray:
        total = draws.sum(axis=1)[:, None]
        mean = np.stack([weighted_sum(draws, one) / total for one in pictures])
        signals = np.stack([weighted_sum(draws, one) / total for one in signal])
        squares = np.stack([within(draws, one, story) for one in pictures])
        variance = squares / freedom(draws, story)
        with np.errstate(divide="ignore", invalid="ignore"):
            snr = 10 * np.log10(signals**2 / variance)
            ratios = [squares[2] / squares[0], 1 - squares[2] / (squares[0] + squares[1])]
            gained = snr[2] - snr[0]
        lines = [*mean, *np.sqrt(variance), *ratios, signals[0], signals[2], snr[0], snr[2], gained]
        return np.stack(lines, axis=1)

    stacked = bootstrap_of(statistic, len(story), counts=counts).stacked  # 3 measure part
    return {
        name: [Estimate(*map(float, column)) for column in stacked[:, place].T] for place, name in enumerate(MEASURES)
    }


def draws_of(story: Sequence[str], filler: Sequence[str]) -> Counts:
    """Draws over stories and fillers at once, less those in which no story has two fillers (few fillers only)."""
    draws = crossed_counts(story, filler, n_resamples=N_RESAMPLES)
    return draws[freedom(draws, story)[:, 0] > 0]


def within(
    draws: Counts, values: Float[np.ndarray, "prompt part"], story: Sequence[str]
) -> Float[np.ndarray, "resample part"]:
    """Sum over stories of the squares about the story's own mean, each prompt as often as it counts."""
    total = weighted_sum(draws, values**2)
    owner = np.array(story)
    for one in dict.fromkeys(story):
        own = owner == one
        weight = draws[:, own].sum(axis=1)[:, None]
        mean = np.divide(draws[:, own] @ values[own], weight, out=np.zeros_like(total), where=weight > 0)
        total = total - weight * mean**2
    return np.maximum(total, 0.0)


def freedom(draws: Counts, story: Sequence[str]) -> Float[np.ndarray, "resample 1"]:
    """What `within` is divided by for a variance without bias: prompts less stories where each counts once.

    sum over stories of W - sum of w^2 / W, W = sum of w: a filler that is drawn twice says nothing new about a story.
    Raises ValueError where every story has one filler only.
    """
    if len(story) == len(set(story)):
        raise ValueError("every story has one filler only: a variance over fillers needs two at least.")
    total, owner = np.zeros((len(draws), 1)), np.array(story)
    for one in dict.fromkeys(story):
        own = draws[:, owner == one]
        weight, squares = own.sum(axis=1)[:, None], (own**2).sum(axis=1)[:, None]
        total += weight - np.divide(squares, weight, out=np.zeros_like(weight), where=weight > 0)
    return total


def by_head(heads: Records) -> dict[str, Any]:
    """cancelled: [block][head] estimates of the namesakes' cancelled share; counts: whether they vary enough."""
    n_heads = 1 + int(heads["head"].max())
    n_parts = n_heads * (1 + int(heads["block"].max()))
    story, filler = (kind[::n_parts] for kind in keys(heads))
    first, second = (heads[branch].reshape(-1, n_parts) for branch in BRANCHES)
    counts = draws_of(story, filler)

    def statistic(draws: Counts) -> np.ndarray:
        own = within(draws, first, story) + within(draws, second, story)
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1 - within(draws, first - second, story) / own

    cancelled = bootstrap_of(statistic, len(story), counts=counts).estimates
    once = np.ones((1, len(story)))
    spread = (within(once, first, story) + within(once, second, story))[0]
    rows = [list(range(start, start + n_heads)) for start in range(0, n_parts, n_heads)]
    return {
        "cancelled": [[cancelled[place] for place in row] for row in rows],
        "counts": [[bool(spread[place] >= ENOUGH * spread.mean()) for place in row] for row in rows],
    }


def figures(results: Results, title: str) -> dict[str, Drawing]:
    blocks, plain = results["blocks"], results["plain_blocks"]
    ticks = [str(block) for block in range(len(blocks["kept"]))]

    def curves(heading: str, named: dict[str, Any]) -> Curves:
        return Curves(title=heading, ticks=ticks, points={name: points(values) for name, values in named.items()})

    panels = {
        "spread": (
            [
                curves(
                    "standard deviation over fillers",
                    {n: blocks[f"sd_{n}"] for n in BRANCHES} | {"net": blocks["sd_net"]},
                ),
                curves("both models", {BASELINE: plain["sd_net"], MODEL: blocks["sd_net"]}),
            ],
            "logits",
            None,
        ),
        "cancelled": (
            [curves("cancelled share of the variance", {"noise": blocks["cancelled"]})],
            "share",
            (-1.0, 1.0),
        ),
        "snr": (
            [
                curves(
                    "needle over the spread of filler",
                    {"minuend": blocks["snr_minuend_db"], "net": blocks["snr_net_db"]},
                )
            ],
            "dB",
            None,
        ),
    }
    drawings = {
        name: curves_drawing(of_figure, title=title, x_axis="block", y_axis=axis, y_limits=limits)
        for name, (of_figure, axis, limits) in panels.items()
    }
    heads = results["heads"]
    values = [
        [estimate[0] if counts else float("nan") for estimate, counts in zip(row, kept, strict=True)]
        for row, kept in zip(heads["cancelled"], heads["counts"], strict=True)
    ]
    note = (
        "share of the variance over fillers that namesakes cancel; heads left empty write next to nothing that varies"
    )
    return {**drawings, "heads": head_map_drawing(values, title=f"{title}: by head", note=note, what="cancelled")}


def finding(results: Results, title: str) -> list[str]:
    whole, plain, enough = results["whole"], results["plain"], min(results["n_stories"], results["n_fillers"])
    signs = [
        estimate_from(estimate).sign(enough)
        for row, kept in zip(results["heads"]["cancelled"], results["heads"]["counts"], strict=True)
        for estimate, counts in zip(row, kept, strict=True)
        if counts
    ]
    of_blocks = [estimate_from(one).sign(enough) for one in results["blocks"]["cancelled"]]
    return [
        f"{title} ({results['n']} prompts: {results['n_stories']} stories, each in "
        f"{results['n'] // results['n_stories']} of {results['n_fillers']} texts): {verdict(whole, enough)}",
        "",
        f"- All blocks together: kept {text(whole['kept'])} of the minuend's variance over fillers, cancelled "
        f"{text(whole['cancelled'], signed=True)} of both branches'.",
        f"- Standard deviation over fillers, logits: minuend {text(whole['sd_minuend'], 2)}, λ · subtrahend "
        f"{text(whole['sd_lambda_subtrahend'], 2)}, difference {text(whole['sd_net'], 2)}; "
        f"`{BASELINE}` {text(plain['sd_net'], 2)}.",
        f"- Mean over fillers and stories, logits: minuend {text(whole['mean_minuend'], 2, signed=True)}, λ · "
        f"subtrahend {text(whole['mean_lambda_subtrahend'], 2, signed=True)}, difference "
        f"{text(whole['mean_net'], 2, signed=True)}; "
        f"`{BASELINE}` {text(plain['mean_net'], 2, signed=True)}.",
        f"- The needle over that spread: minuend {text(whole['snr_minuend_db'], 1, signed=True)} dB, difference "
        f"{text(whole['snr_net_db'], 1, signed=True)} dB, gained {text(whole['snr_gained_db'], 1, signed=True)} dB; "
        f"`{BASELINE}` {text(plain['snr_net_db'], 1, signed=True)} dB.",
        f"- Blocks whose branches cancel (interval above 0): {of_blocks.count(1)} of {len(of_blocks)}; that add up: "
        f"{of_blocks.count(-1)}.",
        f"- Of {len(signs)} heads whose noise varies enough to count, {signs.count(1)} cancel some of it with their "
        f"namesake, {signs.count(-1)} add to it (about {len(signs) / 40:.0f} each by luck).",
        "",
    ]


def verdict(whole: dict[str, Any], enough: int) -> str:
    sign = estimate_from(whole["cancelled"]).sign(enough)
    kept = estimate_from(whole["kept"])
    steadier = 0 if enough < 10 else -1 if kept.high < 1 else 1 if kept.low > 1 else 0
    words = {
        1: "**the branches' noise is alike and cancels in part**",
        -1: "**the branches' noise adds up**",
        0: "**the branches' noise is not seen to be alike**",
    }[sign]
    steady = {
        -1: "the difference varies less from filler to filler than the minuend alone",
        1: "the difference varies more from filler to filler than the minuend alone",
        0: "whether the difference varies less from filler to filler than the minuend alone is undecided",
    }[steadier]
    return f"{words}; {steady}."


def section(results: Results) -> list[str]:
    blocks, plain = results["blocks"], results["plain_blocks"]
    columns = (
        "mean_minuend",
        "mean_net",
        "sd_minuend",
        "sd_lambda_subtrahend",
        "sd_net",
        "kept",
        "cancelled",
        "snr_gained_db",
    )
    decimals = {"kept": 2, "cancelled": 2, "snr_gained_db": 1}
    rows = [
        [
            block,
            *(
                text(blocks[name][block], decimals.get(name, 3), signed=name[:2] not in ("sd", "ke"))
                for name in columns
            ),
            text(plain["sd_net"][block]),
        ]
        for block in range(len(blocks["kept"]))
    ]
    heads = [
        *("block", "mean, minuend", "difference", "sd, minuend", "λ · subtrahend", "difference", "kept", "cancelled"),
        *("SNR gained, dB", f"sd, {BASELINE}"),
    ]
    return [*table(heads, rows), "", made_with(results), ""]


PAGE = Page(
    folder=Path(__file__).parent,
    summarise=summarise,
    figures=figures,
    finding=finding,
    section=section,
    titles=TITLES,
)


if __name__ == "__main__":
    PAGE.write()
