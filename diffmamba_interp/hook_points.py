"""Hook points: named places in a model where a value can be read or replaced.

A `HookPoint` is the identity until functions are attached to it. Each function is called as
`fn(value, name)`; what it returns replaces the value for the rest of the forward pass, `None` keeps it.
Convention: TransformerLens (names and the reading of values); departures: the name is passed by position,
an in-place edit is an error, and a replacement of another shape is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

from torch import Tensor, nn

from diffmamba_interp.hook_names import COSTLY_LEAVES, matches_glob

HookFunction = Callable[[Tensor, str], Tensor | None]
NamesFilter = str | Sequence[str] | Callable[[str], bool] | None


class HookPoint(nn.Module):
    """Identity that shows its value to the attached functions, in the order in which they were attached.

    `broadcast=True` (used by lambda) also accepts a replacement that broadcasts against the value's use, such
    as one lambda per sample, `[batch, 1, 1]`.
    """

    name: str

    def __init__(self, *, broadcast: bool = False) -> None:
        super().__init__()
        self.name = ""
        self.broadcast = broadcast
        self.functions: list[HookFunction] = []

    @property
    def is_hooked(self) -> bool:
        return bool(self.functions)

    def forward(self, value: Tensor) -> Tensor:
        for function in self.functions:
            value = self._call(function, value)
        return value

    def _call(self, function: HookFunction, value: Tensor) -> Tensor:
        version = None if value.is_inference() else value._version
        returned = function(value, self.name)
        if version is not None and value._version != version:
            raise RuntimeError(
                f"the hook on {self.name!r} changed its value in place, which would also change cached tensors "
                "that share its memory. Return a new tensor instead: `edited = value.clone(); ...; return edited`."
            )
        return value if returned is None else self._checked(returned, value)

    def _checked(self, returned: object, value: Tensor) -> Tensor:
        if not isinstance(returned, Tensor):
            raise TypeError(
                f"the hook on {self.name!r} returned {type(returned).__name__}: return a tensor to replace the "
                "value, or None to keep it."
            )
        if returned.shape != value.shape and not (self.broadcast and _is_per_sample(returned, value)):
            raise ValueError(
                f"the hook on {self.name!r} returned shape {tuple(returned.shape)}; the value it replaces has "
                f"shape {tuple(value.shape)}."
            )
        return returned.to(device=value.device, dtype=value.dtype)


def name_hook_points(model: nn.Module) -> dict[str, HookPoint]:
    """Give every hook point its path in `model` as its name, and return them by name in forward order."""
    points = {name: module for name, module in model.named_modules() if isinstance(module, HookPoint)}
    for name, point in points.items():
        point.name = name
    return points


def select_names(points: Iterable[str], names: NamesFilter) -> list[str]:
    """The hook points that `names` selects, in the order of `points`.

    `None`: all but the costly ones (`hook_names.COSTLY_LEAVES`). A string: an exact name, or a shell-style
    glob. A sequence: any of those. A callable: every name for which it returns true.

    Raises KeyError, with the names that exist, for a name or a glob that selects nothing.
    """
    existing = list(points)
    if names is None:
        return [name for name in existing if name.rpartition(".")[2] not in COSTLY_LEAVES]
    if callable(names):
        return [name for name in existing if names(name)]
    patterns = [names] if isinstance(names, str) else list(names)
    chosen: set[str] = set()
    for pattern in patterns:
        found = [name for name in existing if name == pattern or matches_glob(name, pattern)]
        if not found:
            raise KeyError(_no_such_name(pattern, existing))
        chosen.update(found)
    return [name for name in existing if name in chosen]


@contextmanager
def attached(points: Mapping[str, HookPoint], fwd_hooks: Sequence[tuple[NamesFilter, HookFunction]]) -> Iterator[None]:
    """Attach functions for the duration of a `with` block; they are removed whatever happens inside it.

    `fwd_hooks`: pairs of (what `select_names` takes, function). All names are checked before any is attached.
    """
    resolved = [(points[name], fn) for names, fn in fwd_hooks for name in select_names(points, names)]
    for point, function in resolved:
        point.functions.append(function)
    try:
        yield
    finally:
        for point, function in resolved:
            point.functions.remove(function)


def _is_per_sample(returned: Tensor, value: Tensor) -> bool:
    """Whether `returned` is a scalar's replacement by one value per sample or per position: [batch, 1|pos, 1]."""
    return value.ndim == 0 and (returned.numel() == 1 or (returned.ndim == 3 and returned.shape[-1] == 1))


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
