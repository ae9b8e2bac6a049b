"""One block and the whole model, forward in bfloat16 at the 370M shape: ours beside mamba_ssm's modules.

Run on a machine with an NVIDIA GPU: `python benchmarks/block_forward.py [--out results.json]`.
Everything is measured in one process, in alternating rounds; a ratio is peer time over our time.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from unittest import mock

import torch
from timing import Timing, time_side_by_side
from torch import nn

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig
from diffmamba_interp.hook_points import HookPoint
from diffmamba_interp.models.block import Block, OpenSum
from diffmamba_interp.models.differential_mixer import OpenNorm
from diffmamba_interp.ops import fused
from diffmamba_interp.ops.kernels import NormFirst

D_MODEL, N_LAYERS, D_STATE, D_VOCAB, LENGTH = 1024, 48, 128, 50_288, 2048
FLOAT32 = ("A_log", "D", "dt_bias", "lambda_q1")


class SequentialPair(nn.Module):
    """The published differential block's work with mamba_ssm's parts: norm, two mixers in turn, subtract, norm."""

    def __init__(self) -> None:
        super().__init__()
        from mamba_ssm import Mamba2
        from mamba_ssm.ops.triton.layer_norm import RMSNorm

        self.norm, self.subln = RMSNorm(D_MODEL), RMSNorm(D_MODEL)
        self.first = Mamba2(D_MODEL, d_state=D_STATE, expand=1, headdim=32)
        self.second = Mamba2(D_MODEL, d_state=D_STATE, expand=1, headdim=32)
        self.lambda_q1 = nn.Parameter(torch.zeros(D_MODEL))

    def forward(self, resid: torch.Tensor) -> torch.Tensor:
        u = self.norm(resid.to(self.norm.weight.dtype))
        weight = torch.sigmoid(self.lambda_q1.sum().float()) + 0.2
        return resid + 0.8 * self.subln(self.first(u) - weight * self.second(u))


class PlainPeer(nn.Module):
    """mamba_ssm's own block: fused residual add and norm, then Mamba2."""

    def __init__(self) -> None:
        super().__init__()
        from mamba_ssm import Mamba2
        from mamba_ssm.modules.block import Block as PeerBlock
        from mamba_ssm.ops.triton.layer_norm import RMSNorm

        self.block = PeerBlock(
            D_MODEL,
            lambda dim: Mamba2(dim, d_state=D_STATE),
            nn.Identity,
            norm_cls=RMSNorm,
            fused_add_norm=True,
            residual_in_fp32=True,
        )

    def forward(self, hidden: torch.Tensor, resid: torch.Tensor) -> object:
        return self.block(hidden, resid)


def config(placement: str | None, n_layers: int = N_LAYERS) -> HookedMambaConfig:
    differential = None if placement is None else DifferentialConfig(placement=placement)  # type: ignore[arg-type]
    return HookedMambaConfig(
        d_model=D_MODEL,
        n_layers=n_layers,
        d_vocab=D_VOCAB,
        d_state=D_STATE,
        tie_embeddings=True,
        differential=differential,
    )


def to_bf16(module: nn.Module) -> nn.Module:
    for name, parameter in module.named_parameters():
        dtype = torch.float32 if name.rpartition(".")[2] in FLOAT32 else torch.bfloat16
        parameter.data = parameter.data.to("cuda", dtype)
    return module.eval()


def measure_mixers(batch: int, graphs: bool) -> dict[str, Timing]:
    from mamba_ssm import Mamba2

    u = torch.randn(batch, LENGTH, D_MODEL, device="cuda", dtype=torch.bfloat16)
    peer = Mamba2(D_MODEL, d_state=D_STATE).to("cuda", torch.bfloat16)
    plain = to_bf16(Block(config(None, 1), 0)).mixer
    differential = to_bf16(Block(config("all", 1), 0)).mixer
    return time_side_by_side(
        {
            "mamba_ssm.Mamba2": lambda: peer(u),
            "ours, plain mixer": lambda: plain(u, fused=True, keep_state=False),
            "ours, differential mixer": lambda: differential(u, fused=True, keep_state=False),
        },
        graphs=graphs,
    )


def measure_blocks(batch: int, graphs: bool) -> dict[str, Timing]:
    resid = torch.randn(batch, LENGTH, D_MODEL, device="cuda")
    hidden = resid.bfloat16()
    peer, pair = PlainPeer().to("cuda", torch.bfloat16), SequentialPair().to("cuda", torch.bfloat16)
    plain, differential = to_bf16(Block(config(None, 1), 0)), to_bf16(Block(config("all", 1), 0))
    return time_side_by_side(
        {
            "mamba_ssm block": lambda: peer(hidden, resid),
            "two mamba_ssm mixers in turn": lambda: pair(resid),
            "ours, plain block": lambda: between_blocks(plain, hidden, resid),
            "ours, differential block": lambda: between_blocks(differential, hidden, resid),
            "ours, plain block alone": lambda: plain(resid, fused=True, keep_state=False),
            "ours, differential block alone": lambda: differential(resid, fused=True, keep_state=False),
        },
        graphs=graphs,
    )


