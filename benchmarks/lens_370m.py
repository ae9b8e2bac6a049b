"""What tuned lenses for a pair of 370M models cost: time and memory, on random weights of the published shapes.

Run on a machine with an NVIDIA GPU: `python benchmarks/lens_370m.py [--steps 3] [--out results.json]`, or anywhere:
`python benchmarks/lens_370m.py --device cpu --tiny`. Both models are those of recipes/paper_a5_*.toml, the training is
that of recipes/lenses/*.toml, with fewer tokens a step; the whole run's time follows from the tokens per second of the
median step after the first, in which kernels are compiled.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffmamba_interp import HookedMamba, HookedMambaConfig
from diffmamba_interp.lens import LensRecipe, LensTraining, TunedLens
from diffmamba_interp.lm_training.recipe import Recipe
from diffmamba_interp.models.checkpoints import parameter_dtype
from diffmamba_interp.runs.settings import read_toml
from diffmamba_interp.text.batches import RandomTokenBatches

RECIPES = Path(__file__).parent.parent / "recipes"
MODELS = {"mamba2": "paper_a5_mamba2_370m", "diff-mamba2": "paper_a5_diff_mamba2_370m"}
TINY: dict[str, Any] = {
    "d_model": 64,
    "n_layers": 4,
    "d_vocab": 1000,
    "d_vocab_padding": 0,
    "d_state": 16,
    "d_head": 16,
}
TINY_TOKENS = {"sequence_length": 64, "tokens_per_step": 256}


def measure(name: str, *, device: torch.device, steps: int, tokens_per_step: int, is_tiny: bool) -> dict[str, Any]:
    """Tokens per second, seconds of the recipe's whole run, and bytes beyond the model's own."""
    config = read_toml(Recipe, RECIPES / f"{MODELS[name]}.toml").model.config
    recipe = read_toml(LensRecipe, RECIPES / "lenses" / f"{name.replace('-', '_')}_370m.toml")
    assert config is not None
    assert recipe.steps is not None
    assert recipe.tokens_per_step is not None
    whole = recipe.steps * recipe.tokens_per_step
    tokens = TINY_TOKENS if is_tiny else {"tokens_per_step": tokens_per_step}
    recipe = replace(recipe, steps=steps, **tokens)
    model = random_model(replace(config, **(TINY if is_tiny else {})), device)
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    batches = RandomTokenBatches(
        model.cfg.d_vocab, length=recipe.sequence_length, batch_size=recipe.sequences_per_step, seed=0
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    training = LensTraining(model, TunedLens.from_model(model), batches, recipe, dtype=torch.bfloat16)
    seconds, before = [], time.perf_counter()
    for _ in training.run():
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    rate = recipe.sequences_per_step * recipe.sequence_length / statistics.median(seconds[1:])
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {
        "n_parameters": sum(weight.numel() for weight in model.parameters()),
        "tokens_per_s": rate,
        "first_step_s": seconds[0],
        "whole_run_s": whole / rate,
        "weights_bytes": weights,
        "peak_bytes": peak,
        "micro_batch": training.micro_batch,
    }


def random_model(config: HookedMambaConfig, device: torch.device) -> HookedMamba:
    """New weights, in bfloat16 where a checkpoint has them so."""
    torch.manual_seed(0)
    with torch.device(device):
        model = HookedMamba(config).requires_grad_(False).eval()
    for name, weight in model.named_parameters():
        weight.data = weight.data.to(parameter_dtype(name, torch.bfloat16))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--steps", type=int, default=4, help="optimiser steps of each model, at least 2")
    parser.add_argument("--tokens-per-step", type=int, default=2**16)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    results: dict[str, Any] = {"gpu": gpu, "torch": torch.__version__, "python": platform.python_version()}
    for name in MODELS:
        cost = measure(
            name,
            device=device,
            steps=options.steps,
            tokens_per_step=options.tokens_per_step,
            is_tiny=options.tiny,
        )
        results[name] = cost
        peak = "not known" if cost["peak_bytes"] is None else f"{cost['peak_bytes'] / 1e9:.2f} GB"
        print(
            f"{name:12s} {cost['n_parameters'] / 1e6:.2f}M parameters: {cost['tokens_per_s']:,.0f} tokens/s, the "
            f"recipe's run {cost['whole_run_s'] / 60:.1f} minutes, memory at most {peak} "
            f"(weights {cost['weights_bytes'] / 1e9:.2f} GB), first step {cost['first_step_s']:.1f} s",
            flush=True,
        )
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
