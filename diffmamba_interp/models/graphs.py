"""CUDA graphs behind the ordinary calls: what the host would launch one by one is launched at once.

A forward pass at batch 1 is some hundred short kernels, and launching them takes longer than running them. A pass that
comes a second time is therefore captured, and replayed from then on: the same kernels, so the same numbers.

What is captured: everything between the embedding and the unembedding, as a function of tensors alone: tokens, which of
    them are real, the positions to read, and the recurrent state. The unembedding is launched behind the graph, since
    it is one product whose result is as large as all else.
When: without gradients, outside autocast, torch.compile and other captures, on a GPU, up to 32,768 tokens
    (beyond, the kernels take longer than their launches), and where nobody looks in but a `Recorder`. Everything else
    runs eagerly: a user's function (at a hook point, or as torch's own module hook) is never captured.
Key: shapes, strides and dtypes of the inputs, the points recorded and how, the last block, and what changes the
    launches (`impl`, determinism, precision of products). At its second use a key is captured: till then it may never
    return.
Results: copied out of the graph's memory, views as views, so that no later call overwrites them.
Weights: the graph reads them where they lie, so that an edit in place is seen. What is derived of them (the stacked
    branches) is brought up to date in place; a parameter, module or setting that was replaced or moved drops every
    graph.
Memory: graphs of at most `max_bytes` are kept, those used longest ago dropped first, and all of them where an eager run
    is out of memory. A capture that fails is said once in the log, and its key stays eager.
Threads: one replays at a time; capturing refuses nothing to the others (thread-local mode), on a stream of its own.
Off: `model.cuda_graphs = False`, which drops all that were captured.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._device import DeviceContext

from diffmamba_interp.hook_points import HookPoint

SHARE_OF_MEMORY = 1 / 8
"""Of the GPU's memory: what the captured graphs of one model may hold."""
SETTINGS_APART = ("impl", "training")
"""Attributes that a graph need not be dropped for: the one is in its key, the other changes nothing."""
MAX_KEYS = 1024
"""Keys that are remembered, captured or not."""


@dataclass(frozen=True)
class Outputs:
    """What a captured function returns: tensors, and `form`, what they are, the same for every call of one key."""

    tensors: list[Tensor]
    form: Any = None


Body = Callable[[Sequence[Tensor]], Outputs]

log = logging.getLogger(__name__)
_capturing = threading.Lock()


@runtime_checkable
class Graph(Protocol):
    """What a capture gives: outputs that every `replay` fills anew from the inputs, and the memory held for it."""

    outputs: Outputs
    n_bytes: int

    def replay(self) -> None: ...


