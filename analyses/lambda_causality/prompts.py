"""What the analyses that intervene share (lambda_causality, noise_robustness): prompts in a file, records in a folder.

Making prompts takes a CPU a minute, which a machine lent with its GPU need not spend: `run.py --prepare-to FILE`
writes them, `run.py --material FILE` reads them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analyses.retrieval.material import Material
from analyses.retrieval.prompts import Recipe as PlainRecipe
from diffmamba_interp import LogitLens, load_demo_lens
from diffmamba_interp.analysis_conditions import Columns, together
from diffmamba_interp.analysis_prompts import PromptRecipe, cells, data_of, each_once
from diffmamba_interp.analysis_results import provenance, write_records
from diffmamba_interp.files.atomic import write_bytes, write_text
from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.lens.card import lens_sha256
from diffmamba_interp.lens.folders import demo_lens_folder
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName, load_demo
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out import Lens
from diffmamba_interp.needle import NeedleSample
from diffmamba_interp.text import TextSource

RECORDS, PROVENANCE = "records.parquet", "provenance.json"


@dataclass(frozen=True, kw_only=True)
class TaskRecipe(PromptRecipe):
    """tasks: asked for without filler. long_tasks: those of them that are asked at the lengths above 0, too."""

    tasks: tuple[str, ...]
    long_tasks: tuple[str, ...]

    @property
    def wanted(self) -> list[tuple[str, int]]:
        """Task and length of every cell, the longest first, since they take longest."""
        found = [(task, length) for length in self.lengths for task in (self.long_tasks if length else self.tasks)]
        return sorted(found, key=lambda cell: -cell[1])


def prepare(recipe: TaskRecipe, data: Path, path: Path) -> None:
    """Write the prompts of all cells to a file. data: as in `analysis_prompts.cells`."""
    by_cell = {}
    for task in recipe.tasks:
        kept = [
            (length, n) for length, n in zip(recipe.lengths, recipe.n, strict=True) if (task, length) in recipe.wanted
        ]
        lengths, n = zip(*kept, strict=True)
        own = replace(recipe, lengths=lengths, n=n)
        by_cell |= {(task, length): tuple(each_once(samples)) for task, length, samples in cells(own, data, [task])}
    sha256 = {
        name: TextSource(location=str(place)).sha256() if place.is_dir() else file_sha256(place)
        for name, place in data_of(recipe, data).items()
    }
    made = tuple(by_cell[cell] for cell in recipe.wanted)
    Material(recipe=_plain(recipe), cells=made, text={}, data_sha256=sha256).save(path)


def cell_of(path: Path, recipe: TaskRecipe, task: str, length: int) -> tuple[NeedleSample, ...]:
    """The prompts of one cell from a file; their texts are left out, the tokens are there.

    Raises ValueError if the file holds the prompts of another recipe.
    """
    made = _kept_material(path, _plain(recipe)).cells
    found = {(cell[0].task, cell[0].length): cell for cell in made}
    if set(found) != set(recipe.wanted):
        raise ValueError(f"{path} holds the cells {sorted(found)}, not {sorted(recipe.wanted)}: make it again.")
    return found[task, length]


def load(name: DemoName, device: str, lens: str) -> tuple[HookedMamba, Lens]:
    """A model of the demo pair, and its tuned lens or the logit lens."""
    model, _ = load_demo(name, device=device)
    if lens == "tuned":
        return model, load_demo_lens(name, model)
    if lens == "logit":
        return model, LogitLens.from_model(model)
    raise ValueError(f'lens is {lens!r}: it must be "tuned" or "logit".')


def about(name: str, recipe: TaskRecipe, material: Path, device: str, lens: str) -> dict[str, Any]:
    """What records were made with: as `analysis_results.provenance`, and the lenses."""
    made = provenance(name, recipe, device=device)
    made["lens"] = lens
    made["lenses"] = {one: lens_sha256(demo_lens_folder(one)) for one in DEMO_NAMES} if lens == "tuned" else {}
    sha256 = _kept_material(material, _plain(recipe)).data_sha256
    return made | ({"data": sha256} if sha256 else {})


def keep(folder: Path, recipe: TaskRecipe, parts: Sequence[Columns], made: Mapping[str, Any]) -> None:
    """Write records and their provenance; statistics and pages are made of these alone."""
    # A test compares the small recipe's to 0.001; the other's are many.
    decimals, lens_decimals = (5, 4) if recipe.stories == "generated" else (2, 0)
    write_records(folder / RECORDS, together(parts, decimals=lens_decimals), decimals=decimals)
    write_text(folder / PROVENANCE, json.dumps(made, indent=1) + "\n")


def fetch(folder: Path, kept: Path) -> None:
    """Copy to `folder` what `keep` wrote to another one."""
    if kept.resolve() != folder.resolve():
        for name in (RECORDS, PROVENANCE):
            write_bytes(folder / name, (kept / name).read_bytes())


def _plain(recipe: TaskRecipe) -> PlainRecipe:
    return PlainRecipe(stories=recipe.stories, lengths=recipe.lengths, n=recipe.n, seed=recipe.seed)


@functools.cache
def _kept_material(path: Path, recipe: PlainRecipe) -> Material:
    """A worker process measures several cells."""
    return Material.load(path, recipe, with_prompts=False)
