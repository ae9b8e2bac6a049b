"""Timing of GPU work side by side: alternating rounds, medians, spread, ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds per call of one contender: median, and the lowest and highest of the rounds' medians."""

    median_s: float
    low_s: float
    high_s: float

    def __str__(self) -> str:
        return f"{1e3 * self.median_s:8.3f} ms ({1e3 * self.low_s:.3f} to {1e3 * self.high_s:.3f})"


def time_side_by_side(
    contenders: dict[str, Callable[[], object]], *, rounds: int = 5, calls: int = 10, graphs: bool = False
) -> dict[str, Timing]:
    """Median seconds per call of each contender over `rounds` alternating rounds of `calls` calls on the GPU.

    `graphs` replays each contender from a CUDA graph, which removes what the host spends on launching.
    """
    for run in contenders.values():
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    if graphs:
        contenders = {name: captured(run) for name, run in contenders.items()}
    medians: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            medians[name].append(statistics.median(_seconds(run) for _ in range(calls)))
    return {
        name: Timing(median_s=statistics.median(values), low_s=min(values), high_s=max(values))
        for name, values in medians.items()
    }


def captured(run: Callable[[], object]) -> Callable[[], object]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _seconds(run: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
