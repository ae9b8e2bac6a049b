"""The training loop of a tuned lens: steps that can be stopped between any two micro-batches and resumed.

    g      = (1 / tokens) sum over the step's tokens of the gradient of `objective`     float32, over all processes
    g      = g min(1, 1 / |g|)                                      one norm over all translators together
    sgd    v = 0.9 v + g + 1e-3 w,   w = w - lr (g + 1e-3 w + 0.9 v)                    Nesterov
    lr     = lr_scale * 0.1 * (1 - step / steps)

This is the schedule of Belrose et al. 2023 as the tuned-lens library runs it (its lr_scale times 1 - momentum).
Departures: translators are float32 whatever the model's dtype; Adam has no warm-up (nor has the library's, in
effect: it compares an enum with a string).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int, Int64
from torch import Tensor, nn

from diffmamba_interp.config import HookedMambaConfig
from diffmamba_interp.lens.lenses import TunedLens
from diffmamba_interp.lens.objective import ReadOut, Target, Translators, add_block_gradient, final_target, token_target
from diffmamba_interp.lens.recipe import LensRecipe
from diffmamba_interp.lens.stream import residual_stream
from diffmamba_interp.lens.unembedding import chunk_tokens, power_of_two_below
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out_identity import require_lens_of
from diffmamba_interp.runs.command import RunError
from diffmamba_interp.runs.process_group import ProcessGroup

MOMENTUM = 0.9
WEIGHT_DECAY = 1e-3
MAX_GRADIENT_NORM = 1.0
# Beyond this a larger micro-batch makes nothing faster.
MAX_MICRO_BATCH_TOKENS = {"cuda": 16384, "cpu": 4096}
# The share of the free memory that the kept residual stream may take.
RESIDUAL_SHARE = 0.15
LEARNING_RATES = {"sgd": 1.0 - MOMENTUM, "adam": 1e-3}

logger = logging.getLogger(__name__)


class TrainingError(RunError):
    """Training cannot go on; the message says why and what to do."""


class Stopped(Exception):
    """Training was asked to stop; `LensTraining.state()` is that of the last whole step."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One optimiser step.

    step: counted from 1. loss_nats: mean loss of each block before this step. gradient_norm: before clipping.
    learning_rate: of this step. n_tokens: tokens that the losses are means over.
    """

    step: int
    loss_nats: tuple[float, ...]
    gradient_norm: float
    learning_rate: float
    n_tokens: int

    @property
    def mean_loss_nats(self) -> float:
        """Mean over the blocks."""
        return sum(self.loss_nats) / len(self.loss_nats)

    @property
    def in_words(self) -> str:
        """For whoever waits."""
        return f"KL {self.mean_loss_nats:.3f} nats"

    def to_dict(self) -> dict[str, Any]:
        """As a line of the log."""
        return asdict(self) | {"mean_loss_nats": self.mean_loss_nats}

    def scalars(self) -> dict[str, float]:
        """As curves, one for each block's loss."""
        losses = {f"loss_nats/translator_{block}": loss for block, loss in enumerate(self.loss_nats)}
        others = ("mean_loss_nats", "gradient_norm", "learning_rate")
        return losses | {name: getattr(self, name) for name in others}


@runtime_checkable
class StepBatches(Protocol):
    """Where tokens come from: this process's share of one step's sequences at a time, from a saveable position."""

    def __next__(self) -> Tensor: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: Mapping[str, Any]) -> None: ...


