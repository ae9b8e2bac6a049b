"""`python -m diffmamba_interp.evaluate_needle`: does the answer stand out from its distractors, block by block?

Reads retrieval prompts with a model and a baseline through tuned and logit lens, and writes records, results with
intervals, figures and one HTML page. Without options: the bundled pair. The same command resumes a run that was
stopped.
"""

from __future__ import annotations

if __name__ == "__main__":
    from diffmamba_interp.runs.command import quiet_interrupts

    quiet_interrupts()

import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.drawing.panels import minus
from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.needle import stages_drawing
from diffmamba_interp.figures.needle_report import needle_report
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.files.json_files import results_json
from diffmamba_interp.files.locks import folder_lock
from diffmamba_interp.lens.card import lens_sha256
from diffmamba_interp.lens.folders import demo_lens_folder, load_lens, read_description
from diffmamba_interp.lens.lenses import LogitLens
from diffmamba_interp.models.checkpoint_hub import resolve_folder
from diffmamba_interp.models.demo import DemoName, bundled_folder, load_demo_tokenizer
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out import Lens
from diffmamba_interp.needle.curves import Curve, PairedCurve, compare, summarise
from diffmamba_interp.needle.filler import Filler
from diffmamba_interp.needle.recipe import AUTO, NONE, FillerSplit, NeedleRecipe
from diffmamba_interp.needle.records import NeedleSample
from diffmamba_interp.needle.samples import make_needle_samples
from diffmamba_interp.needle.trajectory import needle_trajectory
from diffmamba_interp.needle.trajectory_records import NeedleTrajectory
from diffmamba_interp.needle.verdict import Verdict, aligned_table, verdict_table, verdicts
from diffmamba_interp.runs.command import errors_as_messages
from diffmamba_interp.runs.process_group import local_device
from diffmamba_interp.runs.provenance import package_versions, weights_sha256
from diffmamba_interp.runs.settings import (
    read_toml,
    recipe_from_arguments,
    to_toml,
    to_values,
)
from diffmamba_interp.text import (
    DataError,
    TextSource,
    bos_tokens,
    documents_of_split,
    load_tokenizer,
    tokenizer_hash,
)
from diffmamba_interp.text.sources import BUILTIN, GENERATED

RUNS = Path("runs/needle")
N_RESAMPLES = 2_000
RECIPE = "recipe.toml"
FORMAT = 1

logger = logging.getLogger("diffmamba_interp.evaluate_needle")


