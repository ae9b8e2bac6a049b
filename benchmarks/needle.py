"""Needle probability per block: `needle_trajectory` beside a re-creation of the way in which it was published.

    python benchmarks/needle.py --device cpu                 the bundled Diff-Mamba-2
    python benchmarks/needle.py --device cuda                the 370M shape (alternate placement), random weights

Same prompts, same model, same lenses, one process, alternating rounds. The published way (a trajectory of the
tuned-lens library and a loop over blocks) takes one prompt at a time, decodes every position of every block into one
array [stage, pos, d_vocab] on the host, and exponentiates all of it again for every number that it takes out, since the
library's `probs` is a property. Two contenders do so:

    published, one token      as published: the answer's first token, one lens
    published, same numbers   the first token of the answer and of every distractor, tuned and logit lens: what a
                              signal-to-noise ratio needs, and the numbers that ours gives

Ours reads tuned and logit lens, answer and distractors, ranks, entropy and KL in each round; its time is compared with
both. All must agree on what they have in common. At the 370M shape the published array has 10 GB and its exponentials
take minutes, so only --exponentials of them are made there: the ratio is then a lower bound.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffmamba_interp import (
    DifferentialConfig,
    HookedMamba,
    HookedMambaConfig,
    LogitLens,
    TunedLens,
    load_demo,
    make_needle_samples,
)
from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle import NeedleSample, needle_trajectory

FULL = HookedMambaConfig(
    d_model=1024,
    n_layers=48,
    d_vocab=50_288,
    tie_embeddings=True,
    differential=DifferentialConfig(placement="alternate"),
)


OURS = "ours"
Lens = TunedLens | LogitLens
Tokens = Callable[[NeedleSample], list[int]]


def published_way(
    model: HookedMamba, lenses: dict[str, Lens], samples: Sequence[NeedleSample], tokens: Tokens, limit: int | None
) -> np.ndarray:
    """[lens, sample, stage, token] probabilities; NaN beyond `limit` exponentials a prompt and lens."""
    n_stages = model.cfg.n_layers + 1
    found = np.full((len(lenses), len(samples), n_stages, len(tokens(samples[0]))), np.nan)
    for k, lens in enumerate(lenses.values()):
        for s, sample in enumerate(samples):
            log_probs = _all_log_probs(model, lens, torch.from_numpy(sample.tokens).long()[None])
            # From the output backwards, so that a bounded run has what is hardest to agree on.
            places = itertools.product(range(n_stages - 1, -1, -1), enumerate(tokens(sample)))
            for stage, (column, token) in itertools.islice(places, limit):
                found[k, s, stage, column] = np.exp(log_probs)[stage, -1, token]
    return found


def answer_alone(sample: NeedleSample) -> list[int]:
    return [sample.answer_tokens[0]]


def every_label(sample: NeedleSample) -> list[int]:
    return [tokens[0] for tokens in sample.label_tokens]


@torch.no_grad()
def _all_log_probs(model: HookedMamba, lens: Lens, tokens: Tensor) -> np.ndarray:
    """[stage, pos, d_vocab] on the host."""
    logits, cache = model.run_with_cache(tokens.to(model.embed.weight.device), "blocks.*.hook_resid_pre")
    stages = [
        lens(cache[f"blocks.{i}.hook_resid_pre"], i).log_softmax(-1)[0].float().cpu().numpy()
        for i in range(model.cfg.n_layers)
    ]
    return np.stack([*stages, logits.log_softmax(-1)[0].float().cpu().numpy()])


def our_way(model: HookedMamba, lenses: dict[str, Lens], samples: Sequence[NeedleSample]) -> np.ndarray:
    """[lens, sample, stage, label] probabilities, from a trajectory, which holds much more."""
    return np.exp(needle_trajectory(model, lenses, samples).log_probs)


def seconds_per_prompt(run: Callable[[], np.ndarray], n: int) -> tuple[float, float, np.ndarray]:
    """By the clock, and of the processor: the second does not count what other processes take."""
    _synchronize()
    start, processor = time.perf_counter(), time.process_time()
    found = run()
    _synchronize()
    return (time.perf_counter() - start) / n, (time.process_time() - processor) / n, found


def model_and_lenses(device: torch.device) -> tuple[HookedMamba, dict[str, Lens]]:
    """The model, a tuned lens with small random translators, and the logit lens."""
    torch.manual_seed(0)
    if device.type == "cuda":
        model = HookedMamba(FULL).to(device, torch.bfloat16)
    else:
        model, _ = load_demo("diff-mamba2", device=device)
    model.requires_grad_(False)
    lens = TunedLens.from_model(model)
    for translator in lens.layer_translators:
        translator.weight.normal_(std=0.1 / model.cfg.d_model)
    return model.eval(), {"tuned": lens, "logit": LogitLens.from_model(model)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--length", type=int, default=1024, help="tokens per prompt")
    parser.add_argument("--prompts", type=int, help="read by ours in each round; 8 on a CPU, 64 on a GPU")
    parser.add_argument("--published-prompts", type=int, default=1, help="of those, read the published way")
    parser.add_argument("--exponentials", type=int, help="of the published way, a prompt and lens; 1 on a GPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one-token", action="store_true", help="of the published way, the one-token form alone")
    parser.add_argument("--threads", type=int, help="of torch on a CPU")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    limit = options.exponentials or (1 if on_gpu else None)
    n_ours, n_published = options.prompts or (64 if on_gpu else 8), options.published_prompts
    model, lenses = model_and_lenses(device)
    samples = make_needle_samples(load_demo_tokenizer(), task="qa1", n=n_ours, length=options.length)
    some, tuned = samples[:n_published], {"tuned": lenses["tuned"]}
    runs: dict[str, tuple[Callable[[], np.ndarray], int]] = {
        OURS: (lambda: our_way(model, lenses, samples), n_ours),
        "published, one token": (lambda: published_way(model, tuned, some, answer_alone, limit), n_published),
        "published, same numbers": (lambda: published_way(model, lenses, some, every_label, limit), n_published),
    }
    if options.one_token:
        del runs["published, same numbers"]
    our_way(model, lenses, samples)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    found: dict[str, np.ndarray] = {}
    for _ in range(options.rounds):
        for name, (run, n) in runs.items():
            *spent, found[name] = seconds_per_prompt(run, n)
            times[name].append((spent[0], spent[1]))
            print(f"  round: {name}, {spent[0]:.4f} s a prompt", flush=True)
    results = {
        name: report(name, spent, times[OURS], "" if limit is None else "at least ") for name, spent in times.items()
    }
    error = largest_difference(samples, found)
    print(f"largest difference of a probability {error:.2e}")
    if options.out is not None:
        settings = {name: str(value) for name, value in vars(options).items()}
        name = torch.cuda.get_device_name(device) if on_gpu else platform.processor() or "cpu"
        results |= {"device": name, "torch": torch.__version__, "settings": settings, "largest_difference": error}
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def report(
    name: str, spent: list[tuple[float, float]], ours: list[tuple[float, float]], least: str
) -> dict[str, object]:
    """Print and return a contender's median times, their spread, and the ratios to ours."""
    row: dict[str, object] = {}
    for which, clock in enumerate(("wall", "processor")):
        own, base = [one[which] for one in spent], [one[which] for one in ours]
        ratio = statistics.median(own) / statistics.median(base)
        row[clock] = {"median_s": statistics.median(own), "low_s": min(own), "high_s": max(own), "ratio": ratio}
        line = f"{name:24s} {clock:9s} {statistics.median(own):9.4f} s a prompt ({min(own):.4f} to {max(own):.4f})"
        print(line if name == OURS else f"{line}, {least}{ratio:.1f} times ours", flush=True)
    return row


def largest_difference(samples: Sequence[NeedleSample], found: dict[str, np.ndarray]) -> float:
    """Of any probability that two contenders give."""
    ours, worst = found[OURS], 0.0
    for name, theirs in found.items():
        own = ours[: len(theirs), : theirs.shape[1]]
        if theirs.shape[-1] == 1:
            answers = np.array([one.labels.index(one.answer) for one in samples[: theirs.shape[1]]])
            own = np.take_along_axis(own, answers[None, :, None, None], axis=-1)
        if name != OURS:
            worst = max(worst, float(np.nanmax(np.abs(own - theirs))))
    return worst


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
