"""What the overview shows: the blocks as lines, files and Python, and the likeliest next tokens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from app.shell.answers import next_tokens
from app.shell.downloads import Download, csv_file, html_file, npz_file
from app.shell.folders import ModelKey
from app.shell.loading import ChosenModel
from app.shell.prompts import Prompt, token_text
from app.shell.steps import Ref, Step
from app.shell.tables import Cell
from diffmamba_interp.figures.curves import lambda_figure
from diffmamba_interp.files.archives import arrays_to_bytes
from diffmamba_interp.files.table_text import csv_text
from diffmamba_interp.models.inspection import BlockReport, CheckpointReport, inspect_checkpoint

COLUMNS = ("index", "kind", "n_parameters", "lambda_", "lambda_init", "saturated")
FIGURE = Step("figure", lambda_figure, Ref("reports"))
SIGMOID = {True: "saturated", False: "open", None: ""}


def report_steps(keys: Mapping[str, ModelKey]) -> list[Step]:
    """What inspects the checkpoints; the page's run is given it."""
    each = {name: Step("", inspect_checkpoint, key.folder, device=key.device) for name, key in keys.items()}
    return [Step("reports", dict, each)]


def subtracts(report: CheckpointReport) -> bool:
    """Whether anything is subtracted in the model."""
    return any(block.kind == "differential" for block in report.blocks)


def block_rows(report: CheckpointReport) -> list[dict[str, Cell]]:
    """A line for each block, about lambda only where there is one."""
    shown = [block_row(block) for block in report.blocks]
    if subtracts(report):
        return shown
    return [{name: row[name] for name in ("block", "kind", "parameters")} for row in shown]


def block_row(block: BlockReport) -> dict[str, Cell]:
    return {
        "block": block.index,
        "kind": block.kind,
        "parameters": block.n_parameters,
        "λ": block.lambda_,
        "λ_init": block.lambda_init,
        "sigmoid": SIGMOID[block.saturated],
    }


def next_token_rows(chosen: ChosenModel, prompt: Prompt) -> list[dict[str, Cell]]:
    """The likeliest tokens after the prompt, best first."""
    return [
        {"next token": repr(token_text(token, chosen.tokenizer)), "probability": probability}
        for token, probability in next_tokens(chosen, prompt)
    ]


def block_files(reports: Mapping[str, CheckpointReport], figure: go.Figure | None) -> list[Download]:
    return [
        *([html_file(figure)] if figure else []),
        csv_file(lambda: block_csv(reports)),
        npz_file(lambda: block_npz(reports)),
    ]


def block_csv(reports: Mapping[str, CheckpointReport]) -> str:
    """One line per model and block."""
    return csv_text(["model", *COLUMNS], [[name, *line] for name, line in _lines(reports)])


def block_npz(reports: Mapping[str, CheckpointReport]) -> bytes:
    """Columns of the CSV file; NaN where a block has no lambda."""
    lines = _lines(reports)
    arrays = {"model": np.array([name for name, _ in lines])}
    for place, column in enumerate(COLUMNS):
        values = [line[place] for _, line in lines]
        arrays[column] = np.array([np.nan if value is None else value for value in values])
    return arrays_to_bytes(arrays)


def _lines(reports: Mapping[str, CheckpointReport]) -> list[tuple[str, list[object]]]:
    return [
        (name, [getattr(block, column) for column in COLUMNS])
        for name, report in reports.items()
        for block in report.blocks
    ]
