"""One forward pass as a function of tensors, with what is recorded on the way: the form in which a graph replays it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import compress
from operator import attrgetter

from torch import Tensor, nn

from diffmamba_interp.hook_points import HookPoint, Recorder
from diffmamba_interp.models.cuda_graph import Outputs, copy_each
from diffmamba_interp.models.graphs import Carried, GraphStore, may_replay
from diffmamba_interp.models.recurrent_state import RecurrentState

MAX_TOKENS = 32_768
"""Tokens of a pass beyond which a graph would save nothing: its kernels take longer than their launches."""


@dataclass(frozen=True, kw_only=True)
class PassInputs:
    """tokens: [batch, pos]. valid: the real ones. positions: [batch, read_pos], to unembed. state: to continue from."""

    tokens: Tensor
    valid: Tensor | None
    positions: Tensor | None
    state: RecurrentState | None

    def tensors(self) -> list[Tensor]:
        """All of them in one order."""
        given = [tensor for tensor in (self.tokens, self.valid, self.positions) if tensor is not None]
        return given if self.state is None else [*given, *self.state.tensors()]

    def filled(self, tensors: Iterator[Tensor]) -> PassInputs:
        """The same with other tensors in their places, taken in that order."""
        return PassInputs(
            tokens=next(tensors),
            valid=None if self.valid is None else next(tensors),
            positions=None if self.positions is None else next(tensors),
            state=None if self.state is None else self.state.map(lambda _: next(tensors)),
        )


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """resid: the residual stream, or what the unembedding reads. state: after the last token, if it was kept."""

    resid: Tensor
    state: RecurrentState | None


def run_pass(
    graphs: GraphStore | None,
    model: nn.Module,
    points: Collection[HookPoint],
    run: Callable[[PassInputs], PassResult],
    inputs: PassInputs,
    key: Hashable,
) -> PassResult:
    """`run(inputs)`, by a graph where there is one to be had; what recorders are to see reaches them either way.

    key: all that `run` depends on beside its inputs and the model.
    """
    if graphs is None or inputs.tokens.numel() > MAX_TOKENS or not may_replay(inputs.tensors()):
        return run(inputs)
    recorders = _recorders_in_force(points)
    if recorders is None:
        return run(inputs)
    own_positions = [recorder.positions for recorder in recorders if recorder.positions is not None]

    def body(tensors: Sequence[Tensor]) -> Outputs:
        following = iter(tensors)
        given = inputs.filled(following)
        with ExitStack() as stack:
            seen = [stack.enter_context(_recording_apart(recorder, following)) for recorder in recorders]
            result = run(given)
        state = [] if result.state is None else result.state.tensors()
        kept = [value for values in seen for value in values.values()]
        return Outputs([result.resid, *state, *kept], form=(result.state, [list(values) for values in seen]))

    has_parts = (inputs.valid is not None, inputs.positions is not None, inputs.state is not None)
    recorded = tuple(
        (tuple(names), recorder.dtype, recorder.widen, recorder.positions is not None)
        for recorder, names in recorders.items()
    )
    outputs = graphs.call(model, (key, has_parts, recorded), body, [*inputs.tensors(), *own_positions])
    following = iter(outputs.tensors)
    (state, names_seen), resid = outputs.form, next(following)
    result = PassResult(resid=resid, state=None if state is None else state.map(lambda _: next(following)))
    for recorder, names in zip(recorders, names_seen, strict=True):
        recorder.seen.update((name, next(following)) for name in names)
    return result


class CarriedState:
    """The recurrent state of a generation, overwritten token by token; `Carried` says where it lies meanwhile."""

    def __init__(self, state: RecurrentState) -> None:
        self._carried = Carried(state.tensors())
        self._form = state

    def step(
        self,
        graphs: GraphStore | None,
        model: nn.Module,
        points: Collection[HookPoint],
        run: Callable[[PassInputs], PassResult],
        tokens: Tensor,
        key: Hashable,
    ) -> Tensor:
        """What the unembedding reads after these tokens, which the state then holds too; arguments as in `run_pass`."""

        def body(tensors: Sequence[Tensor]) -> Outputs:
            following = iter(tensors)
            form = PassInputs(tokens=tokens, valid=None, positions=None, state=self._form)
            result = run(form.filled(following))
            assert result.state is not None
            copy_each(tensors[1:], result.state.tensors())
            return Outputs([result.resid])

        is_bare = not any(map(attrgetter("_attachments"), points))
        if graphs is None or not is_bare or not may_replay([tokens, *self._carried.tensors]):
            self._carried.give_back()
            return body([tokens, *self._carried.tensors]).tensors[0]
        return graphs.call(model, ("step", key), body, [tokens], self._carried).tensors[0]


def _recorders_in_force(points: Collection[HookPoint]) -> dict[Recorder, list[str]] | None:
    """What is recorded in this thread, and at which points; None where a function of another kind is attached too."""
    recorders: dict[Recorder, list[str]] = {}
    hooked = map(attrgetter("_attachments"), points)
    for point in compress(points, hooked):
        for attachment in point.in_force:
            if not isinstance(attachment.function, Recorder) or attachment.thread is None:
                return None
            recorders.setdefault(attachment.function, []).append(point.name)
    return recorders


@contextmanager
def _recording_apart(recorder: Recorder, tensors: Iterator[Tensor]) -> Iterator[dict[str, Tensor]]:
    """What the recorder keeps inside the `with` block, at the next positions; its own values stay as they were."""
    seen, positions = recorder.seen, recorder.positions
    recorder.seen = {}
    recorder.positions = None if positions is None else next(tensors)
    try:
        yield recorder.seen
    finally:
        recorder.seen, recorder.positions = seen, positions
