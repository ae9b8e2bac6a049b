"""One CUDA graph of a function of tensors: captured, replayed, and its results copied out of its memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """What a captured function returns: tensors, and `form`, what they are, the same for every call of one key."""

    tensors: list[Tensor]
    form: Any = None


Body = Callable[[Sequence[Tensor]], Outputs]

_capturing = threading.Lock()


class CudaGraph:
    """One CUDA graph of a function of tensors, and its outputs."""

    def __init__(self, body: Body, inputs: Sequence[Tensor]) -> None:
        device, pool = inputs[0].device, torch.cuda.graph_pool_handle()
        self._graph = torch.cuda.CUDAGraph()
        self.replay = self._graph.replay
        current = torch.cuda.current_stream(device)
        with _capturing, torch.cuda.device(device):
            stream = torch.cuda.Stream(device)
            stream.wait_stream(current)
            with torch.cuda.stream(stream), _mended_after_failure(device, pool):
                # Here and not in the capture kernels are compiled and tuned, and workspaces of this stream made.
                body(inputs)
                with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                    self.outputs = body(inputs)
            current.wait_stream(stream)
        segments = torch.cuda.memory_snapshot()
        self.n_bytes = sum(s["total_size"] for s in segments if tuple(s["segment_pool_id"]) == tuple(pool))


@contextmanager
def _mended_after_failure(device: torch.device, pool: tuple[int, int]) -> Iterator[None]:
    """Undo what PyTorch leaves behind of a capture that CUDA itself breaks off, as it does where the host waits for it.

    Its pool stays open, so that nobody gets its memory and no later capture succeeds; and the random numbers of the
    device stay those of a capture until one has come to its end.
    """
    try:
        yield
    except Exception:
        with suppress(RuntimeError):  # The pool is closed where another error than CUDA's ended the capture.
            torch._C._cuda_endAllocateToPool(device.index, pool)
            torch._C._cuda_releasePool(device.index, pool)
            side = torch.cuda.current_stream(device)
            with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=side, capture_error_mode="thread_local"):
                torch.zeros((), device=device)
        raise


class Copies:
    """Copies of the outputs that share memory where the outputs do, each piece of memory copied once."""

    def __init__(self, outputs: Sequence[Tensor]) -> None:
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in outputs}
        order = {address: at for at, address in enumerate(storages)}
        self._memory = [_as_numbers(storage, outputs[0].device) for storage in storages.values()]
        self._places = [(t, order[t.untyped_storage().data_ptr()]) for t in outputs]

    def allocate(self) -> list[Tensor]:
        """Memory for one set of copies."""
        return [torch.empty_like(numbers) for numbers in self._memory]

    def fill(self, memory: list[Tensor]) -> list[Tensor]:
        """The outputs as they are now, in that memory."""
        copy_each(memory, self._memory)
        made: dict[int, Tensor] = {}
        for tensor, at in self._places:
            if id(tensor) not in made:
                new = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
                storage = memory[at].untyped_storage()
                made[id(tensor)] = new.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
        return [made[id(tensor)] for tensor, _ in self._places]


def _as_numbers(storage: torch.UntypedStorage, device: torch.device) -> Tensor:
    """A storage as wide numbers, which copy faster than bytes."""
    dtype = next(dtype for dtype in (torch.int64, torch.int16, torch.uint8) if storage.nbytes() % dtype.itemsize == 0)
    return torch.empty(0, dtype=dtype, device=device).set_(storage, 0, (storage.nbytes() // dtype.itemsize,), (1,))


def copy_each(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Each source into its target; those of one dtype in few launches."""
    by_dtype: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        pair = by_dtype.setdefault(target.dtype, ([], []))
        pair[0].append(target)
        pair[1].append(source)
    for some_targets, some_sources in by_dtype.values():
        torch._foreach_copy_(some_targets, some_sources, non_blocking=True)


def like(tensor: Tensor) -> Tensor:
    """New memory with the same strides, which may decide on the kernel; an axis that is only expanded is laid out."""
    if 0 in tensor.stride():
        return torch.empty_like(tensor)
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def layout(tensor: Tensor) -> Hashable:
    """What of a tensor a kernel's launch depends on, beside its values."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def launch_settings() -> Hashable:
    """The settings of this process that choose between kernels."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    return (
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        _precision(products) or torch.get_float32_matmul_precision(),
        products.allow_bf16_reduced_precision_reduction,
        products.allow_fp16_reduced_precision_reduction,
        torch.backends.cuda.preferred_blas_library(),
        convolutions.enabled,
        convolutions.benchmark,
        convolutions.deterministic,
        _precision(getattr(convolutions, "conv", None)) or convolutions.allow_tf32,
    )


def _precision(backend: object) -> object:
    """float32's precision by the names that PyTorch 2.9 brought; None before, where the older names say it."""
    try:
        return getattr(backend, "fp32_precision", None)
    except (AttributeError, AssertionError):
        return None


def marked(device: torch.device) -> torch.cuda.Event | None:
    """An event behind what the current stream has been given; None without a GPU."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def wait_for(event: torch.cuda.Event | None) -> None:
    """Have the current stream wait, where another one may still be copying the results of the last replay."""
    if event is not None:
        event.wait(torch.cuda.current_stream(event.device))
