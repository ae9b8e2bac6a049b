"""A training step of every kind of model: as one CUDA graph, and its kernels launched one by one.

Run on a machine with an NVIDIA GPU: `python benchmarks/lm_step.py [--only KIND ...] [--out results.json]`. The sizes,
rows and optimiser are those of recipes/demo_*.toml (bfloat16, 32 rows of 1,024 random tokens); every kind learns the
same rows. Milliseconds by the wall clock, since launching is what a graph saves.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig
from diffmamba_interp.lm_training.loss import RoleSums
from diffmamba_interp.lm_training.mixture import Batch, Role
from diffmamba_interp.lm_training.optimiser import make_optimiser
from diffmamba_interp.lm_training.recipe import Recipe
from diffmamba_interp.lm_training.step import Step, make_step
from diffmamba_interp.runs.process_group import ProcessGroup
from diffmamba_interp.runs.settings import read_toml

RECIPE = Path(__file__).parent.parent / "recipes" / "demo_diff_mamba2.toml"
MAMBA1: dict[str, Any] = {"mixer": "mamba1", "d_state": 16}
HEAD_GATE = DifferentialConfig(subtract_at="scan", lambda_form="token_head_gate", normalisation="none")
KINDS: dict[str, dict[str, Any]] = {
    "mamba2": {"d_head": 32},
    "diff-mamba2": {"d_head": 32, "differential": DifferentialConfig()},
    "diff-mamba2, token gate": {"d_head": 32, "differential": DifferentialConfig(lambda_form="token_gate")},
    "diff-s6 over mamba2": {
        "d_head": 32,
        "differential": DifferentialConfig(subtract_at="gated", lambda_form="sigmoid"),
    },
    "diff-s6 over mamba2, scans": {"d_head": 32, "differential": DifferentialConfig(subtract_at="scan")},
    "head gate over mamba2": {"d_head": 32, "differential": HEAD_GATE},
    "mamba1": MAMBA1,
    "falcon-mamba": {**MAMBA1, "scan_norm_eps": 1e-6},
    "diff-mamba1": {**MAMBA1, "differential": DifferentialConfig(lambda_form="exp_dot")},
    "diff-s6 over mamba1": {
        **MAMBA1,
        "differential": DifferentialConfig(subtract_at="scan", lambda_form="one", normalisation="none"),
    },
}
"""What of the config each kind changes in that of the recipe."""


def measure(kind: str, recipe: Recipe, n_steps: int) -> dict[str, Any]:
    """Median seconds a step (low, high) of both ways, and the loss after the same steps."""
    group = ProcessGroup(device=torch.device("cuda", 0))
    batch = random_rows(recipe)
    ways: dict[str, Step] = {}
    for way, graph in (("graph", True), ("one by one", False)):
        torch.manual_seed(0)
        model = HookedMamba(config(recipe, kind)).to(group.device).train()
        optimiser = make_optimiser(model, recipe.optimiser)
        ways[way] = make_step(model, optimiser, replace(recipe, cuda_graph=graph), group)
    sums = RoleSums(group.device)
    losses = {way: [float(step(batch, 1e-3, sums)[0]) for _ in range(6)][-1] for way, step in ways.items()}
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(3):
        for way, step in ways.items():
            spent[way].append(seconds_each(step, batch, sums, n_steps))
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "loss": losses,
        "seconds": {way: (statistics.median(each), min(each), max(each)) for way, each in spent.items()},
        "tokens_per_s": batch.inputs.numel() / statistics.median(spent["graph"]),
    }


def seconds_each(step: Step, batch: Batch, sums: RoleSums, n: int) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(n):
        step(batch, 1e-3, sums)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / n


def config(recipe: Recipe, kind: str) -> HookedMambaConfig:
    base = recipe.model.config
    assert base is not None
    shared = {name: getattr(base, name) for name in ("d_model", "n_layers", "d_vocab", "d_state", "tie_embeddings")}
    return HookedMambaConfig(**(shared | KINDS[kind]))


def random_rows(recipe: Recipe) -> Batch:
    assert recipe.model.config is not None
    shape = (recipe.batch_size, recipe.data.length + 1)
    tokens = torch.randint(0, recipe.model.config.d_vocab, shape, generator=torch.Generator().manual_seed(1))
    return Batch(tokens.to(torch.uint16), torch.full(shape, Role.TEXT, dtype=torch.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=KINDS, default=list(KINDS), help="measure these kinds only")
    parser.add_argument("--steps", type=int, default=10, help="steps a round")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    recipe = read_toml(Recipe, RECIPE)
    results: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    results |= {"python": platform.python_version(), "kinds": {}}
    for kind in options.only:
        results["kinds"][kind] = measured = measure(kind, recipe, options.steps)
        (graph, *spread), (slow, *slow_spread) = measured["seconds"].values()
        print(
            f"  {kind:26s} {1e3 * graph:7.2f} ms ({1e3 * spread[0]:.2f} to {1e3 * spread[1]:.2f}), one by one "
            f"{1e3 * slow:7.2f} ({1e3 * slow_spread[0]:.2f} to {1e3 * slow_spread[1]:.2f}): {slow / graph:.2f} x; "
            f"{measured['tokens_per_s'] / 1e6:.2f}M tokens/s; {measured['parameters'] / 1e6:.2f}M parameters; "
            f"loss {measured['loss']['graph']:.4f} and {measured['loss']['one by one']:.4f}",
            flush=True,
        )
        torch.cuda.empty_cache()
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
