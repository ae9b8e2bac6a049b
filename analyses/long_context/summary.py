"""What the records say: loss by position of each model, what older context gains, and the models' difference.

Intervals are drawn over sources (novels), each with all of its pieces: pieces of one novel are alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffmamba_interp.analysis.results import N_RESAMPLES, read_records
from diffmamba_interp.statistics import Estimate, bootstrap_of, paired_test, ratio_of

FIRST, SECOND = "mamba2", "diff-mamba2"

Records = dict[str, np.ndarray]


def read(path: Path) -> Records:
    return read_records(path)


def summarise(records: Records) -> dict[str, Any]:
    """Curves over the bins, each a list of estimates in nats per token, and `p_values` of the differences.

    full, windowed, gain: by model; gain is windowed less full. difference: second model less first, full.
    """
    ends = sorted(int(name.split("_")[1]) for name in records if name.startswith("full_"))
    own = {name: {key: column[records["model"] == name] for key, column in records.items()} for name in (FIRST, SECOND)}
    sources = own[FIRST]["source"]
    if not np.array_equal(own[FIRST]["piece"], own[SECOND]["piece"]):
        raise ValueError("the models were not measured on the same pieces: run both again.")
    losses = {
        kind: {name: np.stack([own[name][f"{kind}_{end}"] for end in ends], axis=1) for name in (FIRST, SECOND)}
        for kind in ("full", "windowed")
    }
    losses["gain"] = {name: losses["windowed"][name] - losses["full"][name] for name in (FIRST, SECOND)}
    curves: dict[str, Any] = {
        kind: {name: estimates(values, sources) for name, values in by_model.items()}
        for kind, by_model in losses.items()
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
    found = bootstrap_of(
        ratio_of(member.T @ values, member.sum(axis=0)[:, None]), member.shape[1], n_resamples=N_RESAMPLES
    ).stacked
    return [Estimate(*map(float, one)) for one in found.T]


def p_values(first: np.ndarray, second: np.ndarray, sources: np.ndarray) -> list[float]:
    """Two-sided, of no difference, by flipping the signs of whole sources."""
    clusters = sources.tolist() if len(set(sources.tolist())) > 1 else None
    return [float(p) for p in np.atleast_1d(paired_test(first, second, clusters=clusters).p_value)]
