"""A first look at a Diff-Mamba model: its blocks, its internal values, one edit, one attention picture.

`python analyses/quickstart/run.py [checkpoint folder or hub id]`
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from diffmamba_interp import HookedMamba, extract_attention
from diffmamba_interp.hook_names import block_point, branch_out, differential_point

FIXTURE = Path(__file__).parents[2] / "tests" / "fixtures" / "published_diffmamba2" / "alternate"


def main(path: str | Path = FIXTURE) -> None:
    model = HookedMamba.from_pretrained(path)
    tokens = torch.randint(0, model.cfg.d_vocab, (1, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
        print(f"{len(cache)} named values from one forward pass, {cache.n_bytes / 2**20:.1f} MiB\n")
        print("block  kind           |resid_post|  |mixer_out|  cos(minuend, subtrahend)  lambda")
        for block in range(model.cfg.n_layers):
            print(block_row(model, cache, block))
        if model.cfg.differential_blocks:
            show_edit(model, tokens, logits)
            show_attention(model, tokens)


def block_row(model: HookedMamba, cache, block: int) -> str:
    stream = cache[block_point(block, "resid_post")].norm(dim=-1).mean()
    written = cache[block_point(block, "mixer_out")].norm(dim=-1).mean()
    row = f"{block:5d}  {model.cfg.block_kind(block):12s} {stream:14.3f} {written:12.3f}"
    if model.cfg.block_kind(block) == "plain":
        return row
    minuend, subtrahend = (cache[branch_out(block, branch)] for branch in ("minuend", "subtrahend"))
    cosine = torch.cosine_similarity(minuend, subtrahend, dim=-1).mean()
    return f"{row} {cosine:25.3f} {cache[differential_point(block, 'lambda')]:7.3f}"


def show_edit(model: HookedMamba, tokens: torch.Tensor, logits: torch.Tensor) -> None:
    """Restore the noise: lambda = 0 in every differential block."""
    name = "blocks.*.mixer.hook_lambda"
    edited = model.run_with_hooks(tokens, [(name, lambda value, name: torch.zeros_like(value))])
    kl = torch.nn.functional.kl_div(edited.log_softmax(-1), logits.softmax(-1), reduction="none").sum(-1).mean()
    print(f"\nwith lambda = 0 everywhere the output moves by {kl:.3f} nats (KL, mean over positions)")


def show_attention(model: HookedMamba, tokens: torch.Tensor) -> None:
    block = model.cfg.differential_blocks[0]
    record = extract_attention(model, tokens, block=block, kind="hidden", reduce="abs_mean")
    print(f"\nhidden attention of block {block}, mean |weight| over heads, last position:")
    for name in ("minuend", "subtrahend"):
        row = getattr(record, name)[0, -1]
        top = row.abs().topk(5).indices.tolist()
        print(f"  {name:10s} reads most from positions {top}, {float(row.abs().sum()):.3f} in all")


if __name__ == "__main__":
    main(*sys.argv[1:2])
