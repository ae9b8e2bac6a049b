"""The log of a run: JSON lines always, TensorBoard or Weights & Biases if asked for."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from diffmamba_interp.lens.recipe import LensRecipe
from diffmamba_interp.lens.training import StepRecord
from diffmamba_interp.runs.command import RunError
from diffmamba_interp.runs.json_log import append_record, cut_log


class RunLog:
    """Appends one line per step to `path`; lines of steps after `step`, which a resumed run takes again, are dropped.

    Raises ImportError, with what to install, if `report_to` names a package that is missing.
    """

    def __init__(self, path: Path, recipe: LensRecipe, *, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_log(path, step)
        self._path = path
        self._elsewhere = _reporter(recipe, path.parent)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._elsewhere.close()

    def write(self, record: StepRecord, *, tokens_per_s: float) -> None:
        """Add one step; losses in nats, speed in tokens per second of this process group."""
        line = asdict(record) | {"mean_loss_nats": record.mean_loss_nats, "tokens_per_s": round(tokens_per_s, 1)}
        append_record(self._path, line)
        self._elsewhere.add(record)


class _Nowhere:
    def add(self, record: StepRecord) -> None:
        pass

    def close(self) -> None:
        pass


class _TensorBoard(_Nowhere):
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def add(self, record: StepRecord) -> None:
        for name, value in _scalars(record).items():
            self._writer.add_scalar(name, value, record.step)

    def close(self) -> None:
        self._writer.close()


class _Wandb(_Nowhere):
    def __init__(self, run: Any) -> None:
        self._run = run

    def add(self, record: StepRecord) -> None:
        self._run.log(_scalars(record), step=record.step)

    def close(self) -> None:
        self._run.finish()


def _reporter(recipe: LensRecipe, folder: Path) -> _Nowhere:
    if recipe.report_to == "none":
        return _Nowhere()
    try:
        if recipe.report_to == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            return _TensorBoard(SummaryWriter(str(folder / "tensorboard")))
        return _wandb(recipe, folder)
    except ImportError as error:
        raise ImportError(
            f"report_to is {recipe.report_to!r}, which is not installed: pip install {recipe.report_to}, or leave the "
            "option out (log.jsonl is always written)."
        ) from error


def _wandb(recipe: LensRecipe, folder: Path) -> _Nowhere:
    import wandb

    try:
        run = wandb.init(project="diffmamba-interp", config=asdict(recipe), dir=str(folder), resume="allow")
    except wandb.errors.Error as error:
        raise RunError(
            f"report_to is 'wandb', which could not start ({error}): log in with `wandb login`, set "
            "WANDB_MODE=offline, or leave the option out (log.jsonl is always written)."
        ) from error
    return _Wandb(run)


def _scalars(record: StepRecord) -> dict[str, float]:
    losses = {f"loss_nats/translator_{block}": loss for block, loss in enumerate(record.loss_nats)}
    return losses | {
        "mean_loss_nats": record.mean_loss_nats,
        "gradient_norm": record.gradient_norm,
        "learning_rate": record.learning_rate,
    }