@errors_as_messages(stopped="the same command goes on from the prompts that were read.")
def main(args: Sequence[str] | None = None) -> int:
    """Run the command; 0 when done, 2 for an error that the user can mend, 130 for Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    run(parse(sys.argv[1:] if args is None else args))
    return 0


def parse(args: Sequence[str]) -> NeedleRecipe:
    """The recipe that the command line asks for: `--recipe FILE.toml`, then options that override it.

    Raises FileNotFoundError or ValueError for a recipe that cannot be read or has unknown keys.
    """
    return recipe_from_arguments(
        NeedleRecipe, args, prog="python -m diffmamba_interp.evaluate_needle", description=__doc__ or ""
    )


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model with what reads it. folder: of the checkpoint. lens_folder: of its tuned lens, if it has one.

    tokenizer: its own; None where its folder holds none.
    """

    name: str
    model: HookedMamba
    folder: Path
    lens_folder: str | None
    lenses: dict[str, Lens]
    tokenizer: PreTrainedTokenizerBase | None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Curves by length and by task and length; differences and verdicts are empty without a baseline."""

    curves: list[Curve]
    differences: list[PairedCurve]
    verdicts: list[Verdict]


def run(recipe: NeedleRecipe) -> None:
    """Measure, write the folder, print the table. Raises FileNotFoundError or ValueError for what does not fit."""
    device = local_device(recipe.device)
    recipe = replace(recipe, device=device.type if recipe.device == AUTO else recipe.device)
    subjects = load_subjects(recipe)
    out = Path(recipe.out or RUNS / "-and-".join(subject.name for subject in reversed(subjects)))
    recipe = replace(recipe, out=str(out), filler_split=resolved_filler_split(recipe))
    with folder_lock(out):
        require_own(out, recipe)
        tokenizer = common_tokenizer(recipe, subjects)
        found = measure(out, recipe, subjects, tokenizer)
    print("\n".join(table(found)))
    print(
        f"n = {recipe.n} per task and length, seed {recipe.seed}; written to {out}, to look at: {out / 'report.html'}"
    )


def measure(
    out: Path, recipe: NeedleRecipe, subjects: Sequence[Subject], tokenizer: PreTrainedTokenizerBase
) -> Findings:
    """Read the prompts with every subject and write the folder `out`."""
    data = data_sha256(recipe)
    samples = make_samples(recipe, tokenizer)
    if before := bos_tokens(tokenizer, recipe.bos):
        name = tokenizer.decode(list(before))
        logger.info("every prompt begins with %s, as bos = %r says; --bos never leaves it out", name, recipe.bos)
    logger.info("%d prompts, %d tokens", len(samples), sum(sample.n_tokens for sample in samples))
    trajectories = [
        needle_trajectory(
            subject.model,
            subject.lenses,
            samples,
            name=subject.name,
            batch_tokens=recipe.batch_tokens,
            path=out / "parts" / subject.name,
            show_progress=True,
        )
        for subject in subjects
    ]
    found = findings(trajectories, recipe.seed)
    write(out, recipe, trajectories, found, provenance(recipe, subjects, tokenizer, data))
    # What was read is in the records now.
    shutil.rmtree(out / "parts")
    return found


def require_own(out: Path, recipe: NeedleRecipe) -> None:
    """Raise ValueError if `out` holds the results of another recipe: their files would stand beside the new ones."""
    kept = out / RECIPE
    if kept.is_file() and _as_it_is_made(read_toml(NeedleRecipe, kept)) != recipe:
        raise ValueError(f"{out} holds the results of another recipe: give another --out, or remove that folder.")


def _as_it_is_made(kept: NeedleRecipe) -> NeedleRecipe:
    """A recipe that was written before there was a choice: of every filler the evaluation split was taken."""
    is_older = kept.filler is not None and kept.filler_split == "auto"
    return replace(kept, filler_split="eval") if is_older else kept


def load_subjects(recipe: NeedleRecipe) -> list[Subject]:
    """The baseline, if there is one, then the model. Raises ValueError if they cannot be compared."""
    wanted = [(recipe.model, recipe.lens)]
    if recipe.baseline != NONE:
        wanted.insert(0, (recipe.baseline, recipe.baseline_lens))
    subjects = [_load_subject(name, lens, recipe) for name, lens in wanted]
    if len(subjects) == 1:
        return subjects
    baseline, subject = subjects
    if baseline.name == subject.name:
        subject = replace(subject, name=f"{subject.name}-2")
    for size in ("n_layers", "d_vocab"):
        theirs, ours = (getattr(one.model.cfg, size) for one in (baseline, subject))
        if theirs != ours:
            reason = (
                "stage by stage, only models of equally many blocks" if size == "n_layers" else "only one vocabulary"
            )
            raise ValueError(
                f"{recipe.model} has {size} {ours}, but the baseline {recipe.baseline} has {theirs}: {reason} can be "
                "compared. Give another --baseline, or --baseline none."
            )
    return [baseline, subject]


def common_tokenizer(recipe: NeedleRecipe, subjects: Sequence[Subject]) -> PreTrainedTokenizerBase:
    """The one that all subjects use. Raises ValueError if there are several, none, or it does not fit a lens."""
    if recipe.tokenizer is not None:
        tokenizer = load_tokenizer(recipe.tokenizer)
    else:
        own = {tokenizer_hash(one.tokenizer): one.tokenizer for one in subjects if one.tokenizer is not None}
        if len(own) > 1:
            raise ValueError(
                f"{recipe.model} and {recipe.baseline} have different tokenizers, so they would not read the same "
                "prompts. Give another --baseline, or --tokenizer if you know that one serves both."
            )
        try:
            (tokenizer,) = own.values() or [load_tokenizer(subjects[-1].folder)]
        except DataError as error:
            raise ValueError(
                f"{recipe.model} holds no tokenizer: give --tokenizer FOLDER_OR_HUB_ID ({error})"
            ) from error
    d_vocab = subjects[-1].model.cfg.d_vocab
    if len(tokenizer) > d_vocab:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, but {recipe.model} a vocabulary of {d_vocab}.")
    for one in subjects:
        stored = None if one.lens_folder is None else read_description(one.lens_folder).get("tokenizer_sha256")
        if stored not in (None, tokenizer_hash(tokenizer)):
            raise ValueError(f"the lens in {one.lens_folder} was trained with another tokenizer than this one.")
    return tokenizer


def make_samples(recipe: NeedleRecipe, tokenizer: PreTrainedTokenizerBase) -> list[NeedleSample]:
    """The prompts of all tasks and lengths, the same for both models."""
    filler, source = None, filler_source(recipe)
    if source is not None and max(recipe.lengths) > 0:
        documents = source.documents()
        if recipe.filler_split == "eval":
            documents = documents_of_split(documents, "eval")
        filler = Filler.from_texts(tokenizer, [document.text for document in documents])
    return [
        sample
        for task in recipe.tasks
        for length in recipe.lengths
        for sample in make_needle_samples(
            tokenizer,
            task=task,
            n=recipe.n,
            length=length,
            filler=filler,
            stories="generated" if recipe.babi is None else "babi",
            babi_path=recipe.babi,
            seed=recipe.seed,
            vocabulary=recipe.vocabulary,
            bos=recipe.bos,
        )
    ]


def resolved_filler_split(recipe: NeedleRecipe) -> FillerSplit:
    """What "auto" means for this filler (see `NeedleRecipe.filler_split`)."""
    if recipe.filler is None or recipe.filler_split != "auto":
        return recipe.filler_split
    return "eval" if recipe.filler in (BUILTIN, GENERATED) else "whole"


def filler_source(recipe: NeedleRecipe) -> TextSource | None:
    """Where the recipe's filler comes from; None for generated text that mentions no answer."""
    if recipe.filler is None:
        return None
    return TextSource(
        location=recipe.filler,
        text_field=recipe.text_field,
        hub_config=recipe.hub_config,
        hub_split=recipe.hub_split,
        hub_revision=recipe.hub_revision,
        skip_empty=recipe.skip_empty,
        max_unpacked_gb=recipe.max_unpacked_gb,
    )


