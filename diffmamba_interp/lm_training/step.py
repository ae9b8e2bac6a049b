"""One optimiser step: loss and gradients of a batch, clipping, AdamW; on one GPU replayed as a CUDA graph.

    loss = sum_t w[t] nll[t] / sum_t w[t]        over the whole batch, all processes and parts
    parameters <- AdamW(parameters, clip(gradients), lr)

A step of a small model is a thousand short kernels, and launching them takes longer than running them. A graph
launches all of them at once; the kernels, and so the numbers, are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffmamba_interp.lm_training.loss import RoleSums, weighted_loss
from diffmamba_interp.lm_training.mixture import Batch
from diffmamba_interp.lm_training.optimiser import clip_gradients, set_learning_rate
from diffmamba_interp.lm_training.recipe import Recipe
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.runs.process_group import ProcessGroup

COMPUTE_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}

EAGER_STEPS = 3
"""Steps before the graph is captured, in which the kernels choose their tiles and the optimiser makes its moments."""


class Step(Protocol):
    """Loss of the whole batch, and the gradient's norm before clipping; the parameters have moved by then."""

    def __call__(self, batch: Batch, lr: float, sums: RoleSums) -> tuple[Tensor, Tensor]: ...


def make_step(
    model: HookedMamba, optimiser: torch.optim.Optimizer, recipe: Recipe, group: ProcessGroup
) -> EagerStep | GraphedStep:
    """The graph where one process trains on one GPU and the recipe's `cuda_graph` allows it, else step by step."""
    eager = EagerStep(model, optimiser, recipe, group)
    is_alone = group.size == 1 and recipe.accumulation == 1
    if recipe.cuda_graph and is_alone and group.device.type == "cuda":
        return GraphedStep(eager)
    return eager


class EagerStep:
    """The step as a sequence of launches: any device, any number of processes, any accumulation."""

    def __init__(
        self, model: HookedMamba, optimiser: torch.optim.Optimizer, recipe: Recipe, group: ProcessGroup
    ) -> None:
        self.model, self.optimiser, self.recipe, self.group = model, optimiser, recipe, group
        self.role_weights = torch.tensor(recipe.role_weights, device=group.device)
        self.compute_dtype = COMPUTE_DTYPES[recipe.precision]

    def __call__(self, batch: Batch, lr: float, sums: RoleSums) -> tuple[Tensor, Tensor]:
        device, roles, scale = self.group.device, batch.target_roles, self.scale(batch)
        loss = torch.zeros((), device=device)
        set_learning_rate(self.optimiser, lr)
        self.optimiser.zero_grad(set_to_none=True)
        for rows in torch.arange(len(roles)).chunk(self.recipe.accumulation):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            tokens = batch.tokens[part].to(device, non_blocking=True).long()
            loss += self.add_gradients(tokens, roles[part].to(device, non_blocking=True), scale, sums)
        self.group.sum_gradients(self.model.parameters())
        return self.group.sum_(loss), self.update()

    def scale(self, batch: Batch) -> float:
        """1 / the sum of the loss weights of the whole batch, this process's rows and the others'."""
        weights = torch.tensor(self.recipe.role_weights, dtype=torch.float64)
        total = weights[batch.target_roles.long()].sum()
        if self.group.size > 1:  # One process needs no exchange, and then the GPU is not waited for.
            total = self.group.sum_(total.to(self.group.device))
        return 1.0 / max(float(total), 1e-12)

    def add_gradients(self, tokens: Tensor, roles: Tensor, scale: float | Tensor, sums: RoleSums) -> Tensor:
        """Loss of some rows (tokens: [row, length + 1], roles: of the targets), its gradients added."""
        is_bf16 = self.compute_dtype == torch.bfloat16
        with torch.autocast(self.group.device.type, torch.bfloat16, enabled=is_bf16):
            share = weighted_loss(
                self.model,
                tokens[:, :-1],
                tokens[:, 1:],
                roles,
                self.role_weights,
                sums,
                scale=scale,
                compute_dtype=self.compute_dtype,
            )
        share.backward()
        return share.detach()

    def update(self) -> Tensor:
        """Clip and move the parameters; the norm before."""
        norm = clip_gradients(self.model.parameters(), self.recipe.optimiser.clip)
        self.optimiser.step()
        return norm


@dataclass(frozen=True)
class Captured:
    """The graph and the memory that it reads (tokens, roles, scale) and writes (loss, norm, sums)."""

    replay: Callable[[], None]
    tokens: Tensor
    roles: Tensor
    scale: Tensor
    loss: Tensor
    norm: Tensor
    sums: RoleSums


class GraphedStep:
    """`EagerStep` on one GPU: the first steps eager, then captured once and replayed. Batches have one shape."""

    def __init__(self, eager: EagerStep) -> None:
        self.eager = eager
        self.stream = torch.cuda.Stream(eager.group.device)
        self.n_eager = 0
        self.captured: Captured | None = None

    def __call__(self, batch: Batch, lr: float, sums: RoleSums) -> tuple[Tensor, Tensor]:
        if self.n_eager < EAGER_STEPS:
            self.n_eager += 1
            # What is captured must not have run on the default stream before.
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                result = self.eager(batch, lr, sums)
            torch.cuda.current_stream().wait_stream(self.stream)
            return result
        if self.captured is None:
            self.captured = self._capture(batch)
        captured = self.captured
        captured.tokens.copy_(batch.tokens, non_blocking=True)
        captured.roles.copy_(batch.target_roles, non_blocking=True)
        captured.scale.fill_(self.eager.scale(batch))
        set_learning_rate(self.eager.optimiser, lr)
        captured.replay()
        # A replay writes to the parameters without a trace, and stacked branches are kept until one changes.
        torch.autograd.graph.increment_version(list(self.eager.model.parameters()))
        sums.values += captured.sums.values
        return captured.loss.clone(), captured.norm.clone()

    def _capture(self, batch: Batch) -> Captured:
        """Record a step; nothing runs and no parameter moves."""
        eager, device = self.eager, self.eager.group.device
        tokens = torch.zeros(batch.tokens.shape, dtype=torch.int64, device=device)
        roles = torch.zeros(batch.target_roles.shape, dtype=torch.uint8, device=device)
        scale, sums = torch.zeros((), device=device), RoleSums(device)
        graph = torch.cuda.CUDAGraph()
        eager.optimiser.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph, stream=self.stream):
            sums.values.zero_()
            loss = eager.add_gradients(tokens, roles, scale, sums)
            norm = eager.update()
        return Captured(graph.replay, tokens, roles, scale, loss, norm, sums)
