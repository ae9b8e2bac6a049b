"""What pages keep for a session where it is more than one record of the library: as JSON and back."""

from __future__ import annotations

from dataclasses import dataclass

from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.implicit_attention import HeadScores
from diffmamba_interp.interventions import PatchGrid
from diffmamba_interp.needle import ProbeRecord
from diffmamba_interp.needle.accuracy_grid import Cell


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadsRun(JsonRecord):
    """measure: which of the scores the page showed."""

    scores: HeadScores
    measure: str


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchingRun(JsonRecord):
    """The grid and its estimate by one backward pass, of the same cells. places: what each column is called."""

    exact: PatchGrid
    estimate: PatchGrid
    places: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalRun(JsonRecord):
    """Cells of a grid that was run on the page."""

    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbesRun(JsonRecord):
    """One record for each model."""

    records: tuple[ProbeRecord, ...]
