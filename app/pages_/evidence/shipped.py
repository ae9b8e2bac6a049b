"""What was measured beforehand, of many prompts and the bundled pair; an installed copy does not have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.shell.headlines import calibrated_gaps, retrieval_headline
from app.shell.needle_runs import SHIPPED, shipped_results
from app.shell.wording import estimated, prompts
from diffmamba_interp.files.json_files import read_json_object
from diffmamba_interp.needle.accuracy_grid import read_cells
from diffmamba_interp.statistics import Estimate

ANALYSES = SHIPPED.parents[2]
MODEL = "bundled:diff-mamba2"


def carriers_of_many(model: str) -> list[str]:
    """What `analyses` found of which blocks carry the answer."""
    if model != MODEL:
        return []
    told = []
    if cells := _cells("lambda_causality"):
        worst = min(cells[0]["blocks"], key=lambda block: block["change"]["right"][0])
        told.append(
            f"Subtraction: λ 0 in block {worst['where']} alone costs most accuracy, "
            f"{estimated(Estimate(*worst['change']['right']), 2)}"
            f" ({prompts(cells[0]['n'])}, analyses/lambda_causality)."
        )
    for cell in [cell for cell in _cells("circuit") if MODEL.endswith(f":{cell['model']}")][:1]:
        best = {}
        for place in ("needle label", "outside the facts"):
            row = max((name for name in cell["grid"] if name.endswith(place)), key=lambda name: cell["grid"][name][0])
            block, branch = row.partition(" |")[0].split()
            best[place] = f"block {block}'s {branch}, {estimated(Estimate(*cell['grid'][row]), 2)}"
        told.append(
            f"Swapping: what is written at the answer's own word brings back most in {best['needle label']} of the "
            f"answer; and behind the facts in {best['outside the facts']} ({cell['n']} pairs; analyses/circuit)."
        )
    return told


def gaps_of_many(models: Sequence[str]) -> tuple[str, ...]:
    """How the calibrated models differ at the output, in the task that the needle page opens with and in all."""
    return calibrated_gaps(shipped_results(models), "tuned", {"task": "qa1"})


def accuracy_of_many(models: Sequence[str]) -> str:
    """In which cells of the retrieval tasks the model is behind."""
    file = ANALYSES / "retrieval" / "paper" / "results.json"
    if shipped_results(models) is None or not file.is_file():
        return ""
    told = retrieval_headline(read_cells(file))
    return " ".join([told.says[0], *told.against])


def _cells(question: str) -> list[dict[str, Any]]:
    file = ANALYSES / question / "paper" / "results.json"
    return read_json_object(file)["cells"] if file.is_file() else []
