"""The run of `evaluate_needle`: models, prompts, what is read of them, and what is written, in its order."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.drawing.panels import minus
from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.needle import stages_drawing
from diffmamba_interp.figures.needle_report import needle_report
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.files.json_files import results_json
from diffmamba_interp.files.locks import folder_lock
from diffmamba_interp.lens.card import lens_sha256
from diffmamba_interp.lens.subjects import Subject, common_tokenizer, load_subject, require_comparable
from diffmamba_interp.needle.findings import REPORTED, Findings, find, findings_table
from diffmamba_interp.needle.recipe import AUTO, NONE, NeedleRecipe
from diffmamba_interp.needle.recipe_prompts import data_sha256, make_samples, resolved_filler_split
from diffmamba_interp.needle.trajectory import needle_trajectory
from diffmamba_interp.needle.trajectory_records import MEASURED, NeedleTrajectory
from diffmamba_interp.runs.process_group import local_device
from diffmamba_interp.runs.provenance import device_name, package_versions, weights_sha256
from diffmamba_interp.runs.settings import read_toml, to_toml, to_values
from diffmamba_interp.runs.speech import Speech
from diffmamba_interp.text import bos_tokens, tokenizer_hash

RUNS = Path("runs/needle")
RECIPE = "recipe.toml"
FORMAT = 1

logger = logging.getLogger("diffmamba_interp.evaluate_needle")


def run(recipe: NeedleRecipe, speech: Speech) -> None:
    """Measure, write the folder, say what came out. Raises FileNotFoundError or ValueError for what does not fit."""
    device = local_device(recipe.device)
    recipe = replace(recipe, device=device.type if recipe.device == AUTO else recipe.device)
    subjects = load_subjects(recipe)
    out = Path(recipe.out or RUNS / "-and-".join(subject.name for subject in reversed(subjects)))
    recipe = replace(recipe, out=str(out), filler_split=resolved_filler_split(recipe))
    with folder_lock(out):
        require_own(out, recipe)
        tokenizer = common_tokenizer(subjects, recipe.tokenizer)
        findings = measure(out, recipe, subjects, tokenizer, show_progress=not speech.quiet)
    speech.result(
        {"out": str(out), "report": str(out / "report.html"), "verdicts": findings.verdicts},
        f"n = {recipe.n} per task and length, seed {recipe.seed}; written to {out}, to look at: {out / 'report.html'}",
        findings_table(findings),
    )


def measure(
    out: Path,
    recipe: NeedleRecipe,
    subjects: Sequence[Subject],
    tokenizer: PreTrainedTokenizerBase,
    *,
    show_progress: bool = True,
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
            show_progress=show_progress,
        )
        for subject in subjects
    ]
    findings = find(trajectories, recipe.seed)
    write(out, recipe, trajectories, findings, provenance(recipe, subjects, tokenizer, data))
    # What was read is in the records now.
    shutil.rmtree(out / "parts")
    return findings


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
    dtype = torch.bfloat16 if recipe.dtype == "bfloat16" else torch.float32
    subjects = [
        load_subject(given, lens=None if lens == NONE else lens, device=recipe.device, dtype=dtype)
        for given, lens in wanted
    ]
    if len(subjects) == 1:
        return subjects
    baseline, subject = subjects
    require_comparable(baseline, subject)
    return [baseline, replace(subject, name=f"{subject.name}-2") if baseline.name == subject.name else subject]


def write(
    out: Path,
    recipe: NeedleRecipe,
    trajectories: Sequence[NeedleTrajectory],
    findings: Findings,
    made_with: dict[str, Any],
) -> None:
    """Recipe, records of every model, results.json, figures and report.html, each whole or not at all."""
    write_text(out / RECIPE, to_toml(to_values(recipe)))
    for trajectory in trajectories:
        for suffix in ("parquet", "csv.gz"):
            trajectory.save(out / f"{trajectory.model}.{suffix}")
    names = ("verdicts", "curves", "differences", "formations", "formation_differences")
    lists = {name: [one.to_dict() for one in getattr(findings, name)] for name in names}
    write_text(out / "results.json", results_json({"format": FORMAT, "provenance": made_with, **lists}) + "\n")
    title = " and ".join(trajectory.model for trajectory in reversed(trajectories))
    for measure in REPORTED:
        curves = [curve for curve in findings.curves if (curve.measure, curve.statistic) == (measure, "mean")]
        write_text(out / f"{measure}.svg", to_svg(stages_drawing(curves, title=title)))
        if MEASURED[measure].scale == "probability":
            write_text(out / f"{measure}_log.svg", to_svg(stages_drawing(curves, title=title, log=True)))
    paired = [curve for curve in findings.differences if curve.statistic == "mean"]
    snr_paired = [curve for curve in paired if curve.measure == "snr_db"]
    if snr_paired:
        difference = stages_drawing(snr_paired, title=minus(trajectories[1].model, trajectories[0].model))
        write_text(out / "snr_db_difference.svg", to_svg(difference))
    page = needle_report(
        findings.curves,
        paired,
        findings.verdicts,
        made_with,
        title=f"Needle in a haystack: {title}",
        formations=findings.formations,
        formation_differences=findings.formation_differences,
    )
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
        "device": device_name(recipe.device),
        "versions": package_versions(),
        **data,
    }
