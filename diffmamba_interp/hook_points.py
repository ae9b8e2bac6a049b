"""Hook points: named places in a model where a value can be read or replaced.

A `HookPoint` is the identity until functions are attached to it. Each function is called as
`fn(value, name)`; what it returns replaces the value for the rest of the forward pass, `None` keeps it.
Convention: TransformerLens (names and the reading of values); departures: the name is passed by position,
an in-place edit is an error, a replacement of another shape is an error, and functions act only on the forward
passes of the thread that attached them, so that two threads may share a model. A thread that was started after they
were attached may have been meant to see them, and the log says once that it does not; `all_threads` carries them over.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from diffmamba_interp.argument_checks import fitting
from diffmamba_interp.hook_names import COSTLY_LEAVES, matches_glob
from diffmamba_interp.ops.precision import upcast

HookFunction = Callable[[Tensor, str], Tensor | None]
NamesFilter = str | Sequence[str] | Callable[[str], bool] | None

TORCH_REFUSES_IN_PLACE = ("Inplace update to inference tensor", "is a view and is being modified inplace")
"""Parts of torch's own messages, which do not say which hook it was nor what to do in one."""

log = logging.getLogger(__name__)
_attaching = threading.Lock()


@dataclass(frozen=True, eq=False)
class Attachment:
    """One function at one point; compared by identity, so that the same function may be attached twice.

    thread: on whose forward passes it acts; None for every thread's. running: the threads that there were.
    """

    function: HookFunction
    thread: int | None
    running: frozenset[int | None]


class Recorder:
    """A hook function that keeps what it is shown and replaces nothing, so that the run may be a replayed graph.

    dtype: what the values are kept in; their own by default. widen: in float32 where they are narrower, inside the
    graph that is replayed. positions: [batch, read_pos], the only ones that are kept of values [batch, pos, ...]; all
    by default. seen: the values by hook-point name, in the order in which they came.
    """

    def __init__(
        self, *, dtype: torch.dtype | None = None, widen: bool = False, positions: Tensor | None = None
    ) -> None:
        self.dtype, self.widen, self.positions = dtype, widen, positions
        self.seen: dict[str, Tensor] = {}

    def __call__(self, value: Tensor, name: str) -> None:
        if self.positions is not None:
            value = value[torch.arange(len(value), device=value.device)[:, None], self.positions]
        self.seen[name] = upcast(value) if self.widen else value.to(self.dtype or value.dtype)


