"""Tiny models with random parameters everywhere, and what tests compare them with."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig

N_TOKENS = 23

DIFFERENTIAL_VARIANTS = [
    DifferentialConfig(placement=(0,), normalisation=norm, head_division=division, lambda_form=form)
    for norm, division, form in itertools.product(
        ("post", "pre", "none"), ("d_head", "n_heads"), ("sigmoid_sum", "exp_dot")
    )
]
"""Block 0 differential, in every way there is; block 1 plain."""
COVERING_VARIANTS = [DIFFERENTIAL_VARIANTS[at] for at in (0, 7, 9)]
"""A few of them, in which every option takes every value."""


DIFF_S6_VARIANTS = [
    DifferentialConfig(placement=(0,), subtract_at="gated", lambda_form="sigmoid"),
    DifferentialConfig(placement=(0,), subtract_at="scan", normalisation="none", lambda_form="token_head_gate"),
    DifferentialConfig(placement=(0,), subtract_at="gated", normalisation="pre", lambda_form="token_gate"),
    DifferentialConfig(placement=(0,), subtract_at="scan", lambda_form="one"),
]
"""The same with two scans in one mixer: both places of the subtraction, every norm, the other forms of lambda."""


def variant_id(cfg: DifferentialConfig) -> str:
    where = cfg.head_division if cfg.subtract_at == "mixer" else cfg.subtract_at
    return f"{cfg.normalisation}-{where}-{cfg.lambda_form}"


def tiny_config(differential: DifferentialConfig | None = None, **changes: Any) -> HookedMambaConfig:
    sizes: dict[str, Any] = {
        "d_model": 16,
        "n_layers": 2,
        "d_vocab": N_TOKENS,
        "d_state": 4,
        "d_head": 8,
        "chunk_size": 8,
    }
    if changes.get("mixer", "mamba2") != "mamba2":
        sizes = {name: value for name, value in sizes.items() if name not in ("d_head", "chunk_size")}
    return HookedMambaConfig(**{**sizes, "differential": differential, **changes})


def tiny_model(differential: DifferentialConfig | None = None, *, seed: int = 0, **changes: Any) -> HookedMamba:
    """In evaluation mode; no parameter is left at a value, such as a gain of 1, that could hide a mistake."""
    torch.manual_seed(seed)
    model = HookedMamba(tiny_config(differential, **changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lambda" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def random_tokens(batch: int = 2, pos: int = 9, *, seed: int = 1, d_vocab: int = N_TOKENS) -> Tensor:
    return torch.randint(0, d_vocab, (batch, pos), generator=torch.Generator().manual_seed(seed))


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude; 0 for tensors without entries."""
    assert value.shape == expected.shape
    if value.numel() == 0:
        return 0.0
    return float((value - expected).detach().abs().max() / expected.detach().abs().max())


def assert_same(first: HookedMamba, second: HookedMamba) -> None:
    """The same state dict, key by key and bit by bit, and the same logits."""
    assert_same_values(first, second)
    with torch.no_grad():
        assert torch.equal(first(random_tokens()), second(random_tokens()))


def assert_same_values(first: HookedMamba, second: HookedMamba) -> None:
    """The same config and the same state dict, key by key and bit by bit."""
    a, b = first.state_dict(), second.state_dict()
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)
    assert first.cfg.differential_blocks == second.cfg.differential_blocks
    assert first.cfg.mixer_sizes("plain") == second.cfg.mixer_sizes("plain")
