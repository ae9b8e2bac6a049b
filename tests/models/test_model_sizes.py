"""Parameter counts at the published size, and a checkpoint of that size on a laptop."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig

SIZES_370M: dict[str, Any] = {
    "d_model": 1024,
    "n_layers": 48,
    "d_vocab": 50_288,
    "d_state": 128,
    "tie_embeddings": True,
}


def n_parameters(**changes: Any) -> int:
    with torch.device("meta"):
        model = HookedMamba(HookedMambaConfig(**(SIZES_370M | changes)))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("placement", "millions"), [(None, 368.35), ("alternate", 375.51), ("all", 382.67)])
def test_the_370m_model_has_the_published_number_of_parameters(placement: Any, millions: float) -> None:
    differential = None if placement is None else DifferentialConfig(placement=placement)
    assert round(n_parameters(differential=differential) / 1e6, 2) == millions


@pytest.mark.parametrize("head_division", ["d_head", "n_heads"])
@pytest.mark.parametrize("form", ["sigmoid_sum", "exp_dot"])
def test_a_model_without_memory_counts_as_one_with_values(head_division: Any, form: Any) -> None:
    small = {
        "d_model": 64, "n_layers": 4, "d_vocab": 100, "d_head": 16, "d_state": 16,
        "differential": DifferentialConfig(head_division=head_division, lambda_form=form),
    }  # fmt: skip
    built = HookedMamba(HookedMambaConfig(**(SIZES_370M | small)))
    assert n_parameters(**small) == sum(parameter.numel() for parameter in built.parameters())


WRITE_LOAD_RUN = """
import json, resource, sys, time
import torch
from diffmamba_interp import HookedMamba, HookedMambaConfig, DifferentialConfig
from diffmamba_interp.models.checkpoints import save_model

folder, sizes = sys.argv[1], json.loads(sys.argv[2])
if sys.argv[3] == "write":
    with torch.device("meta"):
        model = HookedMamba(HookedMambaConfig(**sizes, differential=DifferentialConfig(placement="alternate")))
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    model.tie_embeddings()
    pool = 0.05 * torch.randn(2**26).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(pool[: parameter.numel()].view_as(parameter))
    save_model(model, folder, format="diff_mamba", max_shard_size=sys.argv[4])
    sys.exit()
start = time.monotonic()
model = HookedMamba.from_pretrained(folder)
with torch.no_grad():
    logits, cache = model.run_with_cache(torch.randint(0, model.cfg.d_vocab, (1, 64)))
print(json.dumps({
    "seconds": time.monotonic() - start,
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "model_bytes": sum(parameter.nbytes for parameter in model.parameters()),
    "finite": bool(logits.isfinite().all()),
    "cached": len(cache),
    "points": len(model.hook_points),
}))
"""


def write_load_run(folder: Path, sizes: dict[str, Any], max_shard_size: str) -> dict[str, Any]:
    """In processes of their own, so that the peak memory is that of loading and running."""
    call = [sys.executable, "-c", WRITE_LOAD_RUN, str(folder), json.dumps(sizes)]
    subprocess.run([*call, "write", max_shard_size], check=True, timeout=100)
    done = subprocess.run([*call, "run"], check=True, timeout=100, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_sharded_370m_checkpoint_loads_and_runs_hooked_on_a_laptop(tmp_path: Path) -> None:
    """Bounds: 60 s and 6 GB for loading and one forward pass of 64 tokens with every usual point cached."""
    seen = write_load_run(tmp_path, SIZES_370M, "300MB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) >= 3
    assert seen["finite"]
    assert seen["points"] > seen["cached"] > 1000
    assert seen["seconds"] < 60
    assert seen["peak_bytes"] < 6e9