class GraphStore:
    """The graphs of one model, by key. A copy of it (deepcopy, pickle) is empty.

    max_bytes: of all graphs together; None is `SHARE_OF_MEMORY` of the GPU.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.RLock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._watched: Watched | None = None

    def call(
        self,
        model: nn.Module,
        key: Hashable,
        body: Body,
        inputs: Sequence[Tensor],
        carried: Carried | None = None,
    ) -> Outputs:
        """`body(inputs)`, replayed where the key has been met before.

        body: a function of its inputs and of the model's weights, which computes nothing else from one call to the
            next that has the same key. Shapes, strides and dtypes of the inputs are added to the key.
        carried: further inputs, behind the others, which the body overwrites for the next call.
        """
        own = [] if carried is None else carried.tensors
        key = (key, _launch_settings(), tuple(_layout(tensor) for tensor in (*inputs, *own)))
        with self._lock:
            if self._watched is not None and self._watched.model is None:
                self.clear()
            if self._watched is None:
                self._watched = Watched(model)
            if not self._watched.is_observed(model):
                entry = self._met(key)
                # A replay is launched first and its weights looked at while it runs: they are there, if not current.
                is_first = entry.graph is not None and carried is None
                outputs = entry.replay(inputs) if is_first else None
                change = self._watched.change()
                if change == "replaced":
                    self.clear()
                    self._entries[key] = _Entry(n_uses=1)
                elif outputs is not None and change == "none":
                    return outputs
                elif entry.graph is not None or (entry.n_uses > 1 and self._capture(entry, body, [*inputs, *own])):
                    return entry.replay(inputs, carried)
            if carried is not None:
                carried.give_back()
        return self._eagerly(body, [*inputs, *own])

    def clear(self) -> None:
        """Drop every graph, and forget which keys were met."""
        with self._lock:
            for key in list(self._entries):
                self._drop(key)
            self._watched = None

    @property
    def n_bytes(self) -> int:
        """Memory that the graphs hold."""
        return sum(entry.n_bytes for entry in self._entries.values())

    def __len__(self) -> int:
        """How many graphs there are."""
        return sum(entry.graph is not None for entry in self._entries.values())

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphStore:
        return GraphStore(self.max_bytes)

    def __reduce__(self) -> tuple[type[GraphStore], tuple[int | None]]:
        return GraphStore, (self.max_bytes,)

    def _met(self, key: Hashable) -> _Entry:
        """The key's entry, as the one used last."""
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        entry.n_uses += 1
        if len(self._entries) > MAX_KEYS:
            self._drop(next(iter(self._entries)))
        return entry

    def _capture(self, entry: _Entry, body: Body, inputs: Sequence[Tensor]) -> bool:
        """Whether there is a graph of this key now."""
        assert self._watched is not None
        if entry.is_refused:
            return False
        try:
            entry.take(body, inputs)
        except Exception as error:  # noqa: BLE001
            # Whatever it is, the same call runs eagerly next, and raises there what is the caller's to know.
            entry.refuse()
            _say_once("a forward pass could not be captured as a CUDA graph and runs eagerly (%s)", str(error))
            return False
        self._watched.keep_derived()
        limit = _limit(self.max_bytes, inputs[0].device)
        if entry.n_bytes > limit:
            _say_once("a CUDA graph of %.2f GB is over the limit; such passes run eagerly", entry.n_bytes / 1e9)
            entry.refuse()
        for key in list(self._entries):
            if self.n_bytes <= limit:
                break
            if self._entries[key] is not entry:
                self._drop(key)
        return entry.graph is not None

    def _drop(self, key: Hashable) -> None:
        owner = self._entries.pop(key).owner()
        if owner is not None:
            owner.give_back()

    def _eagerly(self, body: Body, inputs: Sequence[Tensor]) -> Outputs:
        try:
            return body(inputs)
        except torch.OutOfMemoryError:
            if not len(self):
                raise
        self.clear()
        torch.cuda.empty_cache()
        return body(inputs)


class Carried:
    """Tensors that a captured function overwrites at every call, the state of generation: one owner's at a time.

    They lie in the memory of the graph that was replayed last for their owner, and come back to `tensors` when
    another owner takes that graph, or when it goes: `give_back`.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = [tensor.clone() for tensor in tensors]
        self._entry: _Entry | None = None

    def lie_in(self, entry: _Entry, places: Sequence[Tensor]) -> None:
        """Put the tensors' values into these places of an entry, where they change from then on."""
        owner = entry.owner()
        if owner is self:
            return
        for before in (self, owner):
            if before is not None:
                before.give_back()
        copy_each(places, self.tensors)
        self._entry, entry.owner = entry, weakref.ref(self)

    def give_back(self) -> None:
        """Copy the values back into `tensors`, if they lie elsewhere."""
        if self._entry is None:
            return
        _wait_for(self._entry.finished)
        copy_each(self.tensors, self._entry.inputs[-len(self.tensors) :])
        if self.tensors[0].is_cuda:  # The owner may go on in another stream.
            torch.cuda.current_stream(self.tensors[0].device).synchronize()
        self._entry.owner, self._entry = _nobody, None


def _nobody() -> None:
    """The owner of an entry that nobody's tensors lie in."""


