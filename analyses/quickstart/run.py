"""A first look: the demo pair answers needle prompts; a Diff-Mamba's internal values, one edit, one attention picture.

`python analyses/quickstart/run.py [checkpoint folder or hub id]`; a checkpoint of your own is shown with random tokens.
"""

from __future__ import annotations

import sys

import torch

from diffmamba_interp import ActivationCache, HookedMamba, extract_attention, load_demo, make_needle_samples
from diffmamba_interp.hook_names import block_point, branch_out, differential_point


def main(path: str | None = None) -> None:
    if path is not None:
        model = HookedMamba.from_pretrained(path)
        tokens = torch.randint(0, model.cfg.d_vocab, (1, 48), generator=torch.Generator().manual_seed(0))
        show_model(model, tokens, None)
        return
    model, tokenizer = load_demo("diff-mamba2")
    plain, _ = load_demo("mamba2")
    print("Needle prompts: a fact among about 500 tokens of filler\n")
    print("task  question                              truth       Diff-Mamba-2  Mamba-2")
    samples = [make_needle_samples(tokenizer, task=task, n=2, length=512, seed=1) for task in ("qa1", "qa2", "qa5")]
    for sample in (sample for pair in samples for sample in pair):
        answers = [answer(one, tokenizer, sample.tokens) for one in (model, plain)]
        question = sample.question
        print(f"{sample.task}   {question[:36]:36s}  {sample.answer.strip():10s}  {answers[0]:12s}  {answers[1]}")
    print()
    prompt = samples[0][0]
    show_model(model, torch.as_tensor(prompt.tokens).long()[None], tokenizer)


def answer(model: HookedMamba, tokenizer, tokens) -> str:
    """The word that the model continues the prompt with."""
    prompt = torch.as_tensor(tokens).long()[None]
    continuation = model.generate(prompt, max_new_tokens=3)[0, prompt.shape[1] :]
    return (tokenizer.decode(continuation).replace("<|endoftext|>", " ").split() or [""])[0]


def show_model(model: HookedMamba, tokens: torch.Tensor, tokenizer) -> None:
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
        print(f"{len(cache)} named values from one forward pass, {cache.n_bytes / 2**20:.1f} MiB\n")
        print("block  kind           |resid_post|  |mixer_out|  cos(minuend, subtrahend)  lambda")
        for block in range(model.cfg.n_layers):
            print(block_row(model, cache, block))
        if model.cfg.differential_blocks:
            show_edit(model, tokens, logits)
            show_attention(model, tokens, tokenizer)


def block_row(model: HookedMamba, cache: ActivationCache, block: int) -> str:
    stream = cache[block_point(block, "resid_post")].norm(dim=-1).mean()
    written = cache[block_point(block, "mixer_out")].norm(dim=-1).mean()
    row = f"{block:5d}  {model.cfg.block_kind(block):12s} {stream:14.3f} {written:12.3f}"
    if model.cfg.block_kind(block) == "plain":
        return row
    minuend, subtrahend = (cache[branch_out(block, branch)] for branch in ("minuend", "subtrahend"))
    cosine = torch.cosine_similarity(minuend, subtrahend, dim=-1).mean()
    return f"{row} {cosine:25.3f} {cache[differential_point(block, 'lambda')]:7.3f}"


def show_edit(model: HookedMamba, tokens: torch.Tensor, logits: torch.Tensor) -> None:
    """Take the subtraction away: lambda = 0 in every differential block."""
    name = "blocks.*.mixer.hook_lambda"
    edited = model.run_with_hooks(tokens, [(name, lambda value, name: torch.zeros_like(value))])
    kl = torch.nn.functional.kl_div(edited.log_softmax(-1), logits.softmax(-1), reduction="none").sum(-1).mean()
    print(f"\nwith lambda = 0 everywhere the output moves by {kl:.3f} nats (KL, mean over positions)")


def show_attention(model: HookedMamba, tokens: torch.Tensor, tokenizer) -> None:
    """What the last position of the last differential block reads in each branch's scan."""
    block = model.cfg.differential_blocks[-1]
    record = extract_attention(model, tokens, block=block, kind="hidden", reduce="abs_mean", rows=[-1])
    print(f"\nhidden attention of block {block}, mean |weight| over heads, last position:")
    for name in ("minuend", "subtrahend"):
        row = getattr(record, name)[0, -1]
        top = row.abs().topk(5).indices.tolist()
        read = [repr(tokenizer.decode([int(tokens[0, at])])) for at in top] if tokenizer else [str(at) for at in top]
        print(f"  {name:10s} reads most from {', '.join(read)}; {float(row.abs().sum()):.3f} in all")


if __name__ == "__main__":
    main(*sys.argv[1:2])