class HookPoint(nn.Module):
    """Identity that shows its value to the attached functions, in the order in which they were attached.

    `broadcast=True` (used by lambda) also accepts a replacement that broadcasts against the value's use, such
    as one lambda per sample, `[batch, 1, 1]`. A copy of a hook point (deepcopy, pickle) has no functions.
    """

    name: str

    def __init__(self, *, broadcast: bool = False) -> None:
        super().__init__()
        self.name = ""
        self.broadcast = broadcast
        self._attachments: tuple[Attachment, ...] = ()

    @property
    def functions(self) -> tuple[HookFunction, ...]:
        """The functions that a forward pass of this thread calls, in order."""
        return tuple(attachment.function for attachment in self.in_force)

    @property
    def in_force(self) -> tuple[Attachment, ...]:
        """What is attached for this thread or for all of them, in order."""
        if not self._attachments:
            return ()
        thread = threading.get_ident()
        for attachment in self._attachments:
            if attachment.thread not in (None, thread) and thread not in attachment.running:
                _say_that_hooks_are_not_seen()
        return tuple(attachment for attachment in self._attachments if attachment.thread in (None, thread))

    @property
    def is_hooked(self) -> bool:
        return bool(self._attachments) and bool(self.in_force)

    @property
    def may_replace(self) -> bool:
        """Whether a function is in force that may put another value in place of the one that it is shown."""
        return bool(self._attachments) and not all(isinstance(function, Recorder) for function in self.functions)

    def attach(
        self, function: HookFunction, *, all_threads: bool = False, running: frozenset[int | None] | None = None
    ) -> Attachment:
        """Call `function` from now on, in this thread or in all of them; `detach` takes what is returned.

        `running`: the threads that there are, where the caller has looked.
        """
        running = running_threads() if running is None else running
        attachment = Attachment(function, None if all_threads else threading.get_ident(), running)
        with _attaching:
            self._set_attachments((*self._attachments, attachment))
        return attachment

    def detach(self, attachment: Attachment) -> None:
        """Undo one `attach`."""
        with _attaching:
            self._set_attachments(tuple(other for other in self._attachments if other is not attachment))

    def _set_attachments(self, attachments: tuple[Attachment, ...]) -> None:
        # Past Module.__setattr__, which looks for parameters: this happens at every point of every cached run.
        self.__dict__["_attachments"] = attachments

    def __call__(self, value: Tensor) -> Tensor:
        """`forward`, without the cost of a module call where nothing is attached: it is on every model's path."""
        return value if not self._attachments else super().__call__(value)

    def forward(self, value: Tensor) -> Tensor:
        for function in self.functions:
            value = self._call(function, value)
        return value

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_attachments": ()}

    def _call(self, function: HookFunction, value: Tensor) -> Tensor:
        version = None if value.is_inference() else value._version
        try:
            with _in_place_edits_refused(value):
                returned = function(value, self.name)
        except RuntimeError as error:
            if any(reason in str(error) for reason in TORCH_REFUSES_IN_PLACE):
                raise self._edited_in_place() from error
            raise
        if version is not None and value._version != version:
            raise self._edited_in_place()
        return value if returned is None else self._checked(returned, value)

    def _edited_in_place(self) -> RuntimeError:
        return RuntimeError(
            f"the hook on {self.name!r} changed its value in place, which would also change cached tensors "
            "that share its memory. Return a new tensor instead: `edited = value.clone(); ...; return edited`."
        )

    def _checked(self, returned: object, value: Tensor) -> Tensor:
        if not isinstance(returned, Tensor):
            raise TypeError(
                f"the hook on {self.name!r} returned {type(returned).__name__}: return a tensor to replace the "
                "value, or None to keep it."
            )
        if returned.dtype == torch.bool or (returned.is_complex() and not value.is_complex()):
            raise TypeError(
                f"the hook on {self.name!r} returned dtype {returned.dtype}; the value it replaces has {value.dtype}, "
                "which cannot hold it: return real numbers (of a complex tensor, its .real or .abs())."
            )
        if self.broadcast and returned.numel() == 1:
            returned = returned.reshape(()).expand(value.shape)
        if returned.shape != value.shape and not (self.broadcast and _is_per_sample(returned, value)):
            per_sample = ", or one value per sample, [batch, 1, 1], or per position, [batch, pos, 1]"
            raise ValueError(
                f"the hook on {self.name!r} returned shape {tuple(returned.shape)}; the value it replaces has "
                f"shape {tuple(value.shape)}: return that{per_sample if self.broadcast else ''}."
            )
        return returned.to(device=value.device, dtype=value.dtype)


def running_threads() -> frozenset[int | None]:
    """The identifiers of the threads that have been started and have not ended."""
    return frozenset(thread.ident for thread in threading.enumerate())


def name_hook_points(model: nn.Module) -> dict[str, HookPoint]:
    """Give every hook point its path in `model` as its name, and return them by name in forward order."""
    points = {name: module for name, module in model.named_modules() if isinstance(module, HookPoint)}
    for name, point in points.items():
        point.name = name
    return points


class UnknownHookPointError(KeyError, ValueError):
    """A name or a pattern that no hook point of the model has; the message lists those that it has."""

    def __str__(self) -> str:
        return str(self.args[0])