@dataclass(eq=False)
class _Entry:
    """One key: how often it was met, and its graph with the memory that it reads and how its results are copied."""

    n_uses: int = 0
    is_refused: bool = False
    graph: Graph | None = None
    inputs: list[Tensor] = field(default_factory=list)
    copies: _Copies | None = None
    finished: torch.cuda.Event | None = None
    owner: Callable[[], Carried | None] = _nobody
    n_bytes: int = 0

    def take(self, body: Body, inputs: Sequence[Tensor]) -> None:
        # Ordinary tensors even in inference mode, whose own could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self.inputs = [_like(tensor) for tensor in inputs]
            copy_each(self.inputs, inputs)
            self.graph = capture(body, self.inputs)
            self.copies = _Copies(self.graph.outputs.tensors)
        self.n_bytes = self.graph.n_bytes + sum(tensor.nbytes for tensor in self.inputs)

    def refuse(self) -> None:
        self.is_refused, self.graph, self.inputs, self.copies, self.n_bytes = True, None, [], None, 0

    def replay(self, inputs: Sequence[Tensor], carried: Carried | None = None) -> Outputs:
        assert self.graph is not None
        assert self.copies is not None
        with torch.no_grad():
            _wait_for(self.finished)
            if carried is not None:
                carried.lie_in(self, self.inputs[len(inputs) :])
            copy_each(self.inputs[: len(inputs)], inputs)
            self.graph.replay()
            tensors = self.copies.make()
            self.finished = _marked(inputs[0].device)
        return replace(self.graph.outputs, tensors=tensors)


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
            with torch.cuda.stream(stream), _mended_after_failure(stream, pool):
                # Here and not in the capture kernels are compiled and tuned, and workspaces of this stream made.
                body(inputs)
                with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                    self.outputs = body(inputs)
            current.wait_stream(stream)
        segments = torch.cuda.memory_snapshot()
        self.n_bytes = sum(s["total_size"] for s in segments if tuple(s["segment_pool_id"]) == tuple(pool))


@contextmanager
def _mended_after_failure(stream: torch.cuda.Stream, pool: tuple[int, int]) -> Iterator[None]:
    """Undo what PyTorch leaves behind of a capture that CUDA itself breaks off, as it does where the host waits for it.

    Its pool stays open, so that nobody gets its memory and no later capture succeeds; and the random numbers of the
    device stay those of a capture until one has come to its end.
    """
    try:
        yield
    except Exception:
        with suppress(RuntimeError):  # The pool is closed where another error than CUDA's ended the capture.
            torch._C._cuda_endAllocateToPool(stream.device_index, pool)
            torch._C._cuda_releasePool(stream.device_index, pool)
            with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream, capture_error_mode="thread_local"):
                torch.zeros((), device=stream.device)
        raise


capture: Callable[[Body, Sequence[Tensor]], Graph] = CudaGraph
"""How a function is captured; tests without a GPU put another in its place."""


