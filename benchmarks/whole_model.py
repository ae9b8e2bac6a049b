"""The whole 370M model through the ordinary calls, by graphs and without: forward, caches, long prompts, generation.

Run on a machine with an NVIDIA GPU: `python benchmarks/whole_model.py [--only CASE ...] [--out results.json]`. Random
weights in bfloat16, plain and alternate; everything in one process, in alternating rounds where contenders stand side
by side, each line printed when it is known: `--only forward`, `long`, `generation`, `attention`, `needle`, `lens` (the
trajectory) or `peer` takes one to two minutes, most of it for compiling. What the instruments take is compared with the
tensors of the same work replayed as one graph, by hand.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from block_forward import D_VOCAB, LENGTH, N_LAYERS, config, to_bf16
from timing import Timing, captured, time_side_by_side
from torch import Tensor

from diffmamba_interp import (
    HookedMamba,
    LogitLens,
    TunedLens,
    extract_attention,
    lens_trajectory,
    make_needle_samples,
    needle_trajectory,
)
from diffmamba_interp.hook_points import Recorder
from diffmamba_interp.implicit_attention import capture_block, hidden_attention
from diffmamba_interp.lens import residual_stream
from diffmamba_interp.lens.objective import ReadOut, log_probabilities
from diffmamba_interp.lens.trajectory import _reading
from diffmamba_interp.lens.unembedding import ModelUnembed, chunk_tokens
from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.models.forward_pass import CarriedState
from diffmamba_interp.needle.trajectory import _by_stage, _Ends

RESID_POST = "blocks.*.hook_resid_post"
LONG = (16_384, 65_536)
BLOCK = 24
INSTRUMENTS = {"attention": "extract_attention", "needle": "needle_trajectory", "lens": "lens_trajectory"}
WAYS = ("launched one by one", "bare graph", "its tensors in one graph")


def random_model(placement: str | None) -> HookedMamba:
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = HookedMamba(config(placement))
    to_bf16(model)
    return model.requires_grad_(False)


def measure_forward(model: HookedMamba, name: str) -> dict[str, Timing]:
    """One prompt through `model(tokens)` and `run_with_cache`, without graphs, with them, and the bare graph."""
    tokens = torch.randint(0, D_VOCAB, (1, LENGTH), device="cuda")
    calls: dict[str, Callable[[], object]] = {
        "model(tokens)": lambda: model(tokens),
        "run_with_cache, every resid_post": lambda: model.run_with_cache(tokens, RESID_POST),
    }
    timings = {}
    for what, call in calls.items():
        model.cuda_graphs = False
        slow = time_side_by_side({f"{name}, {what}, launched one by one": call}, rounds=3, calls=2)
        graph = captured(call)
        model.cuda_graphs = True
        fast = time_side_by_side({f"{name}, {what}": call, f"{name}, {what}, bare graph": graph})
        report(slow | fast)
        timings |= slow | fast
    return timings


def measure_peer() -> dict[str, Timing]:
    """mamba_ssm's model on the same prompt, as it is called and as a graph."""
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    cfg = MambaConfig(
        d_model=1024, n_layer=N_LAYERS, vocab_size=D_VOCAB, ssm_cfg={"layer": "Mamba2"}, pad_vocab_size_multiple=16
    )
    peer = MambaLMHeadModel(cfg, device="cuda", dtype=torch.bfloat16)
    tokens = torch.randint(0, D_VOCAB, (1, LENGTH), device="cuda")
    timings = time_side_by_side({"mamba_ssm model": lambda: peer(tokens).logits.float()}, rounds=3, calls=3)
    graph = captured(lambda: peer(tokens).logits.float())
    timings |= time_side_by_side({"mamba_ssm model, bare graph": graph})
    report(timings)
    return timings


def measure_long(model: HookedMamba, name: str) -> dict[str, dict[str, float]]:
    """Seconds and peak bytes (weights included) of the last position's logits of one long prompt."""
    found = {}
    for length in LONG:
        tokens = torch.randint(0, D_VOCAB, (1, length), device="cuda")
        model(tokens, positions=[-1])
        model.cuda_graphs = True
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        spent = [_wall_seconds(lambda tokens=tokens: model(tokens, positions=[-1])) for _ in range(4)][1:]
        peak = torch.cuda.max_memory_reserved()
        what = f"{name}, {length} tokens, last position's logits"
        found[what] = _spread(spent) | {"peak_bytes": float(peak)}
        show("long", what, found[what], f"s, peak {peak / 1e9:.2f} GB")
    return found


