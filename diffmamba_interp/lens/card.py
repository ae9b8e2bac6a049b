"""What a finished lens says about itself: metrics.json for programs, CARD.md for people, a row in a table of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.files.json_files import read_json_object, results_json
from diffmamba_interp.files.table_text import aligned_table
from diffmamba_interp.lens.evaluation import LensMeasurement
from diffmamba_interp.lens.jacobian_layout import JacobianLensConfig
from diffmamba_interp.lens.lenses import PARAMS_FILE
from diffmamba_interp.lens.recipe import OF_ONE_KIND, LensKind, LensRecipe

METRICS_FILE = "metrics.json"
CARD_FILE = "CARD.md"
METRICS_FORMAT = 1
COLUMNS = (
    "lens",
    "model",
    "made from",
    "made on",
    "held-out tokens",
    "mean KL, logit lens (without the embedding)",
    "mean KL, this lens",
    "nearer in",
)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a lens was made with.

    model: as it was named. data: its name, a path's last part. The sha256 are of the model's weight files (of the one
    file, or of the files' digests), of params.pt, of the tokenizer and of the text (None where there is none).
    versions: of Python and of the packages that decide the numbers.
    """

    model: str
    model_sha256: str | None
    lens_sha256: str
    tokenizer_sha256: str | None
    data: str
    data_sha256: str | None
    seed: int
    device: str
    versions: dict[str, str]


def lens_sha256(folder: str | Path) -> str:
    """Sha256 of a lens folder's params.pt."""
    return file_sha256(Path(folder) / PARAMS_FILE)


def write_metrics(folder: str | Path, measurement: LensMeasurement, provenance: Provenance, recipe: LensRecipe) -> None:
    """Write metrics.json. Of the recipe, the folder of the run and the fields of other kinds of lens are left out."""
    left_out = ("out", *(name for kind, names in OF_ONE_KIND.items() if kind != recipe.kind for name in names))
    content = {
        "format": METRICS_FORMAT,
        "provenance": asdict(provenance),
        "recipe": {name: value for name, value in asdict(recipe).items() if value is not None and name not in left_out},
        "measurement": measurement.to_dict(),
    }
    write_text(Path(folder) / METRICS_FILE, results_json(content, digits=17) + "\n")


def read_metrics(folder: str | Path) -> tuple[LensMeasurement, Provenance, Mapping[str, Any]]:
    """Measurement, provenance and recipe of a metrics.json. Raises ValueError if it is of another format."""
    content = read_json_object(Path(folder) / METRICS_FILE)
    if content.get("format") != METRICS_FORMAT:
        raise ValueError(f"{folder}: {METRICS_FILE} has format {content.get('format')}, not {METRICS_FORMAT}.")
    measurement = LensMeasurement.from_dict(content["measurement"])
    return measurement, Provenance(**content["provenance"]), content["recipe"]


def write_card(
    folder: str | Path,
    measurement: LensMeasurement,
    provenance: Provenance,
    recipe: LensRecipe,
    jacobian: JacobianLensConfig | None = None,
) -> None:
    """Write CARD.md; arguments as in `card_text`."""
    write_text(Path(folder) / CARD_FILE, card_text(measurement, provenance, recipe, jacobian))


def card_text(
    measurement: LensMeasurement,
    provenance: Provenance,
    recipe: LensRecipe,
    jacobian: JacobianLensConfig | None = None,
) -> str:
    """The card in Markdown: what it is, how it was made, how good it is, how to use it, where it ends.

    jacobian: what the lens says of itself, if it is a Jacobian lens.
    """
    what, how, limits = _tuned(recipe) if jacobian is None else _jacobian(jacobian, recipe)
    pieces = "pieces of documents" if recipe.split == "run" else "documents"
    unsure = [s.stage for s in measurement.stages if s.kl_saved_nats.low <= 0]
    further = [s.stage for s in measurement.stages if s.kl_saved_nats.high < 0]
    lines = [
        f"# {recipe.kind.capitalize()} lens of {provenance.model}",
        "",
        *what,
        "",
        "## Making",
        "",
        *how,
        f"- data: {_data_text(provenance, recipe)}",
        f"- made on {provenance.device}; "
        + ", ".join(f"{name} {number}" for name, number in provenance.versions.items()),
        "",
        "## Held-out measurement",
        "",
        f"{measurement.n_tokens:,} predictions in {measurement.n_documents:,} {pieces} that were not trained on. KL",
        f"is from the model's final output, in nats, with the 95 % bootstrap interval over {pieces}.",
        "",
        *measurement_table(measurement, recipe.kind),
        "",
        f"In every row the {recipe.kind} lens is nearer to the output than the logit lens, beyond the interval."
        if not unsure
        else f"Not beyond the interval nearer to the output than the logit lens: {', '.join(unsure)}.",
        *([f"Beyond it further away: {', '.join(further)}."] if further else []),
        "",
        "## Provenance",
        "",
        *(
            f"- {name}: `{getattr(provenance, name)}`"
            for name in ("model_sha256", "lens_sha256", "tokenizer_sha256", "data_sha256")
        ),
        "",
        "## Limits",
        "",
        "It holds for this model's weights only (loading checks the unembedding) and is measured on text like that",
        *limits,
        "",
    ]
    return "\n".join(lines)


