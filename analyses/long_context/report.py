"""What the records of the long-context analysis say, in results.json, figures and README.md: loss by position of each
model, what older context gains, how far the loss rises beyond the trained length, and the models' difference.

Intervals are drawn over sources (novels), each with all of its pieces: pieces of one novel are alike.

    python analyses/long_context/report.py      figures and README.md alone, from results.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis.page import RECORDS, Page, Results, made_with, points, table, text
from diffmamba_interp.analysis.results import N_RESAMPLES, Records, estimate_from, read_records
from diffmamba_interp.drawing.panels import Drawing, minus
from diffmamba_interp.figures.curves import Curves, curves_drawing
from diffmamba_interp.lm_training.position_loss import position_bins
from diffmamba_interp.statistics import Estimate, bootstrap_of, paired_test, ratio_of

FIRST, SECOND = "mamba2", "diff-mamba2"
TRAINED = 1024


def summarise(folder: Path, results: Results) -> dict[str, Any]:
    """The bins' bounds, how much was read, and the curves."""
    records = read_records(folder / RECORDS)
    sources = records["source"][records["model"] == FIRST].tolist()
    return {
        "bounds": position_bins(results["provenance"]["recipe"]["length"]).tolist(),
        "n_pieces": len(sources),
        "n_sources": len(set(sources)),
        "curves": curves_of(records),
    }


def curves_of(records: Records) -> dict[str, Any]:
    """Curves over the bins, each a list of estimates in nats per token, and `p_values` of the differences.

    full, windowed, gain: by model; gain is windowed less full. rise: by model, full less that of the bin that ends at
    the trained length. difference: second model less first, full.
    """
    ends = sorted(int(name.split("_")[1]) for name in records if name.startswith("full_"))
    by_model = {
        name: {key: column[records["model"] == name] for key, column in records.items()} for name in (FIRST, SECOND)
    }
    sources = by_model[FIRST]["source"]
    if not np.array_equal(by_model[FIRST]["piece"], by_model[SECOND]["piece"]):
        raise ValueError("the models were not measured on the same pieces: run both again.")
    losses = {
        kind: {name: np.stack([by_model[name][f"{kind}_{end}"] for end in ends], axis=1) for name in (FIRST, SECOND)}
        for kind in ("full", "windowed")
    }
    losses["gain"] = {name: losses["windowed"][name] - losses["full"][name] for name in (FIRST, SECOND)}
    trained = ends.index(TRAINED)
    losses["rise"] = {name: losses["full"][name] - losses["full"][name][:, [trained]] for name in (FIRST, SECOND)}
    curves: dict[str, Any] = {
        kind: {name: estimates(values, sources) for name, values in of_kind.items()} for kind, of_kind in losses.items()
    }
    first, second = losses["full"][FIRST], losses["full"][SECOND]
    return {
        **curves,
        "difference": estimates(second - first, sources),
        "p_values": p_values(first, second, sources),
    }


def estimates(values: np.ndarray, sources: np.ndarray) -> list[Estimate]:
    """One per bin, from [piece, bin]."""
    _, owner = np.unique(sources, return_inverse=True)
    member = np.eye(owner.max() + 1)[owner]
    mean = ratio_of(member.T @ values, member.sum(axis=0)[:, None])
    return bootstrap_of(mean, member.shape[1], n_resamples=N_RESAMPLES).estimates


def p_values(first: np.ndarray, second: np.ndarray, sources: np.ndarray) -> list[float]:
    """Two-sided, of no difference, by flipping the signs of whole sources."""
    clusters = sources.tolist() if len(set(sources.tolist())) > 1 else None
    return [float(p) for p in np.atleast_1d(paired_test(first, second, clusters=clusters).p_value)]


def figures(results: Results, title: str) -> dict[str, Drawing]:
    curves, ticks = results["curves"], [position(end) for end in results["bounds"][1:]]

    def both(kind: str, heading: str) -> Curves:
        return Curves(title=heading, ticks=ticks, points={name: points(curves[kind][name]) for name in (FIRST, SECOND)})

    difference = {minus(SECOND, FIRST): points(curves["difference"])}
    panels = {
        "loss": [both("full", "loss given the whole past"), both("windowed", "loss with the past cut off")],
        "gain": [both("gain", "what the older past gains")],
        "difference": [Curves(title="difference of the losses", ticks=ticks, points=difference)],
    }
    return {
        name: curves_drawing(of_figure, title=title, x_axis="position up to, tokens", y_axis="nats per token")
        for name, of_figure in panels.items()
    }


