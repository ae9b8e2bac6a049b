"""The plain path on a CPU, beside transformers' Mamba-2 and TransformerLens over it: forward, cache, attention.

Run anywhere: `python benchmarks/cpu_forward.py [--threads 2] [--length 1024] [--rounds 5] [--out results.json]`. Six
blocks of width 256 with the same random weights in float32. TransformerLens is measured where it is installed
(`pip install transformer-lens`); what the peers compute is compared with ours. A ratio is the peer's time over ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffmamba_interp import HookedMamba, HookedMambaConfig, extract_attention

CFG = HookedMambaConfig(d_model=256, n_layers=6, d_vocab=4096, d_state=64, d_head=32)


def contenders(folder: Path, tokens: Tensor) -> tuple[dict[str, dict[str, Callable[[], Any]]], dict[str, float]]:
    """Ours first and then the peers, by what is measured; and how far their results are from ours."""
    from transformers import Mamba2ForCausalLM

    torch.manual_seed(0)
    model = HookedMamba(CFG).eval()
    model.save_pretrained(folder, format="hf_mamba2")
    theirs = Mamba2ForCausalLM.from_pretrained(folder).eval()
    cases: dict[str, dict[str, Callable[[], Any]]] = {
        "forward": {
            "ours": lambda: model(tokens),
            "transformers": lambda: theirs(tokens, use_cache=False).logits,
        },
    }
    errors = {"transformers, logits": _error(theirs(tokens, use_cache=False).logits, model(tokens))}
    if importlib.util.find_spec("transformer_lens") is None:
        return cases, errors
    from transformer_lens.model_bridge import TransformerBridge

    bridges = {}
    for name, is_eager in (("TransformerLens", False), ("TransformerLens, eager scan", True)):
        hf_model = Mamba2ForCausalLM.from_pretrained(folder)
        bridges[name] = TransformerBridge.boot_transformers(str(folder), hf_model=hf_model, device="cpu")
        for block in bridges[name].blocks:
            block.mixer.eager_scan = is_eager
    cases["run_with_cache"] = {"ours": lambda: model.run_with_cache(tokens)} | {
        name: lambda bridge=bridge: bridge.run_with_cache(tokens, use_cache=False) for name, bridge in bridges.items()
    }
    eager = bridges["TransformerLens, eager scan"]

    def their_attention() -> list[Tensor]:
        _, cache = eager.run_with_cache(tokens, use_cache=False)
        return [
            block.mixer.compute_effective_attention(cache, layer_idx=index, include_dt_scaling=True)
            for index, block in enumerate(eager.blocks)
        ]

    cases["forward and the attention of every block"] = {
        "ours": lambda: [record.weights for record in extract_attention(model, tokens)],
        "TransformerLens, eager scan": their_attention,
    }
    pairs = zip(their_attention(), [record.weights for record in extract_attention(model, tokens)], strict=True)
    errors["TransformerLens, attention"] = max(_error(given, ours) for given, ours in pairs)
    return cases, errors


def _error(given: Tensor, ours: Tensor) -> float:
    return float((given - ours).abs().max() / ours.abs().max())


def seconds(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """By the clock and of the processor, of each contender in alternating rounds after one that does not count."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            clock, processor = time.perf_counter(), time.process_time()
            run()
            spent[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return {name: times[1:] for name, times in spent.items()}


def report(case: str, spent: dict[str, list[tuple[float, float]]]) -> dict[str, object]:
    """Print and return median and spread, and the ratio to ours of the medians."""
    print(case, flush=True)
    rows: dict[str, object] = {}
    for name, times in spent.items():
        row = {}
        for which, clock in enumerate(("wall", "processor")):
            values, ours = [time[which] for time in times], [time[which] for time in spent["ours"]]
            ratio = statistics.median(values) / statistics.median(ours)
            row[clock] = {"median_s": statistics.median(values), "low_s": min(values), "high_s": max(values)}
            row[clock]["ratio"] = ratio
            text = f"{statistics.median(values):.3f} s ({min(values):.3f} to {max(values):.3f})"
            print(f"  {name:30s} {clock:10s} {text:30s} {ratio:5.2f} x ours", flush=True)
        rows[name] = row
    return rows


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    tokens = torch.randint(0, CFG.d_vocab, (1, options.length), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        cases, errors = contenders(Path(folder), tokens)
        results = {case: report(case, seconds(runs, options.rounds)) for case, runs in cases.items()}
    print("largest difference from ours, relative:", {name: f"{error:.1e}" for name, error in errors.items()})
    if options.out is not None:
        settings = {name: str(value) for name, value in vars(options).items()}
        options.out.write_text(json.dumps(results | {"settings": settings, "errors": errors}, indent=1) + "\n")


if __name__ == "__main__":
    main()
