"""One process or several (torchrun): which share is mine, which device, and sums over all.

With one process, everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from diffmamba_interp.files.locks import folder_lock
from diffmamba_interp.runs.command import RunError

DEVICES = "cpu, cuda, cuda:1, ..., mps, or auto"


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """This process among `size` (rank 0 .. size - 1), as torchrun started them; one alone by default.

    device: this process's own.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_writer(self) -> bool:
        """Whether this process writes files and shows progress: the first alone does."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its sum over all processes; returns it."""
        if self.size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
        return tensor

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over processes, in one exchange."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.sum_(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))

    def any(self, here: bool) -> bool:
        """Whether `here` is true in any process; the same answer in all."""
        if self.size == 1:
            return here
        return bool(self.sum_(torch.tensor([int(here)], device=self.device)).item())

    def writer_says(self, here: bool) -> bool:
        """What `here` is in the writer, in all processes."""
        return self.any(here and self.is_writer)

    def wait_for_all(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def only_writer_of(self, folder: str | Path) -> Iterator[None]:
        """Hold the folder's lock for all processes of the group, for the duration of a `with` block.

        Raises LockedError or OSError (see `folder_lock`) in the writer, and RunError in the others.
        """
        if not self.is_writer:
            if self.any(False):
                raise RunError("the first process of this run could not begin: its error says why.")
            yield
            return
        lock = folder_lock(folder)
        try:
            lock.__enter__()
        except OSError:
            self.any(True)
            raise
        self.any(False)
        try:
            yield
        finally:
            lock.__exit__(None, None, None)


@contextmanager
def process_group(device_name: str | None) -> Iterator[ProcessGroup]:
    """The group that torchrun's environment describes, for the duration of a `with` block; else a lone process.

    device_name: see `local_device`. gloo on the CPU, nccl on CUDA, where each process has a device of its own.
    """
    device = local_device(device_name)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ProcessGroup(device=device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(rank=dist.get_rank(), size=dist.get_world_size(), device=device)
    finally:
        dist.destroy_process_group()


def local_device(name: str | None) -> torch.device:
    """The device that `name` means in this process.

    None or "auto" is CUDA where there is one, else the CPU; of several, torchrun's local rank picks.
    Raises ValueError for a name that is none, and for a device that is not there.
    """
    if name in (None, "auto"):
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}, which names none: give {DEVICES}.") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "mps" and torch.backends.mps.is_available():
        return device
    if device.type != "cuda":
        raise ValueError(f"device is {name!r}, which is none that this machine computes on: give {DEVICES}.")
    n_gpus = torch.cuda.device_count()
    if not torch.cuda.is_available() or not n_gpus:
        raise ValueError(f"device is {name!r}, but torch sees no CUDA device: use cpu, or install a CUDA torch.")
    index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", 0))
    if index >= n_gpus:
        raise ValueError(f"device is {name!r}, number {index}, but torch sees {n_gpus} CUDA device(s), from 0.")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
