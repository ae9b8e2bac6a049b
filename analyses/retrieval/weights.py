"""Trained weights to score: the bundled pair, and other training seeds by path."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.models.checkpoints import load_model
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName, demo_folder
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.runs.provenance import weights_sha256

# Of a run folder, in the order in which they are looked for: the bundled weights are bfloat16 too.
MODEL_FOLDERS = ("model-bf16", "model")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of `model` from training seed `seed`. path: a checkpoint folder or a bare .safetensors file.

    tokens: how many it was trained on; None if that is not known.
    """

    model: DemoName
    seed: int
    path: Path
    tokens: int | None = None

    @classmethod
    def at(cls, model: DemoName, path: Path, place: int) -> Weights:
        """A run folder of train_lm, which knows its seed and tokens; or bare weights, whose seed is their `place`."""
        if not (path / "results.json").is_file():
            return cls(model=model, seed=place, path=path)
        trained = json.loads((path / "results.json").read_text(encoding="utf-8"))
        own = [path / name for name in MODEL_FOLDERS if list((path / name).glob("*.safetensors"))]
        if not own:
            raise FileNotFoundError(f"{path} holds no weights in {' or '.join(MODEL_FOLDERS)}: copy them there.")
        return cls(model=model, seed=trained["seed"], path=own[0], tokens=trained["tokens"])

    @property
    def sha256(self) -> str:
        return weights_sha256(self.path) if self.path.is_dir() else file_sha256(self.path)

    def load(self, device: str) -> HookedMamba:
        """The model in float32. A bare file has the bundled model's config."""
        if self.path.is_dir():
            return load_model(self.path, device=device)
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(demo_folder(self.model) / "config.json", folder)
            shutil.copy(self.path, Path(folder) / "model.safetensors")
            return load_model(folder, device=device)


def pairs_of(mamba2: Sequence[Path], diff_mamba2: Sequence[Path]) -> list[dict[DemoName, Weights]]:
    """The bundled pair (seed 0), then the pairs at the given paths, in their order.

    Raises ValueError unless both models of a pair have the same seed, of its own, and the same number of tokens.
    """
    if len(mamba2) != len(diff_mamba2):
        raise ValueError(f"{len(mamba2)} seeds of mamba2, {len(diff_mamba2)} of diff-mamba2: give as many of both.")
    pairs: list[dict[DemoName, Weights]] = [
        {name: Weights(model=name, seed=0, path=demo_folder(name)) for name in DEMO_NAMES}
    ]
    for place, (plain, differential) in enumerate(zip(mamba2, diff_mamba2, strict=True), 1):
        one, other = Weights.at("mamba2", plain, place), Weights.at("diff-mamba2", differential, place)
        if (one.seed, one.tokens) != (other.seed, other.tokens):
            raise ValueError(
                f"{plain} has seed {one.seed} and {one.tokens} tokens, {differential} seed {other.seed} and "
                f"{other.tokens} tokens: a pair is trained on the same rows."
            )
        pairs.append({"mamba2": one, "diff-mamba2": other})
    seeds = [pair["mamba2"].seed for pair in pairs]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"the seeds are {seeds}: each must occur once; 0 is the bundled pair.")
    return pairs