def data_sha256(recipe: NeedleRecipe) -> dict[str, str]:
    """Sha256 of the stories and the filler that the recipe names."""
    source = filler_source(recipe)
    sums = {} if source is None else {"filler": source.sha256()}
    if recipe.babi is not None:
        is_file = Path(recipe.babi).is_file()
        sums["babi"] = file_sha256(recipe.babi) if is_file else TextSource(location=recipe.babi).sha256()
    return sums


def findings(trajectories: Sequence[NeedleTrajectory], seed: int = 0) -> Findings:
    """Curves of all trajectories, and, of two, the second against the first."""
    curves, differences = [], []
    for by in (("length",), ("task", "length")):
        draws: dict[str, Any] = {"by": by, "n_resamples": N_RESAMPLES, "seed": seed}
        curves += summarise(trajectories, **draws)
        if len(trajectories) == 2:
            differences += compare(trajectories[0], trajectories[1], **draws)
    judged = verdicts(*trajectories, n_resamples=N_RESAMPLES, seed=seed) if len(trajectories) == 2 else []
    return Findings(curves=curves, differences=differences, verdicts=judged)


def write(
    out: Path,
    recipe: NeedleRecipe,
    trajectories: Sequence[NeedleTrajectory],
    found: Findings,
    made: dict[str, Any],
) -> None:
    """Recipe, records of every model, results.json, figures and report.html, each whole or not at all."""
    write_text(out / RECIPE, to_toml(to_values(recipe)))
    for trajectory in trajectories:
        for suffix in ("parquet", "csv.gz"):
            trajectory.save(out / f"{trajectory.model}.{suffix}")
    lists = {name: [one.to_dict() for one in getattr(found, name)] for name in ("verdicts", "curves", "differences")}
    write_text(out / "results.json", results_json({"format": FORMAT, "provenance": made, **lists}) + "\n")
    title = " and ".join(trajectory.model for trajectory in reversed(trajectories))
    means = [curve for curve in found.curves if curve.statistic == "mean"]
    for measure, log in (("snr_db", False), ("probability", False), ("probability", True)):
        own = [curve for curve in means if curve.measure == measure]
        drawing = stages_drawing(own, title=title, log=log)
        write_text(out / f"{measure}{'_log' if log else ''}.svg", to_svg(drawing))
    paired = [curve for curve in found.differences if curve.measure == "snr_db" and curve.statistic == "mean"]
    if paired:
        difference = stages_drawing(paired, title=minus(trajectories[1].model, trajectories[0].model))
        write_text(out / "snr_db_difference.svg", to_svg(difference))
    page = needle_report(found.curves, paired, found.verdicts, made, title=f"Needle in a haystack: {title}")
    write_text(out / "report.html", page)