def measurement_table(measurement: LensMeasurement, kind: LensKind = "tuned") -> list[str]:
    """The measurement as the lines of a Markdown table, which also reads well in a terminal."""
    rows: list[tuple[str, ...]] = [("lens reads", "logit lens KL", f"{kind} lens KL", "KL saved", "bits per byte")]
    for stage in measurement.stages:
        bits = "-" if stage.bits_per_byte is None else f"{stage.bits_per_byte.value:.3f}"
        kl_nats = (stage.logit_lens_kl_nats, stage.kl_nats, stage.kl_saved_nats)
        rows.append((stage.stage, *(estimate.text(4) for estimate in kl_nats), bits))
    if measurement.model_bits_per_byte is not None:
        rows.append(("output", "0", "0", "0", f"{measurement.model_bits_per_byte.value:.3f}"))
    return aligned_table(rows)


def catalogue(root: str | Path) -> list[str]:
    """Lines of a Markdown table with a row for every `<model>/<name>/metrics.json` below `root`.

    Mean KL is over the stages that have a translator, in nats; "nearer in" counts those in which the lens is
    nearer to the model's output than the logit lens beyond the 95 % interval. Raises ValueError for a metrics.json
    of another format.
    """
    root = Path(root)
    folders = sorted(file.parent for file in root.glob(f"*/*/{METRICS_FILE}"))
    rows = [_catalogue_row(folder.relative_to(root).as_posix(), *read_metrics(folder)) for folder in folders]
    return [_catalogue_line(COLUMNS), _catalogue_line(["---"] * len(COLUMNS)), *map(_catalogue_line, rows)]


def _tuned(recipe: LensRecipe) -> tuple[list[str], list[str], list[str]]:
    """Of a tuned lens: what it is, how it was made, and the end of its limits."""
    assert recipe.steps is not None
    assert recipe.tokens_per_step is not None
    objective = {
        "kl": "KL divergence from the model's final prediction",
        "ce": "cross entropy with the next token",
    }[recipe.loss]
    n_tokens = recipe.steps * recipe.tokens_per_step
    what = [
        "One affine translator per block, which makes the residual stream readable by the model's own final norm",
        "and unembedding (Belrose et al. 2023, arXiv 2303.08112). Translator i reads what enters block i; translator",
        "0 reads the embedding. Opens with `diffmamba_interp.load_lens(folder, model)` and with tuned-lens 0.2.0.",
    ]
    how = [
        f"- objective: {objective}",
        f"- {recipe.steps} steps of {recipe.tokens_per_step:,} tokens ({n_tokens:,} in all) in sequences of "
        f"{recipe.sequence_length}; {recipe.optimizer}, lr_scale {recipe.lr_scale:g}, seed {recipe.seed}",
    ]
    return (
        what,
        how,
        ["above. A translator finds what a linear map can read out; it does not show that the model uses it."],
    )


def _jacobian(config: JacobianLensConfig, recipe: LensRecipe) -> tuple[list[str], list[str], list[str]]:
    """The same of a Jacobian lens."""
    what = [
        "One matrix per block: how what leaves the last block depends, on average and to first order, on what enters",
        "this one, now and at all later positions (Gurnee et al. 2026, transformer-circuits.pub/2026/workspace).",
        "Nothing is trained. Stage i reads what enters block i, stage 0 the embedding. Opens with",
        '`diffmamba_interp.load_lens(folder, model)`; `lens.save("NAME.pt")` writes the public layout.',
    ]
    errors = config.relative_error or ()
    how = [
        f"- mean over {config.n_prompts} pieces of text of {config.prompt_tokens} tokens, without the first "
        f"{config.skip_first} positions and the last; seed {recipe.seed}",
        *(
            [f"- standard error of the mean, as a share of its Frobenius norm: {min(errors):.3f} to {max(errors):.3f}"]
            if errors
            else []
        ),
        f"- stored in {recipe.storage}" + (", with those of the branches' outputs" if recipe.branches else ""),
    ]
    limits = [
        "above. A mean derivative says what the stream causes to first order, not what it stands for, and it is no",
        "best guess of the output: where it is further from it than the logit lens, the table says so.",
    ]
    return what, how, limits


def _data_text(provenance: Provenance, recipe: LensRecipe) -> str:
    if provenance.data_sha256 is None:
        return "random tokens, no text: this lens shows that the machinery works and says nothing about language"
    part = "all but what was held out" if recipe.split == "run" else "lens-training split"
    return f"{provenance.data}, {part}"


def _catalogue_row(
    name: str, measurement: LensMeasurement, provenance: Provenance, recipe: Mapping[str, Any]
) -> list[str]:
    stages = measurement.stages
    n_nearer = sum(stage.kl_saved_nats.low > 0 for stage in stages)
    if recipe.get("kind", "tuned") == "jacobian":
        extent = f"{recipe['prompts']} prompts of {recipe['prompt_tokens']} tokens"
    else:
        extent = f"{recipe['steps']} steps, {recipe['steps'] * recipe['tokens_per_step']:,} tokens"
    return [
        f"[{name}]({name}/{CARD_FILE})",
        f"{provenance.model} (`{(provenance.model_sha256 or 'none')[:12]}`)",
        f"{Path(provenance.data).name}, {extent}",
        f"{provenance.device}, PyTorch {provenance.versions['torch']}",
        f"{measurement.n_tokens:,} in {measurement.n_documents:,} documents",
        _mean_kl([stage.logit_lens_kl_nats.value for stage in stages]),
        _mean_kl([stage.kl_nats.value for stage in stages]),
        f"{n_nearer} of {len(stages)} stages",
    ]


def _mean_kl(by_stage: Sequence[float]) -> str:
    """With and, in brackets, without the embedding, which no lens reads well and which outweighs the rest."""
    without = f" ({fmean(by_stage[1:]):.3f})" if len(by_stage) > 1 else ""
    return f"{fmean(by_stage):.3f}{without}"


def _catalogue_line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
