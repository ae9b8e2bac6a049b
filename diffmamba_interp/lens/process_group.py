"""Several processes, one training: which share is mine, and sums over all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """This process among `size` (rank 0 .. size - 1), as torchrun started them; one alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def is_writer(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over all processes."""
        if self.size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.SUM)

    def any(self, here: bool) -> bool:
        """Whether `here` is true in any process; the same answer in all."""
        if self.size == 1:
            return here
        on = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
        votes = torch.tensor([int(here)], device=on)
        self.sum_(votes)
        return bool(votes.item())

    def wait_for_all(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """The group that torchrun's environment describes, for the duration of a `with` block; else a lone process.

    gloo on the CPU, nccl on CUDA, where each process must have been given a device of its own.
    """
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield ProcessGroup()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(rank=dist.get_rank(), size=dist.get_world_size())
    finally:
        dist.destroy_process_group()


def local_device(name: str) -> torch.device:
    """The device that `name` means in this process: "auto" is CUDA where there is one; torchrun's local rank
    picks among several.

    Raises ValueError if CUDA is asked for and absent.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but torch sees no CUDA device: use cpu, or install a CUDA torch.")
    index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", 0))
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
