"""The gradient of all translators of a tuned lens at the 370M shape: ours beside the tuned-lens library's loop.

Run on a machine with an NVIDIA GPU: `python benchmarks/lens_step.py [--sweep] [--whole] [--out results.json]`, or
anywhere: `python benchmarks/lens_step.py --device cpu --tiny`. Everything is measured in one process, in
alternating rounds, on the same random residual streams. The library's loop is its lens class under bfloat16
autocast, block by block, as its train_loop does it; it is handed the final logits, while ours makes its target
from the final residual stream. The optimiser's step (once per 2^18 tokens) is in neither, but is in --whole.

Each part is printed, and saved to --out, as soon as it is measured; a part that fails is reported and does not
keep the others from being measured (the exit code is then 1).
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tuned_lens.nn.lenses as library
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig
from diffmamba_interp.lens import LensRecipe, LensTraining, ModelUnembed, TunedLens
from diffmamba_interp.lens.objective import ReadOut, Translators, add_block_gradient, final_target
from diffmamba_interp.lens.stream import residual_stream
from diffmamba_interp.lens.unembedding import chunk_tokens
from diffmamba_interp.models.checkpoints import FLOAT32_PARAMETERS
from diffmamba_interp.ops.kernels.lens_loss import RowTiles, exponentiate_rows_fused_
from diffmamba_interp.text.batches import RandomTokenBatches

STARTED = time.perf_counter()


@dataclass(frozen=True)
class Shape:
    """Sizes of the lens, micro-batches that are measured, and for --whole a step's tokens and a sequence's."""

    n_blocks: int
    d_model: int
    d_vocab: int
    d_head: int
    tokens: tuple[int, ...]
    tokens_per_step: int
    sequence_length: int


FULL = Shape(
    n_blocks=48,
    d_model=1024,
    d_vocab=50_288,
    d_head=64,
    tokens=(2048, 8192),
    tokens_per_step=2**16,
    sequence_length=2048,
)
TINY = Shape(
    n_blocks=3, d_model=64, d_vocab=1000, d_head=16, tokens=(128, 256), tokens_per_step=256, sequence_length=64
)


class Inputs:
    """One micro-batch: residual streams, final logits, read-out, and non-zero translators for both contenders."""

    def __init__(self, shape: Shape, n_tokens: int, device: torch.device, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        cfg = HookedMambaConfig(d_model=shape.d_model, n_layers=1, d_vocab=shape.d_vocab, d_state=16, d_head=32)
        with torch.device(device):
            model = HookedMamba(cfg).to(dtype).requires_grad_(False)
        # Logits with a spread of about 3, so that the predictions are far from uniform.
        model.unembed.weight.normal_(std=3 / shape.d_model**0.5)
        self.unembed = ModelUnembed(model)
        first = torch.randn(n_tokens, shape.d_model, device=device)
        drift = torch.randn(n_tokens, shape.d_model, device=device)
        self.streams = [(first + 0.05 * i * drift).to(dtype) for i in range(shape.n_blocks + 1)]
        self.final_logits = self.unembed(self.streams[-1])
        self.lens = library.TunedLens(
            self.unembed, library.TunedLensConfig("random", shape.d_model, shape.n_blocks)
        ).to(device)
        self.lens.layer_translators.float()
        for parameter in self.lens.layer_translators.parameters():
            parameter.data.normal_(std=0.1 / shape.d_model)
        self.translators = Translators(
            weight=torch.stack([t.weight.data for t in self.lens]), bias=torch.stack([t.bias.data for t in self.lens])
        )


@torch.no_grad()
def ours(inputs: Inputs, chunk: int | None = None) -> tuple[Tensor, Translators]:
    """Losses [block] (means) and gradients of the mean loss."""
    read_out = ReadOut.of(inputs.unembed)
    gradient = inputs.translators.zeros_like()
    n_tokens, size = len(inputs.streams[0]), chunk or chunk_tokens(read_out.weight)
    losses = torch.zeros(len(inputs.lens), device=read_out.weight.device)
    for first in range(0, n_tokens, size):
        part = slice(first, first + size)
        target = final_target(read_out, inputs.streams[-1][part])
        for block, h in enumerate(inputs.streams[:-1]):
            losses[block] += add_block_gradient(block, h[part], target, inputs.translators, gradient, read_out)
    gradient.weight.div_(n_tokens)
    gradient.bias.div_(n_tokens)
    return losses / n_tokens, gradient


def the_librarys(inputs: Inputs) -> Tensor:
    """Losses [block]; the gradients are left in the lens' parameters."""
    device = inputs.final_logits.device.type
    labels = inputs.final_logits.float().log_softmax(dim=-1)
    losses = []
    for i, h in enumerate(inputs.streams[:-1]):
        with torch.autocast(device, dtype=torch.bfloat16):
            logits = inputs.lens(h, idx=i)
            loss = torch.sum(labels.exp() * (labels - logits.log_softmax(-1)), dim=-1).mean()
        losses.append(loss.detach())
        loss.backward()
    return torch.stack(losses)


