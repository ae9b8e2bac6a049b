"""The training loop: one optimiser step per batch, a log line now and then, snapshots, an exact continuation.

The weights after step s are a function of recipe and data alone, not of where the run was stopped and resumed:
batches and learning rate are functions of the step, and a snapshot holds weights and optimiser moments.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from diffmamba_interp.lm_training.evaluation import EvaluationSet, evaluate, text_bits_per_byte
from diffmamba_interp.lm_training.loss import RoleSums
from diffmamba_interp.lm_training.mixture import Batch, Mixture, iterate_batches
from diffmamba_interp.lm_training.optimiser import learning_rate, make_optimiser, restore_optimiser
from diffmamba_interp.lm_training.recipe import Recipe
from diffmamba_interp.lm_training.snapshots import Snapshot, read_metrics, write_snapshot
from diffmamba_interp.lm_training.stage_readings import StageReading, keep_prompts, lambdas, reading_file
from diffmamba_interp.lm_training.step import COMPUTE_DTYPES, make_step
from diffmamba_interp.models.checkpoints import parameter_dtype
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.runs.command import RunError
from diffmamba_interp.runs.process_group import ProcessGroup
from diffmamba_interp.runs.run_log import LOG_FILE, append_record, cut_log
from diffmamba_interp.runs.settings import to_values
from diffmamba_interp.runs.snapshots import SNAPSHOT_FILE
from diffmamba_interp.runs.speech import progress
from diffmamba_interp.text import save_tokenizer

logger = logging.getLogger(__name__)


class TrainingDivergedError(RunError):
    """The loss or the gradient is no finite number; the last snapshot is from before."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """step: optimiser steps done. is_complete: the recipe's steps are done. metrics: the last evaluation.

    is_asked_to_stop: it ended because `stop` said so.
    """

    step: int
    is_complete: bool
    is_asked_to_stop: bool
    metrics: dict[str, float]


class Trainer:
    """One run in `folder`. Give `snapshot` to continue from it."""

    def __init__(
        self,
        recipe: Recipe,
        model: HookedMamba,
        mixture: Mixture,
        folder: Path,
        *,
        group: ProcessGroup,
        evaluation: EvaluationSet | None = None,
        data_sha256: dict[str, str] | None = None,
        snapshot: Snapshot | None = None,
        show_progress: bool = False,
    ) -> None:
        self.recipe, self.mixture, self.folder, self.group = recipe, mixture, folder, group
        self.evaluation, self.data_sha256 = evaluation, data_sha256 or {}
        self.show_progress = show_progress and group.is_writer
        self.model = model.to(group.device).train()
        self.optimiser = make_optimiser(self.model, recipe.optimiser)
        self.compute_dtype = COMPUTE_DTYPES[recipe.precision]
        self._step = make_step(self.model, self.optimiser, recipe, group)
        self.step, self.tokens, self.seconds_before = 0, 0, 0.0
        self.metrics: dict[str, float] = {}
        if snapshot is not None:
            self._restore(snapshot)
        if group.is_writer:
            folder.mkdir(parents=True, exist_ok=True)
            cut_log(folder / LOG_FILE, self.step)
        self._started = time.monotonic()

    def run(self, stop: Callable[[], bool] = lambda: False) -> Outcome:
        """Train until the steps are done, the minutes used up, or `stop` says so; in each case with a snapshot.

        `stop` is asked after each step; in a run of several processes, one that says yes stops all.
        Raises TrainingDivergedError, with the last snapshot left as it was, when a loss is not finite.
        """
        recipe, group = self.recipe, self.group
        is_asked_to_stop = False
        self._catch_up_evaluation()
        self._begin_stages()
        batches = iterate_batches(
            self.mixture,
            self.step,
            recipe.steps,
            rank=group.rank,
            world_size=group.size,
            workers=recipe.workers,
        )
        sums, since = RoleSums(group.device), time.monotonic()
        n_since = 0
        with progress(recipe.steps, done=self.step, unit="step", shown=self.show_progress) as bar:
            for batch in batches:
                loss, norm = self.train_step(batch, sums)
                n_since += recipe.batch_size * recipe.data.length
                bar.update()
                is_last = self.step == recipe.steps
                if self.step % recipe.log_every == 0 or is_last:
                    self._log_progress(bar, loss, norm, sums, n_since / (time.monotonic() - since))
                    sums, since, n_since = RoleSums(group.device), time.monotonic(), 0
                is_asked_to_stop = not is_last and group.any(stop())
                is_ending = is_asked_to_stop or (not is_last and self._is_out_of_time())
                if self.step % recipe.snapshot_every == 0 or is_last or is_ending:
                    self._snapshot(loss, norm)
                if self._is_evaluation_due() and not is_asked_to_stop:
                    self._evaluate()
                    since, n_since = time.monotonic(), 0
                if self._are_stages_due():
                    self._read_stages()
                    since, n_since = time.monotonic(), 0
                if is_ending:
                    break
        return Outcome(
            step=self.step,
            is_complete=self.step == recipe.steps,
            is_asked_to_stop=is_asked_to_stop,
            metrics=self.metrics,
        )

    def train_step(self, batch: Batch, sums: RoleSums) -> tuple[Tensor, Tensor]:
        """One optimiser step: the weighted mean loss of the whole batch, and the gradient's norm before clipping."""
        lr = learning_rate(self.step, self.recipe.steps, self.recipe.optimiser)
        loss, norm = self._step(batch, lr, sums)
        self.step += 1
        self.tokens += self.recipe.batch_size * self.recipe.data.length
        return loss, norm

    def export(self, tokenizer: PreTrainedTokenizerBase) -> list[Path]:
        """Write the model in each dtype of the recipe, the tokenizer beside it; the folders."""
        folders = []
        for index, dtype in enumerate(self.recipe.export):
            folder = self.folder / ("model" if index == 0 else f"model-{dtype}")
            with torch.device("meta"):
                copy = HookedMamba(self.model.cfg)
            state = {
                name: tensor.detach().cpu().to(parameter_dtype(name, COMPUTE_DTYPES[dtype]))
                for name, tensor in self.model.state_dict().items()
            }
            copy.load_state_dict(state, assign=True)
            copy.tie_embeddings()
            try:
                copy.save_pretrained(folder)
            except SafetensorError as error:
                raise RunError(
                    f"{folder} could not be written ({error}): make room, then give the same command; it goes on from "
                    "the snapshot."
                ) from error
            save_tokenizer(cast(PreTrainedTokenizerFast, tokenizer), folder)
            folders.append(folder)
        return folders

    def _restore(self, snapshot: Snapshot) -> None:
        self.model.load_state_dict(snapshot.model)
        restore_optimiser(self.optimiser, snapshot.optimiser)
        torch.set_rng_state(snapshot.rng)
        self.step, self.tokens, self.seconds_before = snapshot.step, snapshot.tokens, snapshot.seconds

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self._started

    def _is_out_of_time(self) -> bool:
        limit = self.recipe.max_minutes
        if limit is None:
            return False
        return self.group.writer_says(time.monotonic() - self._started > 60 * limit)

    def _snapshot(self, loss: Tensor, norm: Tensor) -> None:
        self._require_finite(loss, norm)
        if self.group.is_writer:
            write_snapshot(
                self.folder,
                Snapshot(
                    step=self.step,
                    model=self.model.state_dict(),
                    optimiser=self.optimiser.state_dict(),
                    recipe=json.loads(json.dumps(to_values(self.recipe))),
                    data_sha256=self.data_sha256,
                    rng=torch.get_rng_state(),
                    tokens=self.tokens,
                    seconds=self._seconds(),
                ),
            )
        self.group.wait_for_all()

    def _is_evaluation_due(self) -> bool:
        evaluation = self.recipe.evaluation
        if evaluation is None or self.step == 0:
            return False
        return self.step % evaluation.every == 0 or self.step == self.recipe.steps

    def _catch_up_evaluation(self) -> None:
        """The last metrics of the log; measured now if the run was stopped between snapshot and evaluation."""
        step, self.metrics = read_metrics(self.folder / LOG_FILE)
        if self.group.writer_says(self._is_evaluation_due() and step != self.step):
            self._evaluate()

    def _evaluate(self) -> None:
        if self.group.is_writer and self.evaluation is not None:
            self.model.eval()
            length = self.recipe.data.length
            metrics = evaluate(self.model, self.evaluation, length=length, compute_dtype=self.compute_dtype)
            self.metrics = {name: round(value, 5) for name, value in metrics.items()}
            self.model.train()
            self._write({"step": self.step, **self.metrics})
        self.group.wait_for_all()

    def _are_stages_due(self) -> bool:
        evaluation = self.recipe.evaluation
        return evaluation is not None and evaluation.stages is not None and self.step in evaluation.stages.at

    def _begin_stages(self) -> None:
        """Keep the prompts; read step 0, or a step after which the run was stopped before it had read it."""
        if self.group.is_writer and self.evaluation is not None and self.evaluation.stage_samples:
            keep_prompts(self.folder, self.evaluation.stage_samples)
        is_missing = self._are_stages_due() and not reading_file(self.folder, self.step).is_file()
        if self.group.writer_says(is_missing):
            self._read_stages()

    def _read_stages(self) -> None:
        if self.group.is_writer and self.evaluation is not None:
            self.model.eval()
            length, samples = self.recipe.data.length, self.evaluation.stage_samples
            bits = text_bits_per_byte(self.model, self.evaluation, length=length, compute_dtype=self.compute_dtype)
            StageReading.of(self.model, samples, step=self.step, bits_per_byte=bits).save(self.folder)
            self.model.train()
        self.group.wait_for_all()

    def _log_progress(self, bar: Any, loss: Tensor, norm: Tensor, sums: RoleSums, rate: float) -> None:
        self._require_finite(loss, norm)
        self.group.sum_(sums.values)
        if not self.group.is_writer:
            return
        record = {
            "step": self.step,
            "loss": loss.item(),
            **sums.read(),
            "gradient_norm": norm.item(),
            "lr": float(self.optimiser.param_groups[0]["lr"]),
            "lambda": [round(float(value), 5) for value in lambdas(self.model) if not math.isnan(value)],
            "tokens": self.tokens,
            "tokens_per_s": round(rate),
            "seconds": round(self._seconds(), 2),
        }
        if not record["lambda"]:
            del record["lambda"]
        self._write(record)
        shown = {"loss": f"{record['loss']:.3f}", "tok/s": f"{rate / 1e3:.0f}k"}
        if "answer_accuracy" in record:
            shown["answers"] = f"{record['answer_accuracy']:.0%}"
        bar.set_postfix(shown, refresh=False)

    def _write(self, record: dict[str, Any]) -> None:
        append_record(self.folder / LOG_FILE, record)

    def _require_finite(self, loss: Tensor, norm: Tensor) -> None:
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            raise TrainingDivergedError(
                f"step {self.step}: the loss is {loss.item()} and the gradient's norm {norm.item()}. "
                f"{self._last_state()} Lower optimiser.lr, or lengthen optimiser.warmup, and start anew."
            )

    def _last_state(self) -> str:
        if not (self.folder / SNAPSHOT_FILE).is_file():
            return f"{self.folder} holds no snapshot yet (snapshot_every is {self.recipe.snapshot_every})."
        return f"The snapshot in {self.folder} is from before, with finite values."