def provenance(
    recipe: NeedleRecipe, subjects: Sequence[Subject], tokenizer: PreTrainedTokenizerBase, data: dict[str, str]
) -> dict[str, Any]:
    """What the results were made with: sha256 of models, lenses, tokenizer and data; recipe, seed, versions, device."""
    return {
        "models": {one.name: weights_sha256(one.folder) for one in subjects},
        "lenses": {one.name: lens_sha256(one.lens_folder) for one in subjects if one.lens_folder is not None},
        "tokenizer": tokenizer_hash(tokenizer),
        "recipe": to_values(recipe),
        "seed": recipe.seed,
        "device": torch.cuda.get_device_name(recipe.device) if recipe.device.startswith("cuda") else recipe.device,
        "versions": package_versions(),
        **data,
    }


def table(found: Findings) -> list[str]:
    """What the terminal shows: the verdicts of the first lens; of a single model, its signal-to-noise ratio."""
    lens = found.curves[0].lens
    if found.verdicts:
        return verdict_table([one for one in found.verdicts if one.lens == lens])
    stages = found.curves[0].stages
    middle = stages[len(stages) // 2]
    rows: list[tuple[str, ...]] = [("task", "length", "n", f"SNR [95 % CI] {middle}, dB", "at the output, dB")]
    for curve in found.curves:
        if (curve.lens, curve.measure, curve.statistic) != (lens, "snr_db", "mean"):
            continue
        shown = (
            f"{curve.value[i]:+.2f} [{curve.low[i]:+.2f}, {curve.high[i]:+.2f}]" for i in (stages.index(middle), -1)
        )
        group = dict(curve.group)
        rows.append((group.get("task", "all"), group["length"], str(curve.n), *shown))
    return aligned_table(rows)


def _load_subject(name: str, lens: str, recipe: NeedleRecipe) -> Subject:
    bundled = bundled_folder(name)
    folder = bundled or resolve_folder(name)
    dtype = torch.bfloat16 if recipe.dtype == "bfloat16" else torch.float32
    model = HookedMamba.from_pretrained(folder, device=recipe.device, dtype=dtype).requires_grad_(False)
    lens_folder: str | None = None if lens == NONE else lens
    if lens == AUTO:
        lens_folder = str(demo_lens_folder(cast(DemoName, name))) if bundled else None
        if bundled is None:
            logger.warning("%s: no tuned lens was given, so the logit lens reads alone", name)
    lenses: dict[str, Lens] = {} if lens_folder is None else {"tuned": load_lens(lens_folder, model)}
    tokenizer: PreTrainedTokenizerBase | None = None
    if bundled is not None:
        tokenizer = load_demo_tokenizer()
    elif (folder / "tokenizer.json").is_file():
        tokenizer = load_tokenizer(folder)
    return Subject(
        name=Path(name).name,
        model=model,
        folder=folder,
        lens_folder=lens_folder,
        lenses=lenses | {"logit": LogitLens.from_model(model)},
        tokenizer=tokenizer,
    )


if __name__ == "__main__":
    sys.exit(main())
