"""What an intervention is, and how several of them are put in force together.

An intervention is a frozen dataclass that names what is changed and where. `hooks(model)` turns it into pairs
of a hook's name and a function, which `model.run_with_hooks` and `model.hooks` take; `intervene` attaches the
pairs of one or more interventions to whatever runs inside a `with` block.

At one hook point the functions act in the order in which their interventions are given.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.hook_points import HookFunction
from diffmamba_interp.models.language_model import HookedMamba

Hook = tuple[str, HookFunction]


@runtime_checkable
class Intervention(Protocol):
    """A change to the forward pass of any model that it fits."""

    def hooks(self, model: HookedMamba) -> list[Hook]:
        """(hook name, function) pairs for `model`. Raises ValueError if the model lacks what is to be changed."""


Interventions = Intervention | Sequence[Intervention]


@dataclass(frozen=True)
class Observer:
    """A hook function that only looks: it sees what all interventions together leave, whatever their order."""

    function: HookFunction

    def __call__(self, value: Tensor, name: str) -> None:
        self.function(value, name)


@dataclass(frozen=True)
class OnPrompt:
    """A hook function that acts at given positions of the prompt, so not where a later call continues from it."""

    function: HookFunction

    def __call__(self, value: Tensor, name: str) -> Tensor | None:
        return self.function(value, name)


@checked
def hooks_of(model: HookedMamba, interventions: Interventions) -> list[Hook]:
    """The pairs of all interventions, for `model.run_with_hooks` or `model.hooks`; those that only look come last.

    Raises ValueError if the model lacks what one of them changes.
    """
    pairs = [pair for one in as_tuple(interventions) for pair in one.hooks(model)]
    return sorted(pairs, key=lambda pair: isinstance(pair[1], Observer))


@checked
@contextmanager
def intervene(model: HookedMamba, interventions: Interventions) -> Iterator[HookedMamba]:
    """Put interventions in force for whatever this thread runs inside the `with` block; none outlives it.

    Functions that act at positions count them from the beginning of a prompt. They rest in a call that continues
    from a recurrent state, as scoring of labels and `generate` do, since its positions lie after the prompt. So of a
    prompt that is read in pieces they reach the first piece only; a position beyond it is an error.

        with intervene(model, [SetLambda(value=0.0, blocks=3), KnockOut(positions=(5, 6))]):
            scores = score_labels(model, samples)
    """
    this_call = _Call(thread=threading.get_ident())
    pairs = [
        (name, this_call.unless_continuing(function) if isinstance(function, OnPrompt) else function)
        for name, function in hooks_of(model, interventions)
    ]
    watch = model.blocks[0].register_forward_pre_hook(this_call.begin, with_kwargs=True)
    try:
        with model.hooks(pairs):
            yield model
    finally:
        watch.remove()


@checked
def describe(intervention: Intervention) -> dict[str, Any]:
    """The intervention as plain JSON values: its kind and its fields; of tensors, their shape."""
    kind: dict[str, Any] = {"kind": type(intervention).__name__}
    return kind | _plain(cast(Any, intervention))


def as_tuple(interventions: Interventions) -> tuple[Intervention, ...]:
    """One intervention or several, as several."""
    return (interventions,) if isinstance(interventions, Intervention) else tuple(interventions)


@dataclass
class _Call:
    """Whether the forward pass that is under way in one thread continues from a recurrent state."""

    thread: int
    continues: bool = False

    def begin(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == self.thread:
            state = args[1] if len(args) > 1 else kwargs.get("state")
            self.continues = state is not None

    def unless_continuing(self, function: HookFunction) -> HookFunction:
        return lambda value, name: None if self.continues else function(value, name)


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return {"shape": list(value.shape)}
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
