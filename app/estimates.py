"""What a run will take, before it is made: seconds from the model's size, and a refusal that says what to reduce."""

from __future__ import annotations

import time

import torch

from app import loading
from app.loading import ModelKey

LONG_S = 10.0
"""A run that is expected to take longer waits for a press on a button."""

TOO_LONG_S = 900.0


def forward_seconds(key: ModelKey, n_tokens: int, n_read_outs: int = 0) -> float:
    """At least so many seconds: two operations per parameter and token, and per entry of each read-out.

    n_read_outs: how often the whole vocabulary is computed, as a lens does per stage and position.
    """
    cfg = loading.config(key)
    operations = 2.0 * loading.report(key).n_parameters * n_tokens + 2.0 * n_read_outs * cfg.d_model * cfg.d_vocab
    return operations / loading.cache().get(("speed", key.device), lambda: _operations_per_second(key.device), _small)


def require_feasible(seconds: float, advice: str) -> None:
    """Raise ValueError if a run would take longer than 15 minutes; `advice` names what to reduce."""
    if seconds > TOO_LONG_S:
        raise ValueError(
            f"this would take at least {seconds / 60:,.0f} minutes here, more than the limit of "
            f"{TOO_LONG_S / 60:.0f}. {advice}."
        )


def _operations_per_second(device: str) -> float:
    """Of a square product in float32, best of three."""
    size = 512
    matrix = torch.ones(size, size, device=device)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        (matrix @ matrix).sum().item()
        times.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(times)


def _small(_: float) -> int:
    return 100