class Watched:
    """What a graph read besides its inputs: the model's modules and parameters, and what was derived of these.

    The tensors are held, so that no other can come to have the address of one that was let go.
    """

    def __init__(self, model: nn.Module) -> None:
        points = [module for module in model.modules() if isinstance(module, HookPoint)]
        modules = [module for module in model.modules() if not isinstance(module, HookPoint)]
        known = {id(point) for point in getattr(model, "hook_points", {}).values()}
        self._model = weakref.ref(model)
        self._other_points = [point for point in points if id(point) not in known]
        self._children = [(module._modules, dict(module._modules)) for module in modules]
        self._hooks = [hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        self._attributes = [module.__dict__ for module in modules]
        self._settings = [
            (attributes, name, value)
            for attributes in self._attributes
            for name, value in attributes.items()
            if not name.startswith("_") and name not in SETTINGS_APART
        ]
        self._slots = [
            (slots, name, tensor, None if tensor is None else tensor.data_ptr())
            for module in modules
            for slots in (module._parameters, module._buffers)
            for name, tensor in slots.items()
        ]
        tensors = {id(tensor): tensor for _, _, tensor, _ in self._slots if tensor is not None}
        self._tensors = list(tensors.values())
        self._memory = [tensor.detach() for tensor in self._tensors]
        self.is_countable = not any(tensor.is_inference() for tensor in self._tensors)
        self._versions = self._count()
        self._deriving = [module for module in modules if isinstance(module, Deriving)]
        self._derived: dict[Deriving, object] = {}

    @property
    def model(self) -> nn.Module | None:
        """Whose modules these are; None when it is gone."""
        return self._model()

    def change(self) -> Literal["none", "refreshed", "replaced"]:
        """What has become of it since the last call.

        refreshed: weights were edited in place, and what is derived of them was made anew where it lies. replaced:
        something is elsewhere now, and the graphs must not be replayed.
        """
        if any(children != before for children, before in self._children):
            return "replaced"
        if any(attributes.get(name) is not value for attributes, name, value in self._settings):
            return "replaced"
        for slots, name, tensor, address in self._slots:
            now = slots.get(name)
            if now is not tensor or (now is not None and now.data_ptr() != address):
                return "replaced"
        versions = self._count()
        if versions == self._versions and all(m.derived is before for m, before in self._derived.items()):
            return "none"
        self._versions = versions
        is_in_place = all(module.derive() is before for module, before in self._derived.items())
        return "refreshed" if is_in_place else "replaced"

    def is_observed(self, model: nn.Module) -> bool:
        """Whether a run does more than the model's own: torch's module hooks, a forward put in place of a module's.

        So do functions at hook points that `model.hook_points` does not have, and replicas on other devices, which
        share what the model holds but not its parameters.
        """
        return (
            not self.is_countable
            or self.model is not model
            or any(point.is_hooked for point in self._other_points)
            or any(self._hooks)
            or any("forward" in attributes for attributes in self._attributes)
            or bool(nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks)
        )

    def keep_derived(self) -> None:
        """Remember what a graph that was captured just now has read."""
        self._derived |= {module: module.derived for module in self._deriving if module.derived is not None}

    def _count(self) -> list[int]:
        return [tensor._version for tensor in self._tensors] if self.is_countable else []


@runtime_checkable
class Deriving(Protocol):
    """A module that keeps tensors which it makes of its parameters.

    derived: what it keeps now, or None. derive: the same after bringing it up to date with the parameters, in place
    where it can.
    """

    @property
    def derived(self) -> object | None: ...
    def derive(self) -> object: ...


def replayed(
    graphs: GraphStore | None, model: nn.Module, key: Hashable, body: Body, inputs: Sequence[Tensor]
) -> list[Tensor]:
    """The tensors of `GraphStore.call`, eagerly without a store or where nothing may be replayed."""
    if graphs is None or not may_replay(inputs):
        return body(inputs).tensors
    return graphs.call(model, key, body, inputs).tensors


def may_replay(inputs: Sequence[Tensor]) -> bool:
    """Whether a call with these inputs, as things stand in this thread, could be one of a graph."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or not is_served(inputs):
        return False
    modes = torch.overrides._get_current_function_mode_stack()
    return not (
        torch.is_autocast_enabled("cuda")
        or torch._C._len_torch_dispatch_stack()
        or any(not isinstance(mode, DeviceContext) for mode in modes)
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def is_served(inputs: Sequence[Tensor]) -> bool:
    """Whether these are ordinary tensors on one GPU, and no capture is under way that the call would be a part of."""
    are_ordinary = all(type(tensor) is Tensor and tensor.is_cuda for tensor in inputs)
    return (
        are_ordinary
        and all(tensor.device == inputs[0].device for tensor in inputs)
        and not torch.cuda.is_current_stream_capturing()
    )


class _Copies:
    """Copies of the outputs that share memory where the outputs do, each piece of memory copied once."""

    def __init__(self, outputs: Sequence[Tensor]) -> None:
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in outputs}
        order = {address: at for at, address in enumerate(storages)}
        self._memory = [_as_numbers(storage, outputs[0].device) for storage in storages.values()]
        self._places = [(t, order[t.untyped_storage().data_ptr()]) for t in outputs]

    def make(self) -> list[Tensor]:
        memory = [torch.empty_like(numbers) for numbers in self._memory]
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


def _like(tensor: Tensor) -> Tensor:
    """New memory with the same strides, which may decide on the kernel; an axis that is only expanded is laid out."""
    if 0 in tensor.stride():
        return torch.empty_like(tensor)
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def _layout(tensor: Tensor) -> Hashable:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _launch_settings() -> Hashable:
    """The settings of this process that choose between kernels."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    return (
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


def _limit(max_bytes: int | None, device: torch.device) -> float:
    if max_bytes is not None or device.type != "cuda":
        return float("inf") if max_bytes is None else float(max_bytes)
    return SHARE_OF_MEMORY * torch.cuda.get_device_properties(device).total_memory


def _marked(device: torch.device) -> torch.cuda.Event | None:
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def _wait_for(event: torch.cuda.Event | None) -> None:
    """Have the current stream wait, where another one may still be copying the results of the last replay."""
    if event is not None:
        event.wait(torch.cuda.current_stream(event.device))


_said: set[str] = set()


def _say_once(message: str, detail: object) -> None:
    if message not in _said:
        _said.add(message)
        log.warning(message + ". (Said once.)", detail)
