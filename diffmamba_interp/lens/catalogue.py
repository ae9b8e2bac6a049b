"""A table of the lenses below a folder, made from what each one's metrics.json says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from diffmamba_interp.lens.card import CARD_FILE, METRICS_FILE, Provenance, read_metrics
from diffmamba_interp.lens.evaluation import LensMeasurement

COLUMNS = (
    "lens",
    "model",
    "trained on",
    "made on",
    "held-out tokens",
    "mean KL, logit lens",
    "mean KL, tuned lens",
    "nearer in",
)


def catalogue(root: str | Path) -> list[str]:
    """Lines of a Markdown table with a row for every `<model>/<name>/metrics.json` below `root`.

    Mean KL is over the stages that have a translator, in nats; "nearer in" counts those in which the tuned lens is
    nearer to the model's output than the logit lens beyond the 95 % interval. Raises ValueError for a metrics.json
    of another format.
    """
    root = Path(root)
    folders = sorted(file.parent for file in root.glob(f"*/*/{METRICS_FILE}"))
    rows = [_row(folder.relative_to(root).as_posix(), *read_metrics(folder)) for folder in folders]
    return [_line(COLUMNS), _line(["---"] * len(COLUMNS)), *map(_line, rows)]


def _row(name: str, measurement: LensMeasurement, provenance: Provenance, recipe: Mapping[str, Any]) -> list[str]:
    stages = measurement.stages
    n_nearer = sum(stage.kl_saved_nats.low > 0 for stage in stages)
    n_tokens = recipe["steps"] * recipe["tokens_per_step"]
    return [
        f"[{name}]({name}/{CARD_FILE})",
        f"{provenance.model} (`{(provenance.model_sha256 or 'none')[:12]}`)",
        f"{Path(provenance.data).name}, {recipe['steps']} steps, {n_tokens:,} tokens",
        f"{provenance.device}, PyTorch {provenance.versions['torch']}",
        f"{measurement.n_tokens:,} in {measurement.n_documents:,} documents",
        f"{fmean(stage.logit_lens_kl_nats.value for stage in stages):.3f}",
        f"{fmean(stage.kl_nats.value for stage in stages):.3f}",
        f"{n_nearer} of {len(stages)} stages",
    ]


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
