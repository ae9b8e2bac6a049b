"""What is asked of `lens_trajectory`: made from the widgets, run, and written as Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from app import loading
from app.folders import bundled_name, fingerprint, resolve_below
from app.loading import ModelKey
from app.prompts import Prompt
from diffmamba_interp import HookedMamba
from diffmamba_interp.lens import LensTrajectory, LogitLens, lens_trajectory, load_lens
from diffmamba_interp.lens.folders import demo_lens_folder

STATISTICS = {
    "probability": "probability of the top token",
    "entropy": "entropy",
    "kl_to_final": "KL from the output",
    "target_rank": "rank of the next token",
    "target_probability": "probability of the next token",
}
LOGIT_LENS = "logit lens"
BUNDLED_LENS = "bundled tuned lens"
TOP_K = 10


@dataclass(frozen=True, kw_only=True)
class LensRequest:
    """lens: its folder, None for the logit lens. revision: changes with the folder's files. first, last: the
    positions that are read, last included. target: a token, None for each position's next one; needs_target:
    whether the statistic is about it."""

    lens: Path | None
    revision: str
    first: int
    last: int
    needs_target: bool = False
    target: int | None = None

    def targets(self, prompt: Prompt) -> list[int] | None:
        """One token per position of the prompt; the last one's, which has no next, is never read."""
        if not self.needs_target:
            return None
        if self.target is not None:
            return [self.target] * len(prompt.tokens)
        return [*prompt.tokens[1:], prompt.tokens[-1]]

    def arguments(self, prompt: Prompt) -> dict[str, str]:
        """Arguments of `lens_trajectory` beside model, lens and tokens, as Python."""
        found = {"positions": f"slice({self.first}, {self.last + 1})", "top_k": str(TOP_K)}
        targets = self.targets(prompt)
        return found if targets is None else {**found, "targets": f"torch.tensor([{targets}])"}


def bundled_lens(key: ModelKey) -> Path | None:
    """The folder of the tuned lens that comes with a bundled model; None if there is none."""
    name = bundled_name(key.folder)
    if name is None:
        return None
    try:
        return demo_lens_folder(name)
    except FileNotFoundError:
        return None


def lens_request(
    name: str, key: ModelKey, *, first: int, last: int, needs_target: bool, target: int | None
) -> LensRequest:
    """`name`: LOGIT_LENS, BUNDLED_LENS or a lens folder below the root. Raises as `resolve_below`."""
    if name == BUNDLED_LENS:
        folder = bundled_lens(key)
        if folder is None:
            raise FileNotFoundError("no tuned lens comes with this model: choose the logit lens, or a lens folder.")
    else:
        folder = None if name == LOGIT_LENS else resolve_below(loading.options().root, name)
    return LensRequest(
        lens=folder, revision=fingerprint(folder) if folder else "", first=first, last=last,
        needs_target=needs_target, target=target,
    )  # fmt: skip


def trajectory(key: ModelKey, prompt: Prompt, request: LensRequest) -> LensTrajectory:
    """The trajectory, from the cache if it was made before. Raises ValueError for another model's lens."""

    def make(model: HookedMamba) -> LensTrajectory:
        lens = LogitLens.from_model(model) if request.lens is None else load_lens(request.lens, model)
        targets = request.targets(prompt)
        return lens_trajectory(
            model,
            lens,
            torch.tensor([prompt.tokens], device=key.device),
            positions=slice(request.first, request.last + 1),
            top_k=TOP_K,
            targets=None if targets is None else torch.tensor([targets]),
        )

    return loading.result(key, ("lens", prompt, request), make, _trajectory_bytes)


def _trajectory_bytes(found: LensTrajectory) -> int:
    return sum(value.nbytes for value in vars(found).values() if isinstance(value, np.ndarray))
