"""The residual stream of a prompt at every block, kept so that a picture of another block runs no block before it."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor

from app.shell import loading
from app.shell.folders import ModelKey
from app.shell.prompts import Prompt
from diffmamba_interp import ActivationCache, HookedMamba
from diffmamba_interp.hook_names import FINAL_SCALE, block_point
from diffmamba_interp.hook_points import attached
from diffmamba_interp.models.read_out import final_scale


def kept_stream(key: ModelKey, prompt: Prompt) -> ActivationCache:
    """What extraction goes on from; a pass of its own where no other one left it."""

    def make(model: HookedMamba) -> ActivationCache:
        passing: dict[str, Tensor] = {}
        with torch.no_grad(), noted(model, passing):
            model(torch.tensor([prompt.tokens], device=key.device), stop_at_block=model.cfg.n_layers)
        return ActivationCache(passing)

    return cast(ActivationCache, loading.result(key, _what(prompt), make, lambda _: stream_bytes(key, prompt)))


def keep_stream(key: ModelKey, prompt: Prompt, passing: MutableMapping[str, Tensor]) -> None:
    """Keep what was `noted`, if anything was. Not while the model is used: whoever waits for it may hold the place
    where this is kept."""
    if passing:
        what = loading.result_key(key, _what(prompt))
        loading.cache().put(what, ActivationCache(passing), stream_bytes(key, prompt))


@contextmanager
def noted(model: HookedMamba, passing: MutableMapping[str, Tensor]) -> Iterator[None]:
    """Put the stream before every block, and the final norm's scale, of what runs in the `with` block into `passing`.

    It must run all blocks once, without gradients.
    """
    last = block_point(model.cfg.n_layers - 1, "resid_post")
    names = [*(block_point(block, "resid_pre") for block in range(model.cfg.n_layers)), last]
    with attached(model.hook_points, [(names, lambda value, name: passing.__setitem__(name, value))]):
        yield
    with torch.no_grad():
        passing[FINAL_SCALE] = final_scale(model, passing.pop(last))


def stream_bytes(key: ModelKey, prompt: Prompt) -> int:
    cfg = loading.config(key)
    return 4 * len(prompt.tokens) * cfg.d_model * (cfg.n_layers + 1)


def _what(prompt: Prompt) -> tuple[str, Prompt]:
    return ("residual stream", prompt)