@torch.no_grad()
def two_products(inputs: Inputs) -> None:
    """The floor: per block, the logits and the way back through the unembedding."""
    U = inputs.unembed.weight
    for h in inputs.streams[:-1]:
        (h @ U.mT) @ U


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Tokens per second: median, lowest and highest round. extra_bytes: peak beyond what was allocated before."""

    tokens_per_s: float
    low: float
    high: float
    extra_bytes: int | None

    def __str__(self) -> str:
        extra = "" if self.extra_bytes is None else f", {self.extra_bytes / 1e9:.2f} GB extra"
        return f"{self.tokens_per_s:10,.0f} tokens/s ({self.low:,.0f} to {self.high:,.0f}){extra}"


def side_by_side(
    shape: Shape, n_tokens: int, device: torch.device, dtype: torch.dtype, rounds: int
) -> dict[str, object]:
    """Speeds at one micro-batch size in alternating rounds; a contender that fails drops out."""
    inputs = Inputs(shape, n_tokens, device, dtype)
    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: ours(inputs),
        "library": lambda: the_librarys(inputs),
        "two products": lambda: two_products(inputs),
    }
    times: dict[str, list[float]] = {}
    memory: dict[str, int | None] = {}
    for name, run in contenders.items():
        try:
            run()
            inputs.lens.zero_grad(set_to_none=True)
            memory[name] = extra_bytes(run, device)
            times[name] = []
        except RuntimeError:  # out of memory, above all
            logging.exception("%s at %d tokens", name, n_tokens)
            inputs.lens.zero_grad(set_to_none=True)
            release(device)
    for _ in range(rounds):
        for name, values in times.items():
            values.append(seconds(contenders[name], device))
    found: dict[str, object] = {}
    for name, values in times.items():
        speeds = sorted(n_tokens / value for value in values)
        speed = Speed(tokens_per_s=statistics.median(speeds), low=speeds[0], high=speeds[-1], extra_bytes=memory[name])
        show(f"{n_tokens:6d} tokens  {name:13s}{speed}")
        found[name] = asdict(speed)
    if "library" in times and "ours" in times:
        found["ratio"] = statistics.median(times["library"]) / statistics.median(times["ours"])
        show(f"{n_tokens:6d} tokens  ratio to the library {found['ratio']:.2f}")
    return found


def seconds(run: Callable[[], object], device: torch.device, calls: int = 2) -> float:
    """Mean time of a call, by the host's clock between two synchronisations."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        run()
    synchronize(device)
    return (time.perf_counter() - start) / calls


