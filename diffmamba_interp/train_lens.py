"""`python -m diffmamba_interp.train_lens`: train a tuned lens, or measure one, and write it into a folder.

Without options: the bundled Diff-Mamba on built-in text. The same command resumes a run that was stopped.
Several GPUs: `torchrun --nproc-per-node N -m diffmamba_interp.train_lens ...`.
"""

from __future__ import annotations

if __name__ == "__main__":
    from diffmamba_interp.runs.command import quiet_interrupts

    quiet_interrupts()

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.lens import kl_drawing
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.lens.card import (
    Provenance,
    lens_sha256,
    measurement_table,
    read_metrics,
    write_card,
    write_metrics,
)
from diffmamba_interp.lens.evaluation import HeldOutDocument, measure_lens
from diffmamba_interp.lens.folders import load_lens, read_description, save_lens
from diffmamba_interp.lens.held_out import LensText, lens_text
from diffmamba_interp.lens.lenses import TunedLens
from diffmamba_interp.lens.prefetch import StepBatches
from diffmamba_interp.lens.recipe import LensRecipe, Split, with_schedule
from diffmamba_interp.lens.run_folder import RunFolder
from diffmamba_interp.lens.run_log import RunLog
from diffmamba_interp.lens.training import LensTraining, StepRecord, Stopped, TrainingError
from diffmamba_interp.models.checkpoint_hub import resolve_folder
from diffmamba_interp.models.demo import bundled_folder, load_demo_tokenizer
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.runs.command import errors_as_messages
from diffmamba_interp.runs.process_group import ProcessGroup, process_group
from diffmamba_interp.runs.provenance import package_versions, weights_sha256
from diffmamba_interp.runs.settings import recipe_from_arguments
from diffmamba_interp.runs.stop_signals import StopRequest, stop_requests
from diffmamba_interp.text import DataError, TextSource, TokenBatches, bos_tokens, load_tokenizer, tokenizer_hash
from diffmamba_interp.text.batches import RandomTokenBatches, random_tokens
from diffmamba_interp.text.sources import BUILTIN, GENERATED, is_hub_id

RUNS = Path("runs/lens")
TOKEN_CACHE = Path("runs/cache")
RANDOM_TOKENS = "random-tokens"
# A model of at most so many parameters is trained with the quick schedule unless told otherwise.
QUICK_PARAMETERS = 20_000_000

logger = logging.getLogger("diffmamba_interp.train_lens")


@errors_as_messages(stopped="the last snapshot, if there is one, is whole, and the same command goes on from it.")
def main(args: Sequence[str] | None = None) -> int:
    """Run the command; 0 when done, 2 for an error that the user can mend, 128 + signal number when stopped."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    recipe = parse(sys.argv[1:] if args is None else args)
    out = Path(recipe.out or _default_out(recipe))
    with process_group(recipe.device) as group, group.only_writer_of(out):
        if not group.is_writer:
            logging.getLogger().setLevel(logging.WARNING)
        return run(replace(recipe, out=str(out)), group)


def parse(args: Sequence[str]) -> LensRecipe:
    """The recipe that the command line asks for: `--recipe FILE.toml`, then options that override it.

    Raises FileNotFoundError or ValueError for a recipe that cannot be read or has unknown keys.
    """
    return recipe_from_arguments(
        LensRecipe, args, prog="python -m diffmamba_interp.train_lens", description=__doc__ or ""
    )


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What a run works with. folder: of the checkpoint. location: of the text, resolved from "auto"."""

    model: HookedMamba
    folder: Path
    tokenizer: Any
    location: str
    source: TextSource | None
    dtype: torch.dtype

    @cached_property
    def identity(self) -> dict[str, str | None]:
        """What must be the same to resume."""
        return {
            "model": weights_sha256(self.folder),
            "tokenizer": None if self.tokenizer is None else tokenizer_hash(self.tokenizer),
            "data": None if self.source is None else self.source.sha256(),
        }

    @property
    def n_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())


