"""What the stages of a model say about needles, read along a training run: how retrieval forms.

    log p_i(label)     through the logit lens at every stage i, for the same prompts at every step (`needle_trajectory`)
    cos(M1(u), M2(u))  of a differential block's branches at a prompt's last position
    lambda             of every differential block
    negative mass, redundancy of heads     what else differencing may do (`head_rivals`), on the shortest prompts
    bits per byte      of held-out text

From these follow formation stage, signal-to-noise ratio and accuracy at each step, whatever their thresholds. A run
keeps one file for each step of `evaluation.stages.at`, so one that is stopped and resumed has them all.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.hook_names import BRANCHES, branch_out
from diffmamba_interp.implicit_attention import branch_cosine, head_rivals
from diffmamba_interp.lens import LogitLens
from diffmamba_interp.models.differential_mixer import DifferentialMixer
from diffmamba_interp.models.language_model import HookedMamba, last_positions
from diffmamba_interp.models.prompt_batches import batches, padded
from diffmamba_interp.models.token_checks import valid_positions
from diffmamba_interp.needle.records import NeedleSample, save_samples
from diffmamba_interp.needle.trajectory import BATCH_TOKENS, needle_trajectory

STAGES_FOLDER = "stages"
PROMPTS_FILE = "prompts.xz"
MAX_SAMPLES = 256
RIVAL_PROMPTS = 32
"""Negative mass and redundancy are read on the shortest prompts, so many of them: they take all pairs of tokens."""

RIVAL_PARTS = ("net", "minuend", "subtrahend")
"""net: a plain block's only scan, or the difference; the others are NaN in plain blocks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StageReading:
    """A model after `step` optimiser steps.

    log_probs: of each whole label after the prompt, in nats, stages as in `NeedleTrajectory`; NaN beyond a prompt's
        own labels.
    branch_cosine: of the branches' outputs at the last position of the prompt, in [-1, 1]. lambda_: of each block.
        Both are NaN in plain blocks.
    bits_per_byte: of each held-out text, by name.
    negative_mass, redundancy: of each head (`head_rivals`) for each of `RIVAL_PARTS`, means over `RIVAL_PROMPTS`; None
        in readings that were written before there were these.
    """

    step: int
    log_probs: Float[np.ndarray, "sample stage label"]
    branch_cosine: Float[np.ndarray, "sample block"]
    lambda_: Float[np.ndarray, " block"]
    bits_per_byte: dict[str, float]
    negative_mass: Float[np.ndarray, "block part head"] | None = None
    redundancy: Float[np.ndarray, "block part head"] | None = None

    @classmethod
    def of(
        cls, model: HookedMamba, samples: list[NeedleSample], *, step: int, bits_per_byte: dict[str, float]
    ) -> StageReading:
        """Read `model` in evaluation mode as it is; the prompts' order is kept."""
        read = needle_trajectory(model, LogitLens.from_model(model), samples, max_samples=MAX_SAMPLES)
        return cls(
            step=step,
            log_probs=read.log_probs[0],
            branch_cosine=branch_cosines(model, samples),
            lambda_=lambdas(model),
            bits_per_byte=bits_per_byte,
            **rivals(model, samples),
        )

    def save(self, folder: Path) -> None:
        """Write `stages/<step>.npz` below the run's folder, in place of an older reading of that step."""
        buffer = io.BytesIO()
        arrays = {name: getattr(self, name) for name in ARRAYS if getattr(self, name) is not None}
        about = {"step": self.step, "bits_per_byte": self.bits_per_byte}
        np.savez_compressed(buffer, about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8), **arrays)
        write_bytes(reading_file(folder, self.step), buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> StageReading:
        """What `save` wrote. Raises ValueError for a file of another kind."""
        try:
            with np.load(path, allow_pickle=False) as held:
                arrays = {name: held[name] for name in ARRAYS if name in held}
                return cls(**json.loads(held["about"].tobytes()), **arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no reading of a training run's stages ({error}).") from error


ARRAYS = tuple(field.name for field in fields(StageReading) if field.name not in ("step", "bits_per_byte"))


def reading_file(folder: Path, step: int) -> Path:
    """Where the reading after `step` steps lies in a run's folder; names sort by step."""
    return folder / STAGES_FOLDER / f"{step:07d}.npz"


def load_readings(folder: Path) -> list[StageReading]:
    """All readings of a run, by step."""
    return [StageReading.load(path) for path in sorted((folder / STAGES_FOLDER).glob("*.npz"))]


def keep_prompts(folder: Path, samples: list[NeedleSample]) -> None:
    """Write the prompts that the readings are about beside them."""
    save_samples(folder / STAGES_FOLDER / PROMPTS_FILE, samples)


def lambdas(model: HookedMamba) -> Float[np.ndarray, " block"]:
    """lambda of each block, NaN in plain ones and where every token has one of its own."""
    values = np.full(len(model.blocks), np.nan, np.float32)
    for at, block in enumerate(model.blocks):
        if isinstance(block.mixer, DifferentialMixer) and block.mixer.has_one_lambda:
            values[at] = block.mixer.lambda_().item()
    return values


def rivals(model: HookedMamba, samples: list[NeedleSample]) -> dict[str, Float[np.ndarray, "block part head"]]:
    """Negative mass and redundancy of every head, means over the shortest prompts."""
    device = model.embed.weight.device
    chosen = sorted(range(len(samples)), key=lambda i: samples[i].n_tokens)[:RIVAL_PROMPTS]
    sums: dict[str, np.ndarray] = {}
    for i in chosen:
        scores = head_rivals(model, torch.as_tensor(samples[i].tokens, device=device)[None].long())
        for name in ("negative_mass", "redundancy"):
            parts = np.full((model.cfg.n_layers, len(RIVAL_PARTS), max(scores.n_heads)), np.nan, np.float32)
            for row, (block, part) in enumerate(scores.rows):
                place = RIVAL_PARTS.index(part) if part in RIVAL_PARTS else 0
                parts[block, place] = scores.values[name][0, row]
            sums[name] = sums.get(name, 0.0) + parts / len(chosen)
    return sums


@torch.no_grad()
def branch_cosines(model: HookedMamba, samples: list[NeedleSample]) -> Float[np.ndarray, "sample block"]:
    """Cosine of the branches' outputs at each prompt's last position, NaN in plain blocks."""
    n_blocks, device = model.cfg.n_layers, model.embed.weight.device
    differential = [i for i in range(n_blocks) if isinstance(model.blocks[i].mixer, DifferentialMixer)]
    cosines = np.full((len(samples), n_blocks), np.nan, np.float32)
    if not differential:
        return cosines
    points = [branch_out(block, branch) for block in differential for branch in BRANCHES]
    batch_tokens = BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])
    for indices in batches([sample.n_tokens for sample in samples], batch_tokens, max_samples=MAX_SAMPLES):
        tokens = padded([samples[i].tokens for i in indices]).to(device)
        lengths = torch.tensor([samples[i].n_tokens for i in indices], device=device)
        ends: dict[str, Tensor] = {}

        def keep(value: Tensor, name: str, ends: dict[str, Tensor] = ends, lengths: Tensor = lengths) -> None:
            ends[name] = last_positions(value, valid_positions(value[..., 0], lengths))[:, 0].clone()

        model.run_with_hooks(tokens, [(points, keep)], lengths=lengths, stop_at_block=differential[-1] + 1)
        for block in differential:
            minuend, subtrahend = (ends[branch_out(block, branch)] for branch in BRANCHES)
            cosines[indices, block] = branch_cosine(minuend.float(), subtrahend.float()).cpu().numpy()
    return cosines
