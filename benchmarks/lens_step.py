"""The gradient of all translators of a tuned lens at the 370M shape: ours beside the tuned-lens library's loop.

Run on a machine with an NVIDIA GPU: `python benchmarks/lens_step.py [--sweep] [--whole] [--out results.json]`, or
anywhere: `python benchmarks/lens_step.py --device cpu --tiny`. Everything is measured in one process, in
alternating rounds, on the same random residual streams. The library's loop is its lens class under bfloat16
autocast, block by block, as its train_loop does it; it is handed the final logits, while ours makes its target
from the final residual stream. The optimiser's step (once per 2^18 tokens) is in neither, but is in --whole.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tuned_lens.nn.lenses as library
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig
from diffmamba_interp.lens import LensRecipe, LensTraining, ModelUnembed, TunedLens
from diffmamba_interp.lens.objective import ReadOut, Translators, add_block_gradient, final_target
from diffmamba_interp.lens.random_tokens import RandomTokenBatches
from diffmamba_interp.lens.work_sizes import chunk_tokens
from diffmamba_interp.ops.kernels.lens_loss import RowTiles, exponentiate_rows_fused_


@dataclass(frozen=True)
class Shape:
    n_blocks: int
    d_model: int
    d_vocab: int
    tokens: tuple[int, ...]


FULL = Shape(n_blocks=48, d_model=1024, d_vocab=50_288, tokens=(2048, 8192))
TINY = Shape(n_blocks=3, d_model=64, d_vocab=1000, tokens=(128, 256))


class Inputs:
    """One micro-batch: residual streams, final logits, read-out, and non-zero translators for both contenders."""

    def __init__(self, shape: Shape, n_tokens: int, device: torch.device, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        cfg = HookedMambaConfig(d_model=shape.d_model, n_layers=1, d_vocab=shape.d_vocab, d_state=16, d_head=32)
        model = HookedMamba(cfg).to(device, dtype).requires_grad_(False)
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


def two_products(inputs: Inputs) -> None:
    """The floor: per block, the logits and the way back through the unembedding."""
    U = inputs.unembed.weight
    for h in inputs.streams[:-1]:
        (h @ U.mT) @ U


def seconds(run: Callable[[], object], calls: int) -> float:
    _synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    _synchronize()
    return (time.perf_counter() - start) / calls


def side_by_side(contenders: dict[str, Callable[[], object]], rounds: int, calls: int) -> dict[str, list[float]]:
    for run in contenders.values():
        run()
        run()
    return {
        name: times
        for name, times in zip(
            contenders,
            zip(*([seconds(run, calls) for run in contenders.values()] for _ in range(rounds)), strict=True),
            strict=True,
        )
    }


def extra_bytes(run: Callable[[], object]) -> int | None:
    """Peak of allocated memory beyond what was allocated before, gradients included."""
    if not torch.cuda.is_available():
        return None
    _synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    _synchronize()
    return torch.cuda.max_memory_allocated() - before


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


def whole_run(device: torch.device) -> dict[str, float]:
    """Tokens per second of training at the 370M shape (alternate placement), model forward and optimiser included."""
    cfg = HookedMambaConfig(
        d_model=1024,
        n_layers=48,
        d_vocab=50_288,
        tie_embeddings=True,
        differential=DifferentialConfig(placement="alternate"),
    )
    model = HookedMamba(cfg).to(device, torch.bfloat16).requires_grad_(False)
    recipe = LensRecipe(steps=6, tokens_per_step=2**17, sequence_length=2048)
    batches = RandomTokenBatches(cfg.d_vocab, length=2048, batch_size=recipe.sequences_per_step)
    training = LensTraining(model, TunedLens.from_model(model), batches, recipe, dtype=torch.bfloat16)
    times, before = [], time.perf_counter()
    for record in training.run():
        now = time.perf_counter()
        times.append(record.n_tokens / (now - before))
        before = now
    return {"tokens_per_s": statistics.median(times[1:]), "micro_batch": training.micro_batch}


def sweep(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Milliseconds of the pass over one tile of logits by its tiles, and tokens/s of the whole by chunk."""
    found = {}
    logits = torch.randn(4096, shape.d_vocab, device=device, dtype=dtype)
    for block in (2048, 4096, 8192, 16384):
        for num_warps in (4, 8, 16, 32):
            tiles = RowTiles(block=block, num_warps=num_warps)
            run = lambda tiles=tiles: exponentiate_rows_fused_(logits, tiles=tiles)  # noqa: E731
            run()
            found[f"exponentiate 4096 rows, block {block}, {num_warps} warps, ms"] = 1e3 * seconds(run, 10)
    del logits
    inputs = Inputs(shape, 8192, device, dtype)
    for chunk in (1024, 2048, 4096, 8192):
        run = lambda chunk=chunk: ours(inputs, chunk)  # noqa: E731
        run()
        found[f"chunk {chunk}, tokens/s"] = 8192 / seconds(run, 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--sweep", action="store_true", help="also try tile and chunk sizes (CUDA)")
    parser.add_argument("--whole", action="store_true", help="also time training with the model's forward (CUDA)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device, shape = torch.device(options.device), TINY if options.tiny else FULL
    torch.backends.cuda.matmul.allow_tf32 = False
    dtype = torch.bfloat16
    results: dict[str, object] = {"device": _name(device), "torch": torch.__version__, "shape": shape.__dict__}
    for n_tokens in shape.tokens:
        inputs = Inputs(shape, n_tokens, device, dtype)
        contenders = {
            "ours": lambda: ours(inputs),  # noqa: B023
            "library": lambda: the_librarys(inputs),  # noqa: B023
            "two products": lambda: two_products(inputs),  # noqa: B023
        }
        times = side_by_side(contenders, options.rounds, calls=2)
        inputs.lens.zero_grad(set_to_none=True)
        row: dict[str, object] = {}
        for name, values in times.items():
            speeds = sorted(n_tokens / value for value in values)
            memory = extra_bytes(contenders[name])
            row[name] = {
                "tokens_per_s": statistics.median(speeds),
                "low": speeds[0],
                "high": speeds[-1],
                "extra_bytes": memory,
            }
            extra = "" if memory is None else f", {memory / 2**30:.2f} GiB extra"
            print(
                f"{n_tokens:6d} tokens  {name:13s} {statistics.median(speeds):10,.0f} tokens/s "
                f"({speeds[0]:,.0f} to {speeds[-1]:,.0f}){extra}"
            )
        ratio = statistics.median(times["library"]) / statistics.median(times["ours"])
        row["ratio"] = ratio
        print(f"{n_tokens:6d} tokens  ratio to the library {ratio:.2f}")
        results[f"{n_tokens} tokens"] = row
        del inputs, contenders
    results["errors"] = errors(shape, device, dtype)
    print(f"errors against float32:\n{json.dumps(results['errors'], indent=1)}")
    if options.sweep:
        results["sweep"] = sweep(shape, device, dtype)
        print(json.dumps(results["sweep"], indent=1))
    if options.whole:
        results["whole run"] = whole_run(device)
        print(f"whole run, forward and optimiser included: {results['whole run']}")
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"


if __name__ == "__main__":
    main()
