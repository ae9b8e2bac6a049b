"""The run of `train_lens`: what is opened, trained or fitted, measured and written, in its order."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.lens import kl_drawing
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.files.json_files import read_json_object
from diffmamba_interp.lens.card import METRICS_FILE, lens_sha256, measurement_table, write_card, write_metrics
from diffmamba_interp.lens.evaluation import measure_lens
from diffmamba_interp.lens.folders import load_lens
from diffmamba_interp.lens.held_out import LensText
from diffmamba_interp.lens.jacobian_fit import FitRecord, JacobianFit
from diffmamba_interp.lens.lenses import JacobianLens, TunedLens, save_lens
from diffmamba_interp.lens.materials import (
    Materials,
    load_materials,
    open_batches,
    open_prompts,
    open_text,
    require_same_tokenizer,
    resolved_split,
)
from diffmamba_interp.lens.recipe import LensRecipe, with_schedule
from diffmamba_interp.lens.run_folder import RunFolder
from diffmamba_interp.lens.training import LensTraining, StepRecord, Stopped, TrainingError
from diffmamba_interp.runs.process_group import ProcessGroup, process_group
from diffmamba_interp.runs.run_log import RunLog
from diffmamba_interp.runs.settings import to_values
from diffmamba_interp.runs.speech import Speech, progress
from diffmamba_interp.runs.stop_signals import StopRequest, stop_requests

RUNS = Path("runs/lens")
QUICK_PARAMETERS = 20_000_000
"""A model of at most so many parameters is trained with the quick schedule unless told otherwise."""

logger = logging.getLogger("diffmamba_interp.train_lens")


def run(recipe: LensRecipe, speech: Speech) -> int:
    """Train or measure in this process or its group, alone in the folder; the exit code."""
    out = Path(recipe.out or _default_out(recipe))
    with process_group(recipe.device) as group, group.only_writer_of(out):
        if not group.is_writer:
            logging.getLogger().setLevel(logging.WARNING)
        return train_or_measure(replace(recipe, out=str(out)), group, speech)


def train_or_measure(recipe: LensRecipe, group: ProcessGroup, speech: Speech) -> int:
    """Train or measure as the recipe says, into its `out`; the exit code."""
    materials = load_materials(recipe, group.device)
    recipe = with_schedule(recipe, quick=materials.n_parameters <= QUICK_PARAMETERS)
    recipe = replace(recipe, data=materials.location, split=resolved_split(recipe, materials))
    assert recipe.out is not None
    folder = RunFolder(recipe.out, recipe, materials.identity)
    if recipe.eval_only is not None:
        lens = load_lens(recipe.eval_only, materials.model)
        require_same_tokenizer(recipe.eval_only, materials)
        text = open_text(materials, recipe, group, for_training=False)
        return _finish(folder.path, lens, lens_sha256(recipe.eval_only), text, materials, recipe, group, speech)
    folder.check()
    text = open_text(materials, recipe, group, for_training=not folder.is_finished)
    if folder.is_finished:
        logger.info("%s holds the finished lens of this recipe: measuring it again", folder.path)
    else:
        with stop_requests() as stop:
            try:
                lens = train(folder, text, materials, recipe, group, stop, speech)
            except Stopped:
                return stop.exit_code
        if group.is_writer:
            made_with = {"tokenizer_sha256": materials.identity["tokenizer"]}
            save_lens(lens, folder.path, made_with, storage=recipe.storage)
            folder.remove_snapshot()
    group.wait_for_all()
    # As it was saved, which may be in fewer bits than it was made in.
    lens = load_lens(folder.path, materials.model)
    return _finish(folder.path, lens, lens_sha256(folder.path), text, materials, recipe, group, speech)


def train(
    folder: RunFolder,
    text: LensText,
    materials: Materials,
    recipe: LensRecipe,
    group: ProcessGroup,
    stop: StopRequest,
    speech: Speech,
) -> TunedLens | JacobianLens:
    """The lens, made from the folder's snapshot on if there is one; snapshots go to the folder.

    Raises Stopped or TrainingError, after a snapshot of the last whole step.
    """
    training = _training(text, materials, recipe, group)
    state = folder.read_snapshot()
    if state is not None:
        training.restore(state)
        logger.info("resuming after step %d of %d", training.step, training.n_steps)
    group.wait_for_all()
    if not group.is_writer:
        for _ in training.run(stop):
            pass
        return training.lens
    folder.begin()
    try:
        with RunLog(folder.log_file, step=training.step, report_to=recipe.report_to, settings=to_values(recipe)) as log:
            for record, tokens_per_s in _with_progress(training, stop, speech):
                log.write(record.to_dict() | {"tokens_per_s": round(tokens_per_s, 1)}, record.scalars())
                if folder.snapshot_is_due():
                    folder.write_snapshot(training.state())
    except (Stopped, TrainingError):
        folder.write_snapshot(training.state())
        logger.info("stopped after step %d of %d; the same command resumes", training.step, training.n_steps)
        raise
    # The lens is written next: until it is, a crash must not cost the run.
    folder.write_snapshot(training.state())
    return training.lens


def _training(
    text: LensText, materials: Materials, recipe: LensRecipe, group: ProcessGroup
) -> LensTraining | JacobianFit:
    """What makes a lens of the recipe's kind, at its beginning."""
    if recipe.kind == "jacobian":
        prompts = open_prompts(text, materials, recipe, group)
        return JacobianFit(
            materials.model,
            prompts,
            branches=recipe.branches,
            skip_first=recipe.skip_first,
            micro_batch=recipe.micro_batch,
            name=recipe.model,
            group=group,
        )
    lens = TunedLens.from_model(materials.model, name=recipe.model)
    batches = open_batches(text, materials, recipe, group)
    return LensTraining(
        materials.model, lens, batches, recipe, group=group, dtype=materials.dtype, micro_batch=recipe.micro_batch
    )


