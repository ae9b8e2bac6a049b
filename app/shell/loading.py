"""The only cache: models and what was computed with them, within a memory budget.

One entry per (what, model's folder, its revision, dtype, prompt, ...). When the budget is full, the least
recently used go. A model serves one computation at a time, since hooks belong to the model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock, RLock
from typing import Any
from weakref import WeakValueDictionary

import streamlit as st
import torch
from tokenizers import Tokenizer

from app.shell import turns
from app.shell.downloads import KeptRecord, keep_record
from app.shell.folders import (
    ModelKey,
    bundled_names,
    find_folders,
    fingerprint,
    hub_folder,
    is_hub_name,
    open_folder,
    tokenizer_folder,
)
from app.shell.prompts import Prompt, read_tokenizer, token_text
from app.shell.starting import AppOptions, read_options
from diffmamba_interp import HookedMamba, HookedMambaConfig
from diffmamba_interp.models.checkpoints import open_checkpoint
from diffmamba_interp.models.inspection import CheckpointReport, inspect_checkpoint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class ChosenModel:
    """name: bundled model or folder below the root. tokenizer: None where the folder has none."""

    name: str
    key: ModelKey
    cfg: HookedMambaConfig
    tokenizer: Tokenizer | None

    @property
    def is_plain(self) -> bool:
        """Whether nothing is subtracted in any block."""
        return all(self.cfg.block_kind(block) == "plain" for block in range(self.cfg.n_layers))

    def keep(self, prompt: Prompt, title: str, record: object, token_ids: Iterable[int] = (), **drawn: Any) -> None:
        """Keep what this model made of a prompt for the session's file.

        token_ids: whose text belongs to it. drawn: `view` and `spans` of an attention record, as the page drew it.
        """
        keep_record(
            KeptRecord(
                title=title, model=self.name, dtype=self.key.dtype, device=self.key.device, strings=prompt.strings,
                record=record, words={token: token_text(token, self.tokenizer) for token in token_ids}, **drawn,
            )
        )  # fmt: skip


def baseline_last(models: Sequence[ChosenModel]) -> list[ChosenModel]:
    """Model and baseline, as differences take them: a plain one is the baseline, of two others the second."""
    return sorted(models, key=lambda model: model.is_plain) if len(models) == 2 else list(models)


def open_model(name: str, dtype: str, device: str) -> ChosenModel:
    """Its sizes and its tokenizer; the weights are read when they are needed. Raises as `model_key`."""
    key = model_key(name, dtype, device)
    return ChosenModel(name=name, key=key, cfg=config(key), tokenizer=tokenizer(key))


def options() -> AppOptions:
    return _process()[0]


def cache() -> BudgetedCache:
    return _process()[1]


@st.cache_data(ttl=30, show_spinner=False)
def found_folders(root: Path) -> tuple[list[str], list[str]]:
    """Models (bundled ones first) and lens folders, looked for again after half a minute."""
    models, lenses = find_folders(root)
    return bundled_names() + models, lenses


def devices() -> list[str]:
    """Where models can run, the one that the explorer was started with first."""
    return list(dict.fromkeys([options().device, "cpu", *(["cuda"] if torch.cuda.is_available() else [])]))


def model_key(name: str, dtype: str, device: str | None = None) -> ModelKey:
    """The key of a bundled model, one of the hub or the one in the folder `name` below the root.

    Raises as `open_folder` and `hub_folder`.
    """
    if is_hub_name(name):
        fetch = partial(hub_folder, name, allowed=options().hub, max_bytes=cache().budget_bytes)
        folder = cache().get(("hub", name), fetch, lambda _: 1000)
    else:
        folder = open_folder(options().root, name)
    return ModelKey(folder=folder, revision=fingerprint(folder), dtype=dtype, device=device or options().device)


def report(key: ModelKey) -> CheckpointReport:
    """What the checkpoint holds, without building the model."""
    return cache().get(
        ("report", key), lambda: inspect_checkpoint(key.folder, device=key.device), lambda made: 1000 * len(made.blocks)
    )


def config(key: ModelKey) -> HookedMambaConfig:
    """Sizes of the model, without building it."""
    return cache().get(("config", key), lambda: open_checkpoint(key.folder).cfg, lambda _: 1000)


def tokenizer(key: ModelKey) -> Tokenizer | None:
    """The tokenizer that comes with the model, if any."""
    return cache().get(("tokenizer", key), lambda: read_tokenizer(tokenizer_folder(key.folder)), lambda _: 10**7)


def held_models() -> list[tuple[ModelKey, int]]:
    """The models in memory and their bytes."""
    return [(key[1], size) for key, size in cache().held() if isinstance(key, tuple) and key[0] == "model"]


def model(key: ModelKey) -> HookedMamba:
    """The model, loaded if it fits the budget. Raises MemoryError, saying what to do, if it does not."""

    def load() -> HookedMamba:
        estimate = report(key).n_parameters * DTYPES[key.dtype].itemsize
        if estimate > cache().budget_bytes:
            raise MemoryError(
                f"the model would take about {estimate / 2**30:.2f} GiB, more than the budget of "
                f"{cache().budget_bytes / 2**30:.2f} GiB. Choose bfloat16, or start the explorer with "
                "`-- --memory-gib N`."
            )
        return HookedMamba.from_pretrained(key.folder, device=key.device, dtype=DTYPES[key.dtype]).eval()

    return cache().get(("model", key), load, _parameter_bytes)


def result(key: ModelKey, what: Hashable, make: Callable[[HookedMamba], Any], size_bytes: Callable[[Any], int]) -> Any:
    """What `make` computes with the model; `what` tells it from other results of the same model."""

    return cache().get(result_key(key, what), lambda: use(key, make), size_bytes)


def result_key(key: ModelKey, what: Hashable) -> Hashable:
    """Where the cache has what `result` made."""
    return ("result", key, what)


def use(key: ModelKey, make: Callable[[HookedMamba], Any]) -> Any:
    """What `make` computes with the model, not kept; one computation at a time."""
    loaded = model(key)
    with cache().lock_of(("running", key)):
        return make(loaded)


def giving_way(key: ModelKey, on_progress: Callable[[int], None] | None = None) -> Callable[[int], None]:
    """`on_progress` of a computation in `use` that may be long: after each of its steps, when no hook of its own is
    attached, other pages can be made, and use the model."""

    def tell(n: int) -> None:
        if on_progress is not None:
            on_progress(n)
        if turns.is_long():
            running = cache().lock_of(("running", key))
            running.release()
            try:
                turns.give_way()
            finally:
                running.acquire()

    return tell


@st.cache_resource(show_spinner=False)
def _process() -> tuple[AppOptions, BudgetedCache]:
    """One for all sessions."""
    chosen = read_options()
    torch.set_num_threads(chosen.threads)
    return chosen, BudgetedCache(chosen.memory_bytes)


def _parameter_bytes(model: HookedMamba) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


class BudgetedCache:
    """Values by key up to `budget_bytes`; each is made once, however many sessions ask for it at a time."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()
        self._locks: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()

    @property
    def used_bytes(self) -> int:
        return sum(size for _, size in self._entries.values())

    def get(self, key: Hashable, make: Callable[[], Any], size_bytes: Callable[[Any], int]) -> Any:
        """The value of `key`, made by `make` if it is not held; nothing is kept of a `make` that raises."""
        making = self.lock_of(key)
        if not making.acquire(blocking=False):
            with turns.not_waited_for():
                making.acquire()
        try:
            with self._lock:
                if key in self._entries:
                    self._entries.move_to_end(key)
                    return self._entries[key][0]
            value = make()
            size = size_bytes(value)
            with self._lock:
                self._entries[key] = (value, size)
                while self.used_bytes > self.budget_bytes and len(self._entries) > 1:
                    self._entries.popitem(last=False)
            return value
        finally:
            making.release()

    def held(self) -> list[tuple[Hashable, int]]:
        """Keys and sizes in bytes, the most recently used last."""
        with self._lock:
            return [(key, size) for key, (_, size) in self._entries.items()]

    def put(self, key: Hashable, value: Any, size_bytes: int) -> None:
        """Hold a value that was made elsewhere; one that is held already stays."""
        self.get(key, lambda: value, lambda _: size_bytes)

    def lock_of(self, key: Hashable) -> Any:
        """The lock under which `key` is made, or used if it serves one at a time; gone when nobody holds it."""
        with self._lock:
            return self._locks.setdefault(key, RLock())