def select_names(points: Iterable[str], names: NamesFilter, argument: str = "names_filter") -> list[str]:
    """The hook points that `names` selects, in the order of `points`.

    `None`: all but the costly ones (`hook_names.COSTLY_LEAVES`). A string: an exact name, or a shell-style
    glob. A sequence: any of those. A callable: every name for which it returns true.

    Raises UnknownHookPointError, a KeyError, with the names that exist, for a name or a glob that selects nothing.
    `argument` is the caller's word for `names`.
    """
    names = fitting(argument, names, NamesFilter)
    existing = list(points)
    if names is None:
        return [name for name in existing if name.rpartition(".")[2] not in COSTLY_LEAVES]
    if callable(names):
        return [name for name in existing if names(name)]
    patterns = [names] if isinstance(names, str) else list(names)
    chosen, points = set[str](), set(existing)
    for pattern in patterns:
        matching = (pattern,) if pattern in points else _matching(tuple(existing), pattern)
        if not matching:
            raise UnknownHookPointError(f"{argument}: {_no_such_name(pattern, existing)}")
        chosen.update(matching)
    return [name for name in existing if name in chosen]


@lru_cache(maxsize=64)
def _matching(existing: tuple[str, ...], pattern: str) -> tuple[str, ...]:
    """Kept for the patterns in use: looking through all names takes longer than a short prompt's forward pass."""
    return tuple(name for name in existing if matches_glob(name, pattern))


@contextmanager
def attached(
    points: Mapping[str, HookPoint],
    fwd_hooks: Iterable[tuple[NamesFilter, HookFunction]],
    *,
    all_threads: bool = False,
) -> Iterator[None]:
    """Attach functions for the duration of a `with` block; they are removed whatever happens inside it.

    `fwd_hooks`: pairs of (what `select_names` takes, function). All names are checked before any is attached.
    Raises KeyError for a function that would be attached to nothing.
    """
    resolved = [(points[name], fn) for names, fn in fwd_hooks for name in _at_least_one(points, names)]
    running = running_threads()
    attachments = [(p, p.attach(function, all_threads=all_threads, running=running)) for p, function in resolved]
    try:
        yield
    finally:
        for point, attachment in attachments:
            point.detach(attachment)


def _at_least_one(points: Mapping[str, HookPoint], names: NamesFilter) -> list[str]:
    selected = select_names(points, names, "fwd_hooks")
    if not selected:
        raise UnknownHookPointError(f"fwd_hooks: {names!r} selects no hook point, so its function is never called.")
    return selected


@cache
def _say_that_hooks_are_not_seen() -> None:
    log.warning(
        "a thread that was started after hooks were attached runs the model, and does not see them: functions act on "
        "the thread that attached them. Attach them in that thread, or for all threads with "
        "`model.hooks(fwd_hooks, all_threads=True)`. (Said once.)"
    )


def _in_place_edits_refused(value: Tensor) -> AbstractContextManager[object]:
    """Inside `torch.inference_mode` tensors count no edits: outside of it, torch itself refuses to edit them."""
    if not value.is_inference():
        return nullcontext()
    return _outside_inference_mode()


@contextmanager
def _outside_inference_mode() -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad():
        yield


def _is_per_sample(returned: Tensor, value: Tensor) -> bool:
    """Whether `returned` is a scalar's replacement by one value per sample or per position: [batch, 1|pos, 1]."""
    return value.ndim in (0, 3) and returned.ndim == 3 and returned.shape[-1] == 1


def _no_such_name(pattern: str, existing: list[str]) -> str:
    block = next((part for part in pattern.split(".") if part.isdigit()), None)
    if block is not None and f"blocks.{block}" in {".".join(name.split(".")[:2]) for name in existing}:
        where, listed = (
            f"block {block} has",
            [name for name in existing if name.startswith(f"blocks.{block}.")],
        )
    else:
        where, listed = "the model has", existing
    close = get_close_matches(pattern, existing, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"no hook point matches {pattern!r}.{hint} {where}: {', '.join(listed)}"
