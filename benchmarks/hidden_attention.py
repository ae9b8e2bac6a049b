"""Hidden attention and contributions at the 370M shape: ours beside eager PyTorch, torch.compile and a plain write.

Run on a machine with an NVIDIA GPU: `python benchmarks/hidden_attention.py [--out results.json]`.
`--device cpu` runs the same on a CPU (without torch.compile), where `--blocks` is of interest: the head-mean of
12 blocks of a whole model. Everything is float32 in the precision that is checked first; one process,
alternating rounds; a ratio is the contender's time over ours.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from timing import Timing, time_side_by_side
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig
from diffmamba_interp.implicit_attention import extract_attention, hidden_attention
from diffmamba_interp.implicit_attention.activations import BlockActivations, BranchActivations
from diffmamba_interp.implicit_attention.contributions import contribution_along
from diffmamba_interp.ops.ssd_attention import FrozenSSD

D_HEAD = 64
NO_LIMIT = 2**40


def eager_hidden_attention(dt: Tensor, log_decay: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The formula as one would write it: [batch, head, pos, pos], one group."""
    cum = torch.cumsum(log_decay, dim=1).transpose(1, 2)
    above = torch.ones(cum.shape[-1], cum.shape[-1], dtype=torch.bool, device=cum.device).triu(1)
    decay = torch.exp((cum[..., :, None] - cum[..., None, :]).masked_fill(above, float("-inf")))
    scores = C[:, :, 0] @ B[:, :, 0].mT
    return scores[:, None] * decay * dt.transpose(1, 2)[:, :, None]


def eager_mean(dt: Tensor, log_decay: Tensor, B: Tensor, C: Tensor) -> Tensor:
    return eager_hidden_attention(dt, log_decay, B, C).mean(dim=1)


def eager_contribution(branch: BranchActivations, v: Tensor) -> Tensor:
    r = torch.einsum("d,dc->c", v, branch.out_weight).unflatten(0, (branch.n_heads, -1)) * branch.gate_at(None)
    H = eager_hidden_attention(branch.dt, branch.log_decay, branch.B, branch.C)
    H = H + torch.diag_embed(branch.D[:, None].expand(-1, H.shape[-1]))
    return (H * torch.einsum("bthp,bshp->bhts", r, branch.x)).sum(dim=1)


def random_branch(length: int, n_heads: int, d_state: int, device: str) -> BranchActivations:
    """One plain mixer's activations at random, with decays like those of a trained model."""
    torch.manual_seed(0)
    d_inner = n_heads * D_HEAD

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device)

    dt = 0.05 * torch.nn.functional.softplus(normal(1, length, n_heads))
    x_in, conv, x, z = (normal(1, length, n_heads, D_HEAD) for _ in range(4))
    scan = FrozenSSD(
        dt, -dt * torch.rand(n_heads, device=device) * 8,
        normal(1, length, 1, d_state), normal(1, length, 1, d_state) / d_state**0.5, torch.ones(n_heads, device=device),
    )  # fmt: skip
    return BranchActivations(
        scan=scan, x_in=x_in, conv=conv, x=x, gate=torch.nn.functional.silu(z), conv_weight=normal(d_inner, 4),
        conv_bias=None,
        out_weight=normal(d_inner // 2, d_inner) / d_inner**0.5, out_bias=None, out_gain=None, out=None,
    )  # fmt: skip


def as_block(branch: BranchActivations) -> BlockActivations:
    length = branch.dt.shape[1]
    return BlockActivations(
        block=0,
        kind="plain",
        normalisation=None,
        branches=(branch,),
        lambda_=None,
        mixer_out=torch.zeros(1, length, branch.out_weight.shape[0], device=branch.dt.device),
        lengths=torch.tensor([length], device=branch.dt.device),
    )


def measure(contenders: dict[str, Callable[[], object]], device: str, graphs: bool) -> dict[str, Timing]:
    if device == "cuda":
        return time_side_by_side(contenders, graphs=graphs)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(3):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(median_s=statistics.median(s), low_s=min(s), high_s=max(s)) for name, s in seconds.items()}


def compiled(function: Callable[..., Tensor], device: str) -> Callable[..., Tensor] | None:
    return torch.compile(function) if device == "cuda" else None


def pictures(branch: BranchActivations, device: str, *, graphs: bool) -> dict[str, dict[str, Timing]]:
    """The three pictures of one block, each with its peers; ours is last and is what ratios refer to.

    graphs: replay CUDA graphs, which leaves the GPU's time alone; else what a call costs on this host.
    """
    scan = (branch.dt, branch.log_decay, branch.B, branch.C)
    v = torch.randn(branch.out_weight.shape[0], device=branch.dt.device)
    block = as_block(branch)
    length = branch.dt.shape[1]
    full = torch.empty(1, branch.n_heads, length, length, device=branch.dt.device)
    results = {}

    def ours(reduce: str | None, impl: str) -> Callable[[], object]:
        options = {"reduce": reduce, "log_decay": branch.log_decay, "impl": impl, "max_bytes": NO_LIMIT}
        return lambda: hidden_attention(branch.dt, None, branch.B, branch.C, **options)  # type: ignore[arg-type]

    def along(impl: str) -> Callable[[], object]:
        return lambda: contribution_along(block, v, impl=impl, max_bytes=NO_LIMIT)  # type: ignore[arg-type]

    impl = "fused" if device == "cuda" else "reference"
    for name, eager, write, run in (
        ("hidden attention", eager_hidden_attention, full, lambda impl: ours(None, impl)),
        ("hidden attention, mean over heads", eager_mean, full[:, 0], lambda impl: ours("mean", impl)),
    ):
        contenders: dict[str, Callable[[], object]] = {"plain write of the same bytes": lambda w=write: w.fill_(1.0)}
        contenders["eager PyTorch"] = lambda e=eager: e(*scan)
        if (fast := compiled(eager, device)) is not None:
            contenders["torch.compile"] = lambda f=fast: f(*scan)
        if device == "cuda" and not graphs:
            contenders["ours, reference"] = run("reference")
        contenders["ours"] = run(impl)
        results[name] = measure(contenders, device, graphs)
    contenders = {"eager PyTorch": lambda: eager_contribution(branch, v)}
    if device == "cuda" and not graphs:
        contenders["ours, reference"] = along("reference")
    contenders["ours"] = along(impl)
    results["contribution along a direction"] = measure(contenders, device, graphs)
    return results


