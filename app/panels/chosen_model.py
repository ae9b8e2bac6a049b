"""The side bar: which models, in which dtype, on which device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st
from tokenizers import Tokenizer

from app import loading, view_state
from app.loading import ModelKey
from app.panels.errors import shown_errors
from diffmamba_interp import HookedMambaConfig

FIRST_CHOICES = (
    "bundled:diff-mamba2",
    "tests/fixtures/published_diffmamba2/alternate",
)
"""Taken as the first model to show, if they are there."""

SECOND_CHOICES = {"bundled:diff-mamba2": "bundled:mamba2"}
NO_MODEL = "none"


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


def baseline_last(models: Sequence[ChosenModel]) -> list[ChosenModel]:
    """Model and baseline, as differences take them: a plain one is the baseline, of two others the second."""
    return sorted(models, key=lambda model: model.is_plain) if len(models) == 2 else list(models)


def choose_model() -> ChosenModel | None:
    """The model that the side bar names; None, with an error box on the page, if it cannot be read."""
    with shown_errors("Opening the model"):
        root = loading.options().root
        names, _ = loading.found_folders(root)
        default = next((name for name in FIRST_CHOICES if name in names), names[0] if names else "")
        below = f"A bundled model, a checkpoint folder below {root.resolve()}, or `hub:owner/name`"
        with st.sidebar:
            name = view_state.selectbox("Model", "model", names, default, accept_new_options=True, help=below)
            dtype = view_state.selectbox("Numbers", "dtype", tuple(loading.DTYPES), "float32")
            device = choose_device()
        if not name:
            raise FileNotFoundError(
                f"no checkpoint folder below the root {root.resolve()}: start the explorer with "
                "`-- --root FOLDER`, or type a folder's name in the side bar."
            )
        return _opened(name, dtype, device)
    return None


def choose_second_model(first: ChosenModel) -> ChosenModel | None:
    """A model to show beside the first, in the same dtype; None if none is wanted or it cannot be read."""
    with shown_errors("Opening the second model"):
        names, _ = loading.found_folders(loading.options().root)
        others = [NO_MODEL, *(name for name in names if name != first.name)]
        default = SECOND_CHOICES.get(first.name, NO_MODEL)
        with st.sidebar:
            name = view_state.selectbox(
                "Beside it", "beside", others, default if default in others else NO_MODEL, accept_new_options=True
            )
            if name == first.name:
                st.warning("This is the first model: name another one, or none.")
        return None if name in (NO_MODEL, first.name) else _opened(name, first.key.dtype, first.key.device)
    return None


def choose_device() -> str:
    """Where the models run; nothing to choose where there is one place only."""
    devices = loading.devices()
    if len(devices) == 1:
        return devices[0]
    return view_state.selectbox("Runs on", "device", devices, devices[0])


def _opened(name: str, dtype: str, device: str) -> ChosenModel:
    key = loading.model_key(name, dtype, device)
    return ChosenModel(name=name, key=key, cfg=loading.config(key), tokenizer=loading.tokenizer(key))
