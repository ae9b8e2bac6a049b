"""What captured graphs read of a model beside their inputs, and whether it is still what it was."""

from __future__ import annotations

import weakref
from typing import Literal, Protocol, runtime_checkable

from torch import nn

from diffmamba_interp.hook_points import HookPoint

SETTINGS_APART = ("impl", "training")
"""Attributes that a graph need not be dropped for: the one is in its key, the other changes nothing."""


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
