"""The folder of one training run: its recipe, its snapshot, its log and in the end its lens.

recipe.toml    written at the start; another recipe is refused, with the field that differs
log.jsonl      one line per step
snapshot.pt    state of the training after its last snapshot; gone when the lens is finished
config.json, params.pt, lens.json, metrics.json, CARD.md, figure.svg        the finished lens
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffmamba_interp.lens.lenses import CONFIG_FILE
from diffmamba_interp.lens.recipe import LensRecipe, first_difference, read_recipe, recipe_from_dict, write_recipe
from diffmamba_interp.lens.training import TrainingError
from diffmamba_interp.runs.run_log import LOG_FILE
from diffmamba_interp.runs.settings import changed
from diffmamba_interp.runs.snapshots import SNAPSHOT_FILE, read_snapshot, write_snapshot

RECIPE_FILE = "recipe.toml"


class RunFolder:
    """A run in `path` with `recipe` (its schedule resolved).

    identity: what else must be the same to resume, such as the sha256 of model, tokenizer and data.
    """

    def __init__(self, path: str | Path, recipe: LensRecipe, identity: Mapping[str, str | None]) -> None:
        self.path = Path(path)
        self.recipe = recipe
        self.identity = dict(identity)
        self._last_snapshot_s = time.monotonic()

    @property
    def log_file(self) -> Path:
        return self.path / LOG_FILE

    @property
    def is_finished(self) -> bool:
        """Whether the lens is there and nothing is left to train."""
        return (self.path / CONFIG_FILE).is_file() and not (self.path / SNAPSHOT_FILE).exists()

    def check(self) -> None:
        """Look whether the run can be made here; changes nothing.

        Raises ValueError, naming the field, if another recipe was begun here or the folder holds something else;
        OSError if it cannot be written.
        """
        existing = next(p for p in (self.path, *self.path.parents) if p.exists())
        if not existing.is_dir():
            raise NotADirectoryError(f"{existing} is a file: give a folder with --out.")
        if not os.access(existing, os.W_OK):
            raise PermissionError(f"{existing} is not writable: choose another folder with --out.")
        if (self.path / RECIPE_FILE).is_file():
            self._require_same(read_recipe(self.path / RECIPE_FILE), f"{self.path} holds a run")
        elif (self.path / CONFIG_FILE).exists():
            raise ValueError(
                f"{self.path} holds a {CONFIG_FILE} but no {RECIPE_FILE}, so this command did not make it: choose "
                "another folder with --out."
            )

    def begin(self) -> None:
        """Make the folder and write the recipe."""
        write_recipe(self.recipe, self.path / RECIPE_FILE)

    def read_snapshot(self) -> dict[str, Any] | None:
        """The last snapshot's state, or None if there is none.

        Raises ValueError if it is of another recipe, model or data (naming it), or cannot be read.
        """
        content, file = read_snapshot(self.path), self.path / SNAPSHOT_FILE
        if content is None:
            return None
        try:
            recipe, identity, state = (content[key] for key in ("recipe", "identity", "state"))
        except KeyError as error:
            raise ValueError(f"{file} is no snapshot of this command: delete it to start over.") from error
        self._require_same(recipe_from_dict(recipe, source=str(file)), f"{file} is of a run")
        for name, (before, now) in changed(identity, self.identity).items():
            raise ValueError(
                f"{file} was made with another {name} ({before}) than this run's ({now}): give the same files as "
                "before, choose another --out, or delete the folder to start over."
            )
        return state

    def snapshot_is_due(self) -> bool:
        """Whether `snapshot_minutes` have passed since the last one."""
        return time.monotonic() - self._last_snapshot_s >= 60 * self.recipe.snapshot_minutes

    def write_snapshot(self, state: Mapping[str, Any]) -> None:
        """Replace the snapshot. Raises TrainingError if that fails; the last one is then still there."""
        recipe = {name: value for name, value in asdict(self.recipe).items() if value is not None}
        content = {"recipe": recipe, "identity": self.identity, "state": dict(state)}
        try:
            write_snapshot(self.path, content)
        except OSError as error:
            kept = "the last one is kept" if (self.path / SNAPSHOT_FILE).is_file() else "there is none yet"
            raise TrainingError(
                f"the snapshot of step {state['step']} could not be written ({error}); {kept}. Make room, then give "
                "the same command to resume."
            ) from error
        self._last_snapshot_s = time.monotonic()

    def remove_snapshot(self) -> None:
        """Delete the snapshot, once the lens is written."""
        (self.path / SNAPSHOT_FILE).unlink(missing_ok=True)

    def _require_same(self, stored: LensRecipe, where: str) -> None:
        difference = first_difference(stored, self.recipe)
        if difference is not None:
            name, before, now = difference
            raise ValueError(
                f"{where} with {name} = {before!r}, but this command says {name} = {now!r}. Give the same options to "
                "go on, choose another folder with --out, or delete that one to start over."
            )