def measure_generation(model: HookedMamba, name: str, n_new: int = 48) -> dict[str, dict[str, float]]:
    """Tokens per second of generation's step at batch 1, after a prompt of 512, each chosen from the last logits."""
    prompt = torch.randint(0, D_VOCAB, (1, 512), device="cuda")
    found = {}
    for graphs, n in ((False, n_new // 6), (True, n_new)):
        model.cuda_graphs = graphs
        logits, state = model.forward_with_state(prompt, last_only=True)
        carried = CarriedState(state)

        first = logits.argmax(dim=-1)
        choose_on(model, carried, first, 3)
        rates = [
            n / _wall_seconds(lambda n=n, carried=carried, first=first: choose_on(model, carried, first, n))
            for _ in range(3)
        ]
        what = f"{name}, {'graphs' if graphs else 'launched one by one'}"
        found[what] = _spread(rates)
        show("generation", what, found[what], "tokens/s")
    return found


def choose_on(model: HookedMamba, state: CarriedState, chosen: Tensor, n: int) -> None:
    for _ in range(n):
        chosen = model.step(chosen, state).argmax(dim=-1)


def measure_instruments(model: HookedMamba, wanted: Collection[str]) -> dict[str, Timing]:
    """Each wanted instrument on one prompt, beside the tensors of its work in one graph."""
    tokens = torch.randint(0, D_VOCAB, (1, LENGTH), device="cuda")
    tuned, logit = TunedLens.from_model(model).requires_grad_(False), LogitLens.from_model(model)
    sample = make_needle_samples(load_demo_tokenizer(), task="qa1", n=1, length=1024)[0]
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "attention": (lambda: extract_attention(model, tokens, block=BLOCK), lambda: attention_tensors(model, tokens)),
        "needle": (
            lambda: needle_trajectory(model, {"tuned": tuned, "logit": logit}, [sample]),
            needle_tensors(model, {"tuned": tuned, "logit": logit}, sample),
        ),
        "lens": (lambda: lens_trajectory(model, tuned, tokens), lambda: lens_tensors(model, tuned, tokens)),
    }
    timings = {}
    for name in (name for name in pairs if name in wanted):
        ours, tensors = pairs[name]
        model.cuda_graphs = False
        tensors()
        graph = captured(tensors)
        model.cuda_graphs = True
        case = INSTRUMENTS[name]
        measured = time_side_by_side({case: ours, f"{case}, its tensors in one graph": graph}, rounds=3, calls=3)
        report(measured)
        timings |= measured
        del graph
    return timings


def attention_tensors(model: HookedMamba, tokens: Tensor) -> object:
    branches = capture_block(model, tokens, BLOCK).branches
    return [hidden_attention(b.dt, None, b.B, b.C, log_decay=b.log_decay) for b in branches]


def lens_tensors(model: HookedMamba, lens: TunedLens, tokens: Tensor) -> object:
    stream = residual_stream(model, tokens).flat()
    read_out, of_model = ReadOut.of(lens.unembed), ReadOut.of(ModelUnembed(model))
    size = chunk_tokens(read_out.weight)
    columns = []
    for first in range(0, len(stream.final), size):
        chunk = slice(first, first + size)
        final = log_probabilities(of_model, stream.final[chunk])
        for i, h in enumerate(stream.entering):
            q = log_probabilities(read_out, lens.transform_hidden(h[chunk], i))
            columns.append({k: v for k, v in _reading(q, final, None, chunk, 10).items() if k != "log_probs"})
    return columns


def needle_tensors(
    model: HookedMamba, lenses: dict[str, TunedLens | LogitLens], sample: object
) -> Callable[[], object]:
    tokens = torch.from_numpy(np.asarray(sample.tokens, dtype=np.int64))[None].cuda()  # type: ignore[attr-defined]
    labels = torch.tensor([[label[0] for label in sample.label_tokens]], device="cuda")  # type: ignore[attr-defined]
    at = torch.full((1, 1), tokens.shape[1] - 1, device="cuda")

    def run() -> object:
        recorder = Recorder(positions=at)
        with model.hooks([("blocks.*.hook_resid_pre", recorder)]):
            logits, state = model.forward_with_state(tokens, last_only=True)
        ends = _Ends(entering=list(recorder.seen.values()), logits=logits, state=state)
        return [_by_stage(lens, name, ends, labels, None) for name, lens in lenses.items()]

    return run


def _wall_seconds(run: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def show(case: str, what: str, values: dict[str, float], unit: str) -> None:
    spread = f"{values['median']:.4g} ({values['low']:.4g} to {values['high']:.4g})"
    print(f"  {case}: {what:60s} {spread} {unit}", flush=True)


def report(timings: dict[str, Timing]) -> None:
    """Each line with its ratio to the bare graph of the same work, where there is one."""
    for name, timing in timings.items():
        work = (
            name.removesuffix(", launched one by one")
            .removesuffix(", bare graph")
            .removesuffix(", its tensors in one graph")
        )
        base = timings.get(f"{work}, bare graph") or timings.get(f"{work}, its tensors in one graph")
        ratio = "" if base is None else f"   {timing.median_s / base.median_s:5.2f} x the graph"
        print(f"  {name:70s} {timing}{ratio}", flush=True)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = ("forward", "long", "generation", *INSTRUMENTS, "peer")
    parser.add_argument("--only", nargs="*", choices=cases, default=cases, help="measure these cases only")
    parser.add_argument("--placements", nargs="*", choices=("plain", "alternate"), default=("plain", "alternate"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results: dict[str, object] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    measures: dict[str, Callable[[HookedMamba, str], Mapping[str, object]]] = {
        "forward": measure_forward,
        "long": measure_long,
        "generation": measure_generation,
    }
    for name in options.placements:
        model = random_model(None if name == "plain" else name)
        for case in (case for case in measures if case in options.only):
            results |= measures[case](model, name)
        if name == "alternate":
            results |= measure_instruments(model, options.only)
        del model
        torch.cuda.empty_cache()
    if "peer" in options.only:
        results |= measure_peer()
    if options.out is not None:
        plain = {what: vars(value) if isinstance(value, Timing) else value for what, value in results.items()}
        options.out.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