def finding(results: Results, title: str) -> list[str]:
    curves, ends, n = results["curves"], results["bounds"][1:], results["n_pieces"]
    signs = [estimate_from(one).sign(n) for one in curves["difference"]]
    beyond = [sign for sign, end in zip(signs, ends, strict=True) if end > TRAINED]
    p_beyond = [p for p, end in zip(curves["p_values"], ends, strict=True) if end > TRAINED]
    tested = f" Sign-flip p beyond it: {min(p_beyond):.2g} to {max(p_beyond):.2g}." if p_beyond else ""
    lines = [
        f"{title} ({n} pieces of {results['bounds'][-1]:,} tokens from {results['n_sources']} sources): "
        f"{verdict(beyond)}{tested}",
        "",
        "- Lower loss, by the end of the bin of positions: "
        + listed(ends, signs, {-1: f"in `{SECOND}` at", 1: f"in `{FIRST}` at", 0: "undecided at"}),
    ]
    for model in (FIRST, SECOND):
        gains = [estimate_from(one).sign(n) for one in curves["gain"][model]]
        older = [(end, gain) for end, gain in zip(ends, gains, strict=True) if end > TRAINED]
        if older:
            words = {1: "helps at", -1: "harms at", 0: "undecided at"}
            lines.append(f"- `{model}`, past older than {TRAINED:,} tokens: {listed(*zip(*older, strict=True), words)}")
    lines += [f"- {degradation(results, model)}" for model in (FIRST, SECOND)] if beyond else []
    return [*lines, "", *bin_table(results), ""]


def degradation(results: Results, model: str) -> str:
    """Whether a model's loss suffers beyond the trained length, against the past cut off and against its own."""
    places = [place for place, end in enumerate(results["bounds"][1:]) if end > TRAINED]
    gains = [estimate_from(results["curves"]["gain"][model][place]) for place in places]
    # What the older past costs is the gain's negative, so its upper bound is the lower one of the gain.
    most, signs = max(0.0, *(-gain.low for gain in gains)), [gain.sign(results["n_pieces"]) for gain in gains]
    if -1 in signs:
        word = "**degrades**, for the older past does harm"
    elif set(signs) == {1}:
        word = "**does not degrade**, for the older past does no harm"
    else:
        word = "**is not seen to degrade**, for the older past does no harm that can be told from none"
    last = results["curves"]["rise"][model][places[-1]]
    return (
        f"`{model}` {word} in any bin up to {position(results['bounds'][-1])} tokens (at most {most:.3f} nats, by its "
        f"95 % interval); its loss in the last bin is {text(last, signed=True)} nats from that of the last trained one."
    )


def verdict(beyond: Sequence[int]) -> str:
    if not beyond:
        return "nothing beyond the trained length was measured."
    if set(beyond) == {-1}:
        return f"**beyond the trained length `{SECOND}` has the lower loss**, in every bin."
    if set(beyond) == {1}:
        return f"**beyond the trained length `{FIRST}` has the lower loss**, in every bin."
    if set(beyond) == {0}:
        return "**undecided**, beyond the trained length the models' losses cannot be told apart at this n."
    return "**mixed**, which model has the lower loss beyond the trained length depends on the position."


def listed(ends: Sequence[int], signs: Sequence[int], words: Mapping[int, str]) -> str:
    """The bins of each sign after its words, without the signs that no bin has."""
    kept = {sign: [position(end) for end, one in zip(ends, signs, strict=True) if one == sign] for sign in words}
    return "; ".join(f"{words[sign]} {', '.join(own)}" for sign, own in kept.items() if own) + "."


def bin_table(results: Results) -> list[str]:
    curves, bounds, both = results["curves"], results["bounds"], (FIRST, SECOND)
    rows = []
    for number, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        gains = [text(curves["gain"][model][number], signed=True) for model in both] if end > TRAINED else ["–", "–"]
        rows.append(
            [
                f"{start:,}–{end:,}",
                *(text(curves["full"][model][number]) for model in both),
                text(curves["difference"][number], signed=True),
                f"{curves['p_values'][number]:.3g}",
                *gains,
            ]
        )
    losses = [f"loss, {FIRST}", SECOND, f"{SECOND} less {FIRST}", "p"]
    return table(["position", *losses, f"older past gains, {FIRST}", SECOND], rows)


def position(end: int) -> str:
    return f"{end // 1024}k" if end % 1024 == 0 else str(end)


def section(results: Results) -> list[str]:
    return [made_with(results), ""]


PAGE = Page(
    folder=Path(__file__).parent,
    summarise=summarise,
    figures=figures,
    finding=finding,
    section=section,
    titles={"unseen": "Novels that no training saw", "paper": "Held-out novels", "builtin": "Generated text"},
)


if __name__ == "__main__":
    PAGE.write()
