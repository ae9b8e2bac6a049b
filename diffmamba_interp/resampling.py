"""Draws of the bootstrap: how often each draw holds each sample, [draw, sample], with replacement.

Samples alone, clusters first and then samples in them, or two crossed sets of clusters; and of the permutation test:
which pairs are exchanged. One seed gives the same draws.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Counts = Float[np.ndarray, "resample sample"]
N_RESAMPLES = 10_000
DRAWS_AT_ONCE = 1_000
"""Draws whose counts are worked on at once."""


@functools.lru_cache(maxsize=16)
def plain_counts(n: int, n_resamples: int, seed: int) -> np.ndarray:
    """How often each draw holds each sample, [draw, sample]; kept, since many groups have equally many samples."""
    rng, counts = np.random.default_rng(seed), np.empty((n_resamples, n), dtype=np.min_scalar_type(n))
    for first in range(0, n_resamples, DRAWS_AT_ONCE):
        chunk = counts[first : first + DRAWS_AT_ONCE]
        chunk[:] = rng.multinomial(n, np.full(n, 1 / n), size=len(chunk))
    counts.flags.writeable = False
    return counts


def clustered_counts(members: list[np.ndarray], n: int, n_resamples: int, seed: int) -> np.ndarray:
    """Clusters are drawn first: one that is drawn k times gives k draws of its own size."""
    cluster_of = np.empty(n, dtype=np.int64)
    for number, cluster in enumerate(members):
        cluster_of[cluster] = number
    return _clustered_counts(cluster_of.tobytes(), n_resamples, seed)


# Two: a table asks about many columns of the same prompts in turn, and the draws of thousands take tens of megabytes.
@functools.lru_cache(maxsize=2)
def _clustered_counts(cluster_of: bytes, n_resamples: int, seed: int) -> np.ndarray:
    numbers = np.frombuffer(cluster_of, dtype=np.int64)
    rng, n, n_clusters = np.random.default_rng(seed), len(numbers), int(numbers.max()) + 1
    counts = np.empty((n_resamples, n), dtype=np.min_scalar_type(n))
    times = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_resamples)
    for number, k in enumerate(times.T):
        (cluster,) = np.nonzero(numbers == number)
        counts[:, cluster] = rng.multinomial(k * len(cluster), np.full(len(cluster), 1 / len(cluster)))
    counts.flags.writeable = False
    return counts


@functools.lru_cache(maxsize=2)
def exchanges(n: int, n_resamples: int, seed: int) -> np.ndarray:
    """1 where a draw exchanges the two values of a pair, else 0, [draw, pair]; kept for the next column."""
    rng, flips = np.random.default_rng(seed), np.empty((n_resamples, n), dtype=np.int8)
    for first in range(0, n_resamples, DRAWS_AT_ONCE):
        chunk = flips[first : first + DRAWS_AT_ONCE]
        chunk[:] = rng.integers(0, 2, size=chunk.shape)
    flips.flags.writeable = False
    return flips


def crossed_counts(
    first: Sequence[object], second: Sequence[object], *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Counts:
    """Draws over two kinds of clusters at once, for `bootstrap_of`: stories, say, and the novels they are hidden in.

    count(sample) = times its first key is drawn * times its second key is drawn

    Keys of each kind are drawn with replacement, independently (the pigeonhole bootstrap of Owen 2007, Annals of
    Applied Statistics 1(2)): the interval covers new stories in new novels. For effects of either kind it is as wide as
    a bootstrap of their keys, for what is of single samples wider than it need be. Not every pair need have a sample.

    Args:
        first, second: one key per sample.

    Raises:
        ValueError: no samples, different numbers of keys, or one key only of a kind.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(
            f"there are {len(first)} first and {len(second)} second keys: give one of each kind for every sample."
        )
    rng, counts = np.random.default_rng(seed), np.ones((n_resamples, len(first)))
    for keys in (first, second):
        members = members_of(keys, len(keys))
        times = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=n_resamples)
        for k, cluster in zip(times.T, members, strict=True):
            counts[:, cluster] *= k[:, None]
    return counts


def members_of(clusters: Sequence[object] | None, n: int) -> list[np.ndarray]:
    """Indices of each cluster's samples, in order of first appearance. Raises ValueError."""
    if clusters is None:
        return [np.array([i]) for i in range(n)]
    if len(clusters) != n:
        raise ValueError(f"there are {len(clusters)} cluster keys for {n} samples: give one for each.")
    members: dict[object, list[int]] = {}
    for i, key in enumerate(clusters):
        members.setdefault(key, []).append(i)
    if len(members) < 2:
        raise ValueError("all samples are of one cluster: resampling clusters needs at least two; leave clusters out.")
    return [np.array(indices) for indices in members.values()]