def run(recipe: LensRecipe, group: ProcessGroup) -> int:
    """Train or measure as the recipe says, into its `out`; the exit code."""
    materials = load_materials(recipe, group.device)
    recipe = with_schedule(recipe, quick=materials.n_parameters <= QUICK_PARAMETERS)
    recipe = replace(recipe, data=materials.location, split=resolved_split(recipe, materials))
    assert recipe.out is not None
    folder = RunFolder(recipe.out, recipe, materials.identity)
    if recipe.eval_only is not None:
        lens = load_lens(recipe.eval_only, materials.model)
        _require_same_tokenizer(recipe.eval_only, materials)
        text = open_text(materials, recipe, group, for_training=False)
        return _finish(folder.path, lens, lens_sha256(recipe.eval_only), text, materials, recipe, group)
    folder.check()
    lens = TunedLens.from_model(materials.model, name=recipe.model)
    text = open_text(materials, recipe, group, for_training=not folder.is_finished)
    if folder.is_finished:
        logger.info("%s holds the finished lens of this recipe: measuring it again", folder.path)
        lens = load_lens(folder.path, materials.model)
    else:
        with stop_requests() as stop:
            try:
                train(folder, lens, text, materials, recipe, group, stop)
            except Stopped:
                return stop.exit_code
        if group.is_writer:
            save_lens(lens, folder.path, {"tokenizer_sha256": materials.identity["tokenizer"]})
            folder.remove_snapshot()
    group.wait_for_all()
    return _finish(folder.path, lens, lens_sha256(folder.path), text, materials, recipe, group)


def train(
    folder: RunFolder,
    lens: TunedLens,
    text: LensText,
    materials: Materials,
    recipe: LensRecipe,
    group: ProcessGroup,
    stop: StopRequest,
) -> None:
    """Train `lens` in place, from the folder's snapshot if there is one; snapshots go to the folder.

    Raises Stopped or TrainingError, after a snapshot of the last whole step.
    """
    batches = open_batches(text, materials, recipe, group)
    training = LensTraining(
        materials.model, lens, batches, recipe, group=group, dtype=materials.dtype, micro_batch=recipe.micro_batch
    )
    state = folder.read_snapshot()
    if state is not None:
        training.restore(state)
        logger.info("resuming after step %d of %d", training.step, training.n_steps)
    group.wait_for_all()
    if not group.is_writer:
        for _ in training.run(stop):
            pass
        return
    folder.begin()
    try:
        with RunLog(folder.log_file, recipe, step=training.step) as log:
            for record, tokens_per_s in _with_progress(training, stop):
                log.write(record, tokens_per_s=tokens_per_s)
                if folder.snapshot_is_due():
                    folder.write_snapshot(training.state())
    except (Stopped, TrainingError):
        folder.write_snapshot(training.state())
        logger.info("stopped after step %d of %d; the same command resumes", training.step, training.n_steps)
        raise
    # The lens is written next: until it is, a crash must not cost the run.
    folder.write_snapshot(training.state())


def load_materials(recipe: LensRecipe, device: torch.device) -> Materials:
    """Model, tokenizer and text of a recipe.

    Raises FileNotFoundError or ValueError if one cannot be had or they do not fit each other.
    """
    on_gpu = device.type == "cuda"
    name = recipe.dtype if recipe.dtype != "auto" else "bfloat16" if on_gpu else "float32"
    dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
    folder = bundled_folder(recipe.model) or resolve_folder(recipe.model)
    model = HookedMamba.from_pretrained(folder, device=device, dtype=dtype).requires_grad_(False)
    tokenizer = _tokenizer(recipe, folder, model.cfg.d_vocab)
    location = recipe.data
    if location == "auto":
        location = "builtin" if tokenizer is not None else RANDOM_TOKENS
    if location == RANDOM_TOKENS:
        logger.warning("training on random tokens, not on text: the result says nothing about language")
        tokenizer, source = None, None
    else:
        source = TextSource(
            location=location,
            text_field=recipe.text_field,
            hub_config=recipe.hub_config,
            hub_split=recipe.hub_split,
            hub_revision=recipe.hub_revision,
            max_documents=recipe.max_documents,
            skip_empty=recipe.skip_empty,
            max_unpacked_gb=recipe.max_unpacked_gb,
        )
        if before := bos_tokens(tokenizer, recipe.bos):
            name = tokenizer.decode(list(before))
            logger.info("every document begins with %s, as bos = %r says; --bos never leaves it out", name, recipe.bos)
        if is_hub_id(location) and recipe.max_documents is None:
            logger.warning("reading all of the hub dataset %s before training; --max-documents N takes less", location)
    return Materials(model=model, folder=folder, tokenizer=tokenizer, location=location, source=source, dtype=dtype)