class LensTraining:
    """Trains the translators of `lens` to predict what `model` predicts.

    batches: gives [sequences, pos] int64 tokens, this process's share of a step.
    recipe: its schedule must be resolved (`recipe.with_schedule`).
    group: the processes that share the work; gradients are summed over them.
    dtype: of the large products and the kept residual stream. micro_batch: sequences per forward pass; None:
        from the memory. It is halved when memory runs out.
    """

    def __init__(
        self,
        model: HookedMamba,
        lens: TunedLens,
        batches: StepBatches,
        recipe: LensRecipe,
        *,
        group: ProcessGroup | None = None,
        dtype: torch.dtype = torch.float32,
        micro_batch: int | None = None,
    ) -> None:
        assert recipe.steps is not None
        assert recipe.sequence_length is not None
        require_lens_of(model, lens)
        self.model, self.lens, self.recipe = model, lens, recipe
        self.group = group or ProcessGroup()
        self.dtype = dtype
        self.n_steps = recipe.steps
        self.read_out = ReadOut.of(lens.unembed, dtype)
        self.chunk_tokens = chunk_tokens(self.read_out.weight)
        self.micro_batch = micro_batch or first_micro_batch(
            model.cfg, recipe.sequence_length, self.read_out.weight, recipe.sequences_per_step // self.group.size
        )
        weight, bias = lens.stacked()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.optimizer = _optimizer([self.weight, self.bias], recipe)
        self.step = 0
        self.batches = BatchesAhead(batches, self.weight.device)
        self._position = self.batches.position()

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[StepRecord]:
        """Take the remaining steps, giving a record after each.

        Raises Stopped when `should_stop()` becomes true: at the next micro-batch, or, among several processes, at
        the next step if it is true in any of them. Raises TrainingError for losses that are not finite, data that
        ends too early, or memory that does not suffice for one sequence.
        """
        while self.step < self.n_steps:
            if self.group.any(should_stop()):
                raise Stopped
            record = self._take_step(should_stop)
            self.lens.load_stacked(self.weight, self.bias)
            yield record

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on, as of the last whole step: tensors and plain values."""
        return {
            "step": self.step,
            "weight": self.weight.detach().cpu(),
            "bias": self.bias.detach().cpu(),
            "optimizer": self.optimizer.state_dict(),
            "position": self._position,
            "micro_batch": self.micro_batch,
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`; on the CPU, bit for bit. Raises ValueError if the data is not that of the state."""
        self.batches.restore(state["position"])
        self._position = self.batches.position()
        self.weight.copy_(state["weight"])
        self.bias.copy_(state["bias"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.micro_batch = state["step"], state["micro_batch"]
        self.lens.load_stacked(self.weight, self.bias)

    @torch.no_grad()
    def _take_step(self, should_stop: Callable[[], bool]) -> StepRecord:
        gradient, losses, n_tokens = self._gradient(self._next_batch(), should_stop)
        if self.step + 1 < self.n_steps:
            # A GPU is still at work on what it was given; the first value is asked of it further down.
            self.batches.fetch()
        self.group.sum_(gradient.weight)
        self.group.sum_(gradient.bias)
        self.group.sum_(losses)
        n_tokens *= self.group.size
        self.weight.grad, self.bias.grad = gradient.weight.div_(n_tokens), gradient.bias.div_(n_tokens)
        norm = nn.utils.clip_grad_norm_([self.weight, self.bias], MAX_GRADIENT_NORM)
        means = (losses / n_tokens).tolist()
        self._require_finite(means, float(norm))
        rate = self.recipe.lr_scale * LEARNING_RATES[self.recipe.optimizer] * (1 - self.step / self.n_steps)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._position = self.batches.position()
        return StepRecord(
            step=self.step, loss_nats=tuple(means), gradient_norm=float(norm), learning_rate=rate, n_tokens=n_tokens
        )

    def _next_batch(self) -> Int[Tensor, "sequence pos"]:
        try:
            return self.batches.take()
        except StopIteration as error:
            raise TrainingError(
                f"the data ended after {self.step} of {self.n_steps} steps: give more data, fewer steps or tokens per "
                "step, or allow more passes (max_passes)."
            ) from error

    def _gradient(self, tokens: Tensor, should_stop: Callable[[], bool]) -> tuple[Translators, Tensor, int]:
        """Sums over this process's tokens: gradient, loss per block [block] in float64; and their number."""
        while True:
            gradient = Translators(weight=torch.zeros_like(self.weight), bias=torch.zeros_like(self.bias))
            losses = torch.zeros(self.weight.shape[0], dtype=torch.float64, device=self.weight.device)
            try:
                n_tokens = 0
                for part in tokens.split(self.micro_batch):
                    # Leaving a step alone would leave the other processes waiting for this one's sums.
                    if self.group.size == 1 and should_stop():
                        raise Stopped
                    n_tokens += self._add_gradient(part, gradient, losses)
                return gradient, losses, n_tokens
            except torch.OutOfMemoryError as error:
                # Some blocks may have been added already, so the step starts over.
                self._halve_micro_batch(error)

    def _add_gradient(self, tokens: Tensor, gradient: Translators, losses: Tensor) -> int:
        stream = residual_stream(self.model, tokens, dtype=self.dtype)
        if self.recipe.loss == "ce":
            stream, next_tokens = stream.at(slice(None, -1)), tokens[:, 1:].flatten()
        stream = stream.flat()
        translators = Translators(weight=self.weight, bias=self.bias)
        n_tokens = stream.final.shape[0]
        for first in range(0, n_tokens, self.chunk_tokens):
            chunk = slice(first, first + self.chunk_tokens)
            target: Target
            if self.recipe.loss == "ce":
                target = token_target(self.read_out, next_tokens[chunk])
            else:
                target = final_target(self.read_out, stream.final[chunk])
            for block, h in enumerate(stream.entering):
                losses[block] += add_block_gradient(block, h[chunk], target, translators, gradient, self.read_out)
        return n_tokens

    def _halve_micro_batch(self, error: torch.OutOfMemoryError) -> None:
        if self.micro_batch == 1:
            raise TrainingError(
                "there is not enough memory for one sequence: lower sequence_length, use dtype bfloat16, or a smaller "
                f"model. ({error})"
            ) from error
        self.micro_batch //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("out of memory: going on with a micro-batch of %d sequences", self.micro_batch)

    def _require_finite(self, losses: list[float], norm: float) -> None:
        broken = [block for block, loss in enumerate(losses) if not -float("inf") < loss < float("inf")]
        if broken or not norm < float("inf"):
            where = f"the loss of block {', '.join(map(str, broken))}" if broken else "the gradient"
            raise TrainingError(
                f"{where} is not finite in step {self.step + 1}; the translators were not changed by it. Check that "
                "the model's own outputs are finite on this data, or lower lr_scale."
            )


class BatchesAhead:
    """`batches` on `device`, one ahead: the next is on its way while the device still works on this one.

    Call `fetch` when the device has been given its work, `take` for the next.

    Positions are those of the batches that were taken; what was fetched but not taken does not count.
    """

    def __init__(self, batches: StepBatches, device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._fetched: Int64[Tensor, "sequence pos"] | None = None
        self._position = batches.state()
        self._position_after_fetched = self._position

    def take(self) -> Int64[Tensor, "sequence pos"]:
        """The next batch, on the device. Raises StopIteration when there is none."""
        if self._fetched is None:
            self._fetch()
        taken, self._fetched = self._fetched, None
        assert taken is not None
        self._position = self._position_after_fetched
        return taken

    def fetch(self) -> None:
        """Get the next batch ready, without waiting for its copy to the device; at the data's end, do nothing."""
        if self._fetched is None:
            try:
                self._fetch()
            except StopIteration:
                # Whether another batch is wanted is for `take` to say.
                return

    def position(self) -> dict[str, Any]:
        """Where the batch after the last taken one comes from, as plain values."""
        return self._position

    def restore(self, position: Mapping[str, Any]) -> None:
        """Go on at a `position()`. Raises ValueError if it is of other data or settings."""
        self._batches.restore(position)
        self._fetched = None
        self._position = self._batches.state()

    def _fetch(self) -> None:
        tokens = next(self._batches)
        self._position_after_fetched = self._batches.state()
        if self._device.type == "cuda":
            # Only from page-locked memory is a copy made beside the device's other work.
            tokens = tokens.pin_memory()
        self._fetched = tokens.to(self._device, non_blocking=True)


def first_micro_batch(cfg: HookedMambaConfig, sequence_length: int, unembedding: Tensor, sequences: int) -> int:
    """Sequences per forward pass to begin with; training halves it if memory runs out all the same.

    sequences: those of one step in this process, which is the most that is of use.
    """
    kind = unembedding.device.type
    most = MAX_MICRO_BATCH_TOKENS.get(kind, MAX_MICRO_BATCH_TOKENS["cpu"]) // sequence_length
    if kind == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(unembedding.device)
        stream_bytes = (cfg.n_layers + 1) * sequence_length * cfg.d_model * unembedding.element_size()
        most = min(most, int(RESIDUAL_SHARE * free_bytes) // stream_bytes)
    return power_of_two_below(min(max(most, 1), sequences))


def _optimizer(parameters: list[nn.Parameter], recipe: LensRecipe) -> torch.optim.Optimizer:
    rate = recipe.lr_scale * LEARNING_RATES[recipe.optimizer]
    # On CUDA one kernel per step, without temporaries as large as the lens.
    fused = True if parameters[0].is_cuda else None
    if recipe.optimizer == "adam":
        return torch.optim.Adam(
            parameters, lr=rate, betas=(MOMENTUM, 0.999), amsgrad=True, weight_decay=WEIGHT_DECAY, fused=fused
        )
    return torch.optim.SGD(
        parameters, lr=rate, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY, fused=fused
    )