def between_blocks(block: nn.Module, hidden: torch.Tensor, resid: torch.Tensor) -> object:
    """A block as it runs among others of its kind: it makes the sum, and the sub-norm, that the one before has left."""
    mixer = block.mixer
    left = hidden if block.kind == "plain" else OpenNorm(hidden, NormFirst(mixer.subnorm.weight, 1e-5, 0.8))
    return block(OpenSum(resid, left, HookPoint()), fused=True, keep_state=False, leave_sum=True)


def measure_models(batch: int, graphs: bool) -> dict[str, Timing]:
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    tokens = torch.randint(0, D_VOCAB, (batch, LENGTH), device="cuda")
    contenders = {}
    for name, placement in {"plain": None, "alternate": "alternate", "all": "all"}.items():
        model = to_bf16(HookedMamba(config(placement)))
        assert isinstance(model, HookedMamba)
        contenders[f"ours, {name}"] = lambda model=model: model(tokens, stop_at_block=N_LAYERS)
        contenders[f"ours, {name}, all resid_post cached"] = lambda model=model: cached_residuals(model, tokens)
    peer_cfg = MambaConfig(
        d_model=D_MODEL, n_layer=N_LAYERS, vocab_size=D_VOCAB, ssm_cfg={"layer": "Mamba2"}, pad_vocab_size_multiple=16
    )
    peer = MambaLMHeadModel(peer_cfg, device="cuda", dtype=torch.bfloat16)
    contenders["mamba_ssm model"] = lambda: peer.backbone(tokens)
    return time_side_by_side(contenders, rounds=3, calls=3, graphs=graphs)


def cached_residuals(model: HookedMamba, tokens: torch.Tensor) -> int:
    kept = []
    with model.hooks([("blocks.*.hook_resid_post", lambda value, name: kept.append(value))]):
        model(tokens, stop_at_block=N_LAYERS)
    return len(kept)


def measure_scan_chunks(batch: int) -> dict[str, Timing]:
    """Our plain and differential mixers with the scan cut into chunks of several sizes."""
    u = torch.randn(batch, LENGTH, D_MODEL, device="cuda", dtype=torch.bfloat16)
    mixers = {
        "plain": to_bf16(Block(config(None, 1), 0)).mixer,
        "differential": to_bf16(Block(config("all", 1), 0)).mixer,
    }
    contenders = {}
    for name, mixer in mixers.items():
        for chunk in (64, 128, 256):
            contenders[f"{name}, chunk {chunk}"] = lambda mixer=mixer, chunk=chunk: with_chunk(chunk, mixer, u)
    return time_side_by_side(contenders, rounds=3, graphs=True)


def with_chunk(chunk: int, mixer: nn.Module, u: torch.Tensor) -> object:
    with mock.patch.object(fused, "scan_chunk_size", return_value=chunk):
        return mixer(u, fused=True, keep_state=False)


def measure_370m_run() -> dict[str, float]:
    """Peak memory of the published-size model at batch 4 x 2048 with every resid_post kept."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model = to_bf16(HookedMamba(config("alternate")))
    assert isinstance(model, HookedMamba)
    weights = torch.cuda.memory_allocated()
    tokens = torch.randint(0, D_VOCAB, (4, LENGTH), device="cuda")
    logits, cache = model.run_with_cache(tokens, "blocks.*.hook_resid_post")
    finite = float(all(bool(value.isfinite().all()) for value in cache.values()) and bool(logits.isfinite().all()))
    return {
        "weights_bytes": float(weights),
        "cache_bytes": float(cache.n_bytes),
        "logits_bytes": float(logits.nbytes),
        "peak_bytes": float(torch.cuda.max_memory_allocated()),
        "all_finite": finite,
    }


def report(title: str, timings: dict[str, Timing], peer: str) -> None:
    print(f"\n{title}", flush=True)
    for name, timing in timings.items():
        print(f"  {name:45s} {timing}   {timings[peer].median_s / timing.median_s:5.2f} x {peer}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    cases = ("scan", "mixer", "block", "model", "memory")
    parser.add_argument("--only", nargs="*", choices=cases, default=cases, help="measure these cases only")
    parser.add_argument("--batches", nargs="*", type=int, default=[8, 1])
    parser.add_argument("--launches", nargs="*", choices=("eager", "CUDA graph"), default=("eager", "CUDA graph"))
    options = parser.parse_args()
    out = options.out
    results: dict[str, object] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    with torch.no_grad():
        if "scan" in options.only:
            chunks = measure_scan_chunks(8)
            report("mixers by the scan's chunk size, batch 8, CUDA graph", chunks, "plain, chunk 256")
            results["scan"] = {name: vars(timing) for name, timing in chunks.items()}
        for batch in options.batches:
            for title, measure, peer in (
                ("mixer", measure_mixers, "mamba_ssm.Mamba2"),
                ("block", measure_blocks, "mamba_ssm block"),
                ("model", measure_models, "mamba_ssm model"),
            ):
                if title not in options.only:
                    continue
                for launches in options.launches:
                    timings = measure(batch, launches == "CUDA graph")
                    case = f"{title}, batch {batch}, {launches}"
                    report(f"{case}, length {LENGTH}, bf16", timings, peer)
                    results[case] = {name: vars(timing) for name, timing in timings.items()}
                    torch.cuda.empty_cache()
        if "memory" in options.only:
            results["370M at 4 x 2048"] = measure_370m_run()
            print(f"\n370M, batch 4 x {LENGTH}, all resid_post kept: {results['370M at 4 x 2048']}")
    if out is not None:
        out.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