def resolved_split(recipe: LensRecipe, materials: Materials) -> Split:
    """What "auto" means for this text (see `LensRecipe.split`).

    Raises ValueError where a lens is measured on the text that it was trained on, with options by which other parts
    of it would be held out.
    """
    if recipe.split != "auto" or materials.source is None:
        return recipe.split
    if materials.location in (BUILTIN, GENERATED):
        return "hash"
    if recipe.eval_only is None:
        return "run"
    try:
        _, made_with, options = read_metrics(recipe.eval_only)
    except (OSError, ValueError, KeyError, TypeError):
        logger.warning("whether the lens in %s was trained on this text is not known", recipe.eval_only)
        return "whole"
    if made_with.data_sha256 != materials.identity["data"]:
        return "whole"
    # Before there was a choice, every text was split by hash.
    split: Split = options.get("split", "hash")
    for name in ("seed", "eval_tokens", "bos"):
        given, before = getattr(recipe, name), options.get(name)
        if split == "run" and given != before:
            option = f"--{name.replace('_', '-')} {before}"
            raise ValueError(
                f"the lens in {recipe.eval_only} was trained on this text with {option}, which decides what was held "
                f"out, but this command says {given!r}: give {option}, or other text."
            )
    return split


def open_text(materials: Materials, recipe: LensRecipe, group: ProcessGroup, *, for_training: bool = True) -> LensText:
    """What the lens is trained and measured on; one process makes the tokens, the others wait and take them.

    Raises DataError if there is too little text for either.
    """
    if materials.source is None:
        return LensText(training=None, held_out=_random_documents(materials, recipe))
    if not group.is_writer:
        group.wait_for_all()
    text = lens_text(materials.source, materials.tokenizer, recipe, folder=TOKEN_CACHE, for_training=for_training)
    if group.is_writer:
        group.wait_for_all()
    return text


def open_batches(text: LensText, materials: Materials, recipe: LensRecipe, group: ProcessGroup) -> StepBatches:
    """This process's share of the training sequences, one step at a time."""
    assert recipe.sequence_length is not None
    settings: dict[str, Any] = {
        "length": recipe.sequence_length,
        "batch_size": recipe.sequences_per_step,
        "seed": recipe.seed,
        "rank": group.rank,
        "world_size": group.size,
    }
    if text.training is None:
        return RandomTokenBatches(materials.model.cfg.d_vocab, **settings)
    batches = TokenBatches(text.training, n_epochs=recipe.max_passes, **settings)
    assert recipe.steps is not None
    logger.info("the training text will be read %.1f times", recipe.steps / batches.n_batches)
    return batches


