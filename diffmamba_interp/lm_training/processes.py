"""One process or several (torchrun): ranks, sums over ranks. With one process, everything here does nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """rank: number of this process. world_size: how many there are. device: this process's."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """The first process alone writes files and shows progress."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum over processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over processes, in one exchange."""
        if self.world_size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))

    def first_says(self, flag: bool) -> bool:
        """What the first process says, on all of them."""
        if self.world_size == 1:
            return flag
        value = torch.tensor([float(flag)], device=self.device)
        dist.broadcast(value, src=0)
        return bool(value.item())

    def any_says(self, flag: bool) -> bool:
        """Whether any of the processes says so, on all of them."""
        if self.world_size == 1:
            return flag
        return bool(self.sum(torch.tensor([float(flag)], device=self.device)).item())

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def joined_processes(device: str | None) -> Iterator[Processes]:
    """The processes that torchrun started, or this one alone. `device`: None takes a GPU if there is one."""
    world_size, local_rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if chosen == "cuda":
        chosen = f"cuda:{local_rank}"
    resolved = _require_device(chosen)
    if resolved.type == "cuda":
        torch.cuda.set_device(resolved)
    if world_size == 1:
        yield Processes(0, 1, resolved)
        return
    dist.init_process_group("nccl" if resolved.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), world_size, resolved)
    finally:
        dist.destroy_process_group()


def _require_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{name!r} names no device: give 'cpu', 'cuda' or 'cuda:1'.") from error
    n_gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= n_gpus:
        raise ValueError(f"device {name!r} is not there: PyTorch sees {n_gpus} CUDA devices. 'cpu' is always there.")
    return device