def extra_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """Peak of allocated memory beyond what was allocated before, gradients included."""
    if device.type != "cuda":
        run()
        return None
    release(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def errors(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Largest errors against autograd in float32 over three blocks and 1,024 tokens: mean losses in nats, gradients
    relative to their norm. The streams approach the final one, so the last block's gradient is the smallest."""
    inputs = Inputs(shape, 1024, device, dtype)
    our_losses, gradient = ours(inputs)
    inputs.lens.zero_grad(set_to_none=True)
    their_losses = the_librarys(inputs)
    their_gradients = [translator.weight.grad for translator in inputs.lens]
    U, gain, eps = inputs.unembed.weight.float(), inputs.unembed.gain.float(), inputs.unembed.eps

    def logits(x: Tensor) -> Tensor:
        return (gain * x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)) @ U.mT

    p = logits(inputs.streams[-1].float()).log_softmax(-1)
    worst: dict[str, float] = {}
    for i in sorted({0, shape.n_blocks // 2, shape.n_blocks - 1}):
        W, h = inputs.translators.weight[i].clone().requires_grad_(True), inputs.streams[i].float()
        q = logits(h + h @ W.mT + inputs.translators.bias[i]).log_softmax(-1)
        loss = (p.exp() * (p - q)).sum(-1).mean()
        loss.backward()
        expected, loss = W.grad, loss.detach()
        found = {
            "our loss, nats": (our_losses[i] - loss).abs(),
            "library's loss, nats": (their_losses[i] - loss).abs(),
            f"our gradient, block {i}": (gradient.weight[i] - expected).norm() / expected.norm(),
            f"library's gradient, block {i}": (their_gradients[i] - expected).norm() / expected.norm(),
            f"size of the loss, block {i}": loss,
        }
        worst |= {name: max(worst.get(name, 0.0), float(value)) for name, value in found.items()}
    return worst


def whole_run(shape: Shape, device: torch.device) -> dict[str, object]:
    """Training with the model's forward and the optimiser (alternate placement, bfloat16), and the forward alone."""
    cfg = HookedMambaConfig(
        d_model=shape.d_model,
        n_layers=shape.n_blocks,
        d_vocab=shape.d_vocab,
        d_head=shape.d_head,
        tie_embeddings=True,
        differential=DifferentialConfig(placement="alternate"),
    )
    with torch.device(device):
        model = HookedMamba(cfg).requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] not in FLOAT32_PARAMETERS:
            parameter.data = parameter.data.to(torch.bfloat16)
    recipe = LensRecipe(steps=4, tokens_per_step=shape.tokens_per_step, sequence_length=shape.sequence_length)
    batches = RandomTokenBatches(cfg.d_vocab, length=recipe.sequence_length, batch_size=recipe.sequences_per_step)
    release(device)
    before_bytes = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before_bytes = torch.cuda.memory_allocated(device)
    show("whole run: the model is made; the first step compiles its kernels and captures its forward")
    training = LensTraining(model, TunedLens.from_model(model), batches, recipe, dtype=torch.bfloat16)
    times, before = [], time.perf_counter()
    for record in training.run():
        synchronize(device)
        now = time.perf_counter()
        times.append(record.n_tokens / (now - before))
        show(f"whole run, step {record.step}: {times[-1]:,.0f} tokens/s")
        before = now
    peak = torch.cuda.max_memory_allocated(device) - before_bytes if device.type == "cuda" else None
    tokens = next(batches)[: training.micro_batch].to(device)
    forward = tokens.numel() / seconds(lambda: residual_stream(model, tokens, dtype=torch.bfloat16), device, calls=3)
    found = {
        "tokens_per_s": statistics.median(times[1:]),
        "forward_tokens_per_s": forward,
        "micro_batch": training.micro_batch,
        "extra_bytes": peak,
    }
    show(f"whole run, forward and optimiser included: {found}")
    return found


def sweep_tiles(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, object]:
    """Milliseconds of the pass over 4,096 rows of logits, by the kernel's tiles."""
    found: dict[str, object] = {}
    logits = torch.randn(4096, shape.d_vocab, device=device, dtype=dtype)
    for block, num_warps in ((2048, 8), (4096, 8), (4096, 16), (8192, 8), (8192, 16), (8192, 32), (16384, 16)):
        tiles = RowTiles(block=block, num_warps=num_warps)
        exponentiate_rows_fused_(logits, tiles=tiles)
        run = lambda tiles=tiles: exponentiate_rows_fused_(logits, tiles=tiles)  # noqa: E731
        name = f"block {block}, {num_warps} warps, ms"
        found[name] = 1e3 * seconds(run, device, calls=10)
        show(f"exponentiate 4096 rows, {name}: {found[name]:.3f}")
    return found


def sweep_chunks(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, object]:
    """Tokens per second of ours at the largest micro-batch, by the tokens whose logits are held at once."""
    found: dict[str, object] = {}
    n_tokens = shape.tokens[-1]
    inputs = Inputs(shape, n_tokens, device, dtype)
    for chunk in (n_tokens // 8, n_tokens // 4, n_tokens // 2, n_tokens):
        run = lambda chunk=chunk: ours(inputs, chunk)  # noqa: E731
        run()
        memory = extra_bytes(run, device)
        name = f"chunk {chunk}, tokens/s"
        found[name] = n_tokens / seconds(run, device)
        show(f"{name}: {found[name]:,.0f}" + ("" if memory is None else f", {memory / 1e9:.2f} GB extra"))
    return found


def measure_errors(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, object]:
    """`errors`, shown."""
    found = errors(shape, device, dtype)
    show(f"errors against float32:\n{json.dumps(found, indent=1)}")
    return dict(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--sweep", action="store_true", help="also try tile and chunk sizes")
    parser.add_argument("--whole", action="store_true", help="also time training with the model's forward")
    parser.add_argument("--no-steps", action="store_true", help="leave out the step alone and the library's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    device, shape, dtype = torch.device(options.device), TINY if options.tiny else FULL, torch.bfloat16
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    parts: dict[str, Callable[[], dict[str, object]]] = {
        f"{n} tokens": lambda n=n: side_by_side(shape, n, device, dtype, options.rounds)  # type: ignore[misc]
        for n in shape.tokens
    }
    parts["errors"] = lambda: measure_errors(shape, device, dtype)
    if options.no_steps:
        parts.clear()
    if options.whole:
        parts["whole run"] = lambda: whole_run(shape, device)
    if options.sweep:
        parts["chunks"] = lambda: sweep_chunks(shape, device, dtype)
        if device.type == "cuda":
            parts["tiles"] = lambda: sweep_tiles(shape, device, dtype)
    results: dict[str, object] = {"device": _name(device), "torch": torch.__version__, "shape": asdict(shape)}
    show(f"{results['device']}, PyTorch {torch.__version__}")
    failed = [name for name, measure in parts.items() if not _measured(name, measure, results, device, options.out)]
    return 1 if failed else 0


def show(line: str) -> None:
    """Print with the seconds since the start, at once."""
    print(f"[{time.perf_counter() - STARTED:5.1f} s] {line}", flush=True)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release(device: torch.device) -> None:
    """Give back memory that nothing uses."""
    gc.collect()
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _measured(
    name: str,
    measure: Callable[[], dict[str, object]],
    results: dict[str, object],
    device: torch.device,
    out: Path | None,
) -> bool:
    """Measure one part into `results` and save them; False, after reporting it, if it failed."""
    try:
        results[name] = measure()
    except Exception as error:
        logging.exception("%s failed", name)
        results[name] = {"failed": f"{type(error).__name__}: {error}"}
    if out is not None:
        out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    release(device)
    return not (isinstance(results[name], dict) and "failed" in results[name])


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"


if __name__ == "__main__":
    sys.exit(main())