def _random_documents(materials: Materials, recipe: LensRecipe) -> list[HeldOutDocument]:
    assert recipe.sequence_length is not None
    assert recipe.eval_tokens is not None
    shape = (max(recipe.eval_tokens // recipe.sequence_length, 2), recipe.sequence_length)
    rows = random_tokens(materials.model.cfg.d_vocab, shape, seed=-1 - recipe.seed)
    return [HeldOutDocument(tokens=row, n_bytes=None) for row in rows]


def _finish(
    out: Path,
    lens: TunedLens,
    sha256: str,
    text: LensText,
    materials: Materials,
    recipe: LensRecipe,
    group: ProcessGroup,
) -> int:
    """Measure, write metrics, card and figure, and print the table."""
    if not group.is_writer:
        return 0
    logger.info("measuring on held-out documents")
    measurement = measure_lens(materials.model, lens, text.held_out, seed=recipe.seed)
    provenance = Provenance(
        model=recipe.model,
        model_sha256=materials.identity["model"],
        lens_sha256=sha256,
        tokenizer_sha256=materials.identity["tokenizer"],
        data=materials.location,
        data_sha256=materials.identity["data"],
        seed=recipe.seed,
        device=_device_name(materials.model.embed.weight.device),
        versions=package_versions(),
    )
    write_metrics(out, measurement, provenance, recipe)
    if recipe.eval_only is None:
        write_card(out, measurement, provenance, recipe)
    drawing = kl_drawing(measurement, title=f"Held-out KL of the lenses of {recipe.model}")
    write_text(out / "figure.svg", to_svg(drawing))
    print("\n".join(measurement_table(measurement)))
    print(f"{measurement.n_tokens:,} held-out tokens; KL in nats [95 % interval]; written to {out}")
    return 0


def _with_progress(training: LensTraining, stop: StopRequest) -> Iterator[tuple[StepRecord, float]]:
    """Each step's record and its tokens per second, with a progress bar on the terminal."""
    with (
        logging_redirect_tqdm(),
        tqdm(total=training.n_steps, initial=training.step, unit="step", disable=None) as bar,
    ):
        before = time.monotonic()
        for record in training.run(stop):
            now = time.monotonic()
            tokens_per_s = record.n_tokens / max(now - before, 1e-9)
            before = now
            bar.set_postfix_str(f"KL {record.mean_loss_nats:.3f} nats, {tokens_per_s:,.0f} tokens/s")
            bar.update()
            if bar.disable and record.step % max(training.n_steps // 10, 1) == 0:
                logger.info(
                    *("step %d of %d: KL %.3f nats, %.0f tokens/s", record.step, training.n_steps),
                    *(record.mean_loss_nats, tokens_per_s),
                )
            yield record, tokens_per_s


def _tokenizer(recipe: LensRecipe, folder: Path, d_vocab: int) -> Any:
    """The tokenizer, or None if there is none and none is needed."""
    if recipe.data == RANDOM_TOKENS:
        return None
    if recipe.tokenizer is not None:
        tokenizer = load_tokenizer(recipe.tokenizer)
    elif bundled_folder(recipe.model) is not None:
        tokenizer = load_demo_tokenizer()
    elif (folder / "tokenizer.json").is_file():
        tokenizer = load_tokenizer(folder)
    elif recipe.data == "auto" and d_vocab < 256:
        return None
    else:
        try:
            tokenizer = load_tokenizer(folder)
        except DataError as error:
            raise ValueError(
                f"{recipe.model} holds no tokenizer: give --tokenizer FOLDER_OR_HUB_ID, or --data {RANDOM_TOKENS} to "
                f"try the machinery without text ({error})"
            ) from error
    if len(tokenizer) > d_vocab:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, but {recipe.model} has a vocabulary of {d_vocab}: this is "
            "another model's tokenizer. Give the right one with --tokenizer."
        )
    return tokenizer


def _require_same_tokenizer(lens_folder: str, materials: Materials) -> None:
    stored, now = read_description(lens_folder).get("tokenizer_sha256"), materials.identity["tokenizer"]
    if stored is not None and now is not None and stored != now:
        raise ValueError(
            f"the lens in {lens_folder} was trained with another tokenizer (sha256 {stored[:12]}...) than this one "
            f"({now[:12]}...): give that one with --tokenizer."
        )


def _default_out(recipe: LensRecipe) -> Path:
    name = Path(recipe.model).name
    return RUNS / (name if recipe.eval_only is None else f"{name}-measured")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


if __name__ == "__main__":
    sys.exit(main())
