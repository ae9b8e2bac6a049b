"""Hidden attention of Mamba-1, reduced over channels: ours beside eager PyTorch, torch.compile and its exponentials.

Run on a machine with an NVIDIA GPU: `python benchmarks/mamba1_attention.py [--out results.json]`. 1,536 channels of 16
states, 2,048 positions, the mean over channels of |H|, which no product over channels makes. Everything is float32 in
the precision that is checked first; one process, alternating rounds; a ratio is the contender's time over ours.

    pairs           the formula as one would write it, some channels at a time: an exponential per pair, channel, state
    tiles           the reference of this package, likewise: two factors per tile, their product over the states
    compiled        torch.compile of each
    exponentials    that many exponentials of numbers at hand, in registers, and nothing else
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import triton
import triton.language as tl
from timing import time_side_by_side
from torch import Tensor

from diffmamba_interp.ops.kernels import fused_selective_attention
from diffmamba_interp.ops.selective_attention import FrozenSelective

CHUNK = 16
"""Channels at work at one time in the eager forms: 256 MiB for each of their arrays of pairs at 2,048 positions."""


Scan = tuple[Tensor, Tensor, Tensor, Tensor]
"""dt [pos, channel], A [channel, state], B and C [pos, state] of one sample."""


def pairs(dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """sum_d |H[d]| of some channels, their states one by one: [pos, pos]."""
    cum = torch.cumsum(dt.double(), dim=0).to(dt.dtype).T
    causal = torch.ones(len(dt), len(dt), dtype=torch.bool, device=dt.device).tril()
    elapsed = torch.where(causal, cum[:, :, None] - cum[:, None], 0.0)
    H = sum(C[:, n, None] * B[None, :, n] * torch.exp(A[:, n, None, None] * elapsed) for n in range(A.shape[1]))
    return torch.where(causal, H * dt.T[:, None], 0.0).abs().sum(dim=0)


def tiles(dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    scan = FrozenSelective(dt[None], A, B[None], C[None], torch.zeros_like(A[:, 0]))
    return scan.matrix(None, tuple(range(len(A))))[0].abs().sum(dim=0)


def mean_over_channels(form: Callable[..., Tensor], scan: Scan) -> Tensor:
    """mean_d |H[d]|, `CHUNK` channels at a time."""
    dt, A, B, C = scan
    parts = (slice(at, at + CHUNK) for at in range(0, len(A), CHUNK))
    return sum(form(dt[:, part], A[part], B, C) for part in parts) / len(A)


@triton.jit
def _exponentials(out, n_each, BLOCK: tl.constexpr):
    """n_each exponentials in each of BLOCK lanes, of numbers that no compiler can foresee."""
    value = tl.program_id(0) * 1e-6 - tl.arange(0, BLOCK) * 1e-4
    total = tl.zeros((BLOCK,), tl.float32)
    for _ in range(n_each):
        total += tl.exp2(value)
        value += 1e-7
    tl.store(out + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), total)


def exponentials(length: int, n_channels: int, d_state: int, device: str) -> Callable[[], Tensor]:
    """As many exponentials as pairs on and below the diagonal, times channels, times states."""
    n, block = length * (length + 1) // 2 * n_channels * d_state, 1024
    programs = 8192
    out = torch.empty(programs * block, device=device)

    def run() -> Tensor:
        _exponentials[(programs,)](out, n // (programs * block), BLOCK=block, num_warps=4)
        return out

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"length": 2048, "channels": 1536, "states": 16, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=list(FORMS), help="eager forms beside ours")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    dt = 0.05 * torch.nn.functional.softplus(torch.randn(args.length, args.channels, device="cuda"))
    A = -torch.arange(1.0, args.states + 1, device="cuda").expand(args.channels, -1).contiguous()
    B, C = torch.randn(2, args.length, args.states, device="cuda")
    scan = (dt, A, B, C)
    forms = {name: FORMS[name] for name in args.forms}
    forms |= {f"{name}, compiled": torch.compile(form) for name, form in forms.items()}
    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: fused_selective_attention(dt[None], A, B[None], C[None], reduce="abs_mean"),
        **{name: partial(mean_over_channels, form, scan) for name, form in forms.items()},
        "exponentials": exponentials(args.length, args.channels, args.states, "cuda"),
    }
    exact = mean_over_channels(pairs, (dt.double(), A.double(), B.double(), C.double()))
    errors = {}
    for name in (name for name in contenders if name != "exponentials"):
        result = contenders[name]().squeeze(0)  # type: ignore[attr-defined]
        errors[name] = float((result - exact).abs().max() / exact.abs().max())
        print(f"  {name:20s} relative error {errors[name]:.1e}", flush=True)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    contenders["ours"]()
    peak = torch.cuda.max_memory_allocated() - before
    timings = time_side_by_side(contenders, rounds=args.rounds, calls=1)
    for name, timing in timings.items():
        print(f"  {name:20s} {timing}   {timing.median_s / timings['ours'].median_s:.2f} x ours", flush=True)
    ours = timings["ours"].median_s
    results = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "shape": {"length": args.length, "channels": args.channels, "states": args.states},
        "relative_error": errors,
        "time_s": {name: timing.median_s for name, timing in timings.items()},
        "ratio": {name: timing.median_s / ours for name, timing in timings.items()},
        "memory_bytes": peak,
        "dense_over_memory": 4 * args.channels * args.length**2 / peak,
    }
    print(json.dumps(results, indent=1))
    if args.out is not None:
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


FORMS: dict[str, Callable[..., Tensor]] = {"pairs": pairs, "tiles": tiles}

if __name__ == "__main__":
    main()