def precision(branch: BranchActivations, device: str) -> dict[str, float]:
    """Largest error over largest magnitude, against the eager formula in float64, of what is timed."""
    impl = "fused" if device == "cuda" else "reference"
    exact = eager_hidden_attention(*(value.double() for value in (branch.dt, branch.log_decay, branch.B, branch.C)))
    options = {"log_decay": branch.log_decay, "impl": impl, "max_bytes": NO_LIMIT}
    H = hidden_attention(branch.dt, None, branch.B, branch.C, **options)  # type: ignore[arg-type]
    mean = hidden_attention(branch.dt, None, branch.B, branch.C, reduce="mean", **options)  # type: ignore[arg-type]
    v = torch.randn(branch.out_weight.shape[0], device=branch.dt.device)
    K = contribution_along(as_block(branch), v, impl=impl, max_bytes=NO_LIMIT).weights  # type: ignore[arg-type]
    slow = contribution_along(as_block(branch), v, impl="reference", max_bytes=NO_LIMIT).weights
    return {
        "hidden attention": float((H - exact).abs().max() / exact.abs().max()),
        "mean over heads": float((mean - exact.mean(dim=1)).abs().max() / exact.mean(dim=1).abs().max()),
        "contribution, against the reference": float((K - slow).abs().max() / slow.abs().max()),
    }


def rows_of_a_long_prompt(length: int, n_heads: int, d_state: int, device: str) -> dict[str, float]:
    """Eight rows of every head: seconds, peak memory beyond the inputs, and whether all is finite."""
    branch = random_branch(length, n_heads, d_state, device)
    rows = torch.linspace(length // 2, length - 1, 8, device=device).long()

    def run() -> Tensor:
        return hidden_attention(branch.dt, None, branch.B, branch.C, rows=rows, log_decay=branch.log_decay)

    values = run()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    start = time.perf_counter()
    values = run()
    finite = bool(values.isfinite().all())
    took = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() - before if device == "cuda" else 0
    return {"rows": 8.0, "length": float(length), "took_s": took, "peak_bytes": float(peak), "finite": float(finite)}


def whole_model(length: int, n_layers: int, device: str) -> dict[str, float]:
    """Head-mean pictures of every block of a differential model, one forward pass included: seconds."""
    cfg = HookedMambaConfig(
        d_model=512, n_layers=n_layers, d_vocab=256, differential=DifferentialConfig(), tie_embeddings=True
    )
    model = HookedMamba(cfg).to(device)
    tokens = torch.randint(0, 256, (1, length), device=device)
    start = time.perf_counter()
    for record in extract_attention(model, tokens, reduce="mean"):
        _ = record.difference
    if device == "cuda":
        torch.cuda.synchronize()
    return {"blocks": float(n_layers), "length": float(length), "took_s": time.perf_counter() - start}


def report(title: str, timings: dict[str, Timing]) -> None:
    print(f"\n{title}")
    for name, timing in timings.items():
        print(f"  {name:32s} {timing}   {timing.median_s / timings['ours'].median_s:7.2f} x ours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--d-state", type=int, default=128)
    parser.add_argument("--long", type=int, default=131_072, help="length of the prompt of which rows are taken")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    branch = random_branch(given.length, given.heads, given.d_state, given.device)
    with torch.no_grad():
        errors = precision(branch, given.device)
        print(f"error of what is timed: {errors}")
        ways = {"GPU time": True, "eager": False} if given.device == "cuda" else {"eager": False}
        timings = {}
        for way, graphs in ways.items():
            for title, made in pictures(branch, given.device, graphs=graphs).items():
                timings[f"{title}, {way}"] = made
                report(f"{title}, length {given.length}, {given.heads} heads, float32, {way}", made)
        long = rows_of_a_long_prompt(given.long, given.heads, given.d_state, given.device)
        print(f"\nrows of a long prompt: {long}")
        model = whole_model(given.length, given.blocks, given.device)
        print(f"head-mean of a whole model: {model}")
    if given.out is not None:
        where = torch.cuda.get_device_name() if given.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        results = {
            "device": where,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "errors": errors,
            "timings": {title: {name: vars(t) for name, t in made.items()} for title, made in timings.items()},
            "long_prompt": long,
            "whole_model": model,
        }
        given.out.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
