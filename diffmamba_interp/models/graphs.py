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
Generation: the state lies in the memory of its step's graph and is overwritten there, token by token (`Carried`).
Threads: one replays at a time; capturing refuses nothing to the others (thread-local mode), on a stream of its own.
Off: `model.cuda_graphs = False`, which drops all that were captured; setting it to True drops them too, which what
    nobody can see asks for: a function of the library that is put in place of another.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._device import DeviceContext

from diffmamba_interp.models.cuda_graph import (
    Body,
    Copies,
    CudaGraph,
    Outputs,
    copy_each,
    launch_settings,
    layout,
    like,
    marked,
    wait_for,
)
from diffmamba_interp.models.watched import Watched

SHARE_OF_MEMORY = 1 / 8
"""Of the GPU's memory: what the captured graphs of one model may hold."""
MAX_KEYS = 1024
"""Keys that are remembered, captured or not."""


log = logging.getLogger(__name__)


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
        further = [] if carried is None else carried.tensors
        key = (key, launch_settings(), tuple(layout(tensor) for tensor in (*inputs, *further)))
        try:
            outputs = self._replayed(model, key, body, inputs, carried)
            return body([*inputs, *further]) if outputs is None else outputs
        except torch.OutOfMemoryError:
            if not len(self):
                raise
        self.clear()
        torch.cuda.empty_cache()
        return body([*inputs, *further])

    def _replayed(
        self, model: nn.Module, key: Hashable, body: Body, inputs: Sequence[Tensor], carried: Carried | None
    ) -> Outputs | None:
        """By a graph, which is captured if it is time; None if the call is to be run eagerly."""
        further = [] if carried is None else carried.tensors
        with self._lock:
            if self._watched is not None and self._watched.model is None:
                self.clear()
            if self._watched is None:
                self._watched = Watched(model)
            if not self._watched.is_observed(model):
                entry = self._met(key)
                # A replay is launched first and its weights looked at while it runs: they are there, if not current.
                is_ahead = entry.graph is not None and carried is None
                outputs = entry.replay(inputs) if is_ahead else None
                change = self._watched.change()
                if change == "replaced":
                    self.clear()
                    self._entries[key] = _Entry(n_uses=1)
                elif outputs is not None and change == "none":
                    return outputs
                elif entry.graph is not None or (entry.n_uses > 1 and self._capture(entry, body, [*inputs, *further])):
                    return entry.replay(inputs, carried)
            if carried is not None:
                carried.give_back()
        return None

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
        entry = self._entries.pop(key)
        owner = entry.owner()
        if owner is not None:
            owner.give_back()
        if entry.finished is not None:  # Another stream may still be reading what goes with the entry.
            entry.finished.synchronize()


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
        wait_for(self._entry.finished)
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
    copies: Copies | None = None
    finished: torch.cuda.Event | None = None
    owner: Callable[[], Carried | None] = _nobody
    n_bytes: int = 0

    def take(self, body: Body, inputs: Sequence[Tensor]) -> None:
        # Ordinary tensors even in inference mode, whose own could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self.inputs = [like(tensor) for tensor in inputs]
            copy_each(self.inputs, inputs)
            self.graph = capture(body, self.inputs)
            self.copies = Copies(self.graph.outputs.tensors)
        self.n_bytes = self.graph.n_bytes + sum(tensor.nbytes for tensor in self.inputs)

    def refuse(self) -> None:
        self.is_refused, self.graph, self.inputs, self.copies, self.n_bytes = True, None, [], None, 0

    def replay(self, inputs: Sequence[Tensor], carried: Carried | None = None) -> Outputs:
        assert self.graph is not None
        assert self.copies is not None
        with torch.no_grad():
            # Where memory is short, that shows before anything has been overwritten.
            memory = self.copies.allocate()
            wait_for(self.finished)
            if carried is not None:
                carried.lie_in(self, self.inputs[len(inputs) :])
            copy_each(self.inputs[: len(inputs)], inputs)
            self.graph.replay()
            tensors = self.copies.fill(memory)
            self.finished = marked(inputs[0].device)
        return replace(self.graph.outputs, tensors=tensors)


capture: Callable[[Body, Sequence[Tensor]], Graph] = CudaGraph
"""How a function is captured; tests without a GPU put another in its place."""


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


def _limit(max_bytes: int | None, device: torch.device) -> float:
    if max_bytes is not None or device.type != "cuda":
        return float("inf") if max_bytes is None else float(max_bytes)
    return SHARE_OF_MEMORY * torch.cuda.get_device_properties(device).total_memory


_said: set[str] = set()


def _say_once(message: str, detail: object) -> None:
    if message not in _said:
        _said.add(message)
        log.warning(message + ". (Said once.)", detail)