def _finish(
    out: Path,
    lens: TunedLens | JacobianLens,
    sha256: str,
    text: LensText,
    materials: Materials,
    recipe: LensRecipe,
    group: ProcessGroup,
    speech: Speech,
) -> int:
    """Measure, write metrics, card and figure, and say what came out."""
    if not group.is_writer:
        return 0
    logger.info("measuring on held-out documents")
    recipe = replace(recipe, kind=lens.kind)
    measurement = measure_lens(materials.model, lens, text.held_out, seed=recipe.seed)
    provenance = materials.provenance(recipe, lens_sha256=sha256)
    write_metrics(out, measurement, provenance, recipe)
    if recipe.eval_only is None:
        jacobian = lens.config if isinstance(lens, JacobianLens) else None
        write_card(out, measurement, provenance, recipe, jacobian)
    drawing = kl_drawing(measurement, title=f"Held-out KL of the lenses of {recipe.model}", kind=lens.kind)
    write_text(out / "figure.svg", to_svg(drawing))
    speech.result(
        {"out": str(out), **read_json_object(out / METRICS_FILE)},
        f"{measurement.n_tokens:,} held-out tokens; KL in nats [95 % interval]; written to {out}",
        measurement_table(measurement, lens.kind),
    )
    return 0


def _with_progress(
    training: LensTraining | JacobianFit, stop: StopRequest, speech: Speech
) -> Iterator[tuple[StepRecord | FitRecord, float]]:
    """Each step's record and its tokens per second, with a progress bar."""
    with (
        logging_redirect_tqdm(),
        progress(training.n_steps, done=training.step, unit="step", shown=not speech.quiet) as bar,
    ):
        before = time.monotonic()
        for record in training.run(stop):
            now = time.monotonic()
            tokens_per_s = record.n_tokens / max(now - before, 1e-9)
            before = now
            bar.total = training.n_steps
            bar.set_postfix_str(f"{record.in_words}, {tokens_per_s:,.0f} tokens/s", refresh=False)
            bar.update()
            yield record, tokens_per_s


def _default_out(recipe: LensRecipe) -> Path:
    name = Path(recipe.model).name + ("-jacobian" if recipe.kind == "jacobian" else "")
    return RUNS / (name if recipe.eval_only is None else f"{name}-measured")
