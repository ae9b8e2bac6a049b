"""One run: a model of a cell learns the rows of its seed, and what it can do after the last step is read.

    rows       tokens and roles of every step of a seed, made once; all cells of the seed learn them in this order
    measured   bits of each held-out document, which prompts are answered, lambda of each block, the loss on the way;
               of Mamba and Diff-Mamba also what else differencing may do (`head_rivals`), as it moves

The rows, the optimiser and the loss are those of recipes/demo_diff_mamba2.toml; see `Recipe` for what is changed.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8, UInt16
from torch import Tensor

from analyses.ablations.cells import Unit, config_of
from analyses.ablations.material import BABI, HELD_OUT, PROMPTS, TOKENIZER
from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.files.json_files import read_json_object
from diffmamba_interp.hook_names import differential_point
from diffmamba_interp.lm_training.evaluation import document_bits
from diffmamba_interp.lm_training.loss import RoleSums
from diffmamba_interp.lm_training.mixture import Batch
from diffmamba_interp.lm_training.optimiser import learning_rate, make_optimiser
from diffmamba_interp.lm_training.preparation import make_mixture, make_model, open_tokenizer
from diffmamba_interp.lm_training.recipe import ModelRecipe, Precision, TextPart
from diffmamba_interp.lm_training.recipe import Recipe as LanguageModelRecipe
from diffmamba_interp.lm_training.stage_readings import RIVAL_PARTS, branch_cosines, rivals
from diffmamba_interp.lm_training.step import make_step
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.needle.records import NeedleSample, load_samples
from diffmamba_interp.needle.scoring import score_labels
from diffmamba_interp.runs.process_group import ProcessGroup
from diffmamba_interp.runs.settings import read_toml
from diffmamba_interp.text import TokenStream, load_tokenizer

DEMO_RECIPE = Path(__file__).parents[2] / "recipes" / "demo_diff_mamba2.toml"
FILLER_TOKENS = 1_000_000
EVALUATION_TOKENS = {"cpu": 8_192, "cuda": 65_536}
RIVAL_CELLS = ("mamba", "diff-mamba")
GATED_TOKENS = 128
"""Of each held-out document, on which a lambda of every token is averaged."""

Tables = dict[str, dict[str, list[Any]]]
"""Columns by name, of each table by its name."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Runs that are compared; recipe.toml says what the fields mean.

    cells, n_layers, seeds: a run for each. seed: of what is held out. sources, n_tokens, weights, retrieval, bytes:
    what is learnt. n_held_out, held_out_chars, n_prompts: what is read. The others are sizes of rows, run and model.
    """

    cells: tuple[str, ...]
    n_layers: tuple[int, ...]
    seeds: tuple[int, ...]
    seed: int
    sources: tuple[str, ...]
    n_tokens: tuple[int, ...]
    weights: tuple[float, ...]
    retrieval: float
    bytes: bool = False
    n_held_out: tuple[int, ...]
    held_out_chars: int
    n_prompts: int
    steps: int
    warmup: int
    log_every: int
    rivals_at: tuple[int, ...] = ()
    batch_size: int
    length: int
    d_model: int
    d_model_of_scans: int
    d_state: int
    d_head: int
    d_head_of_scans: int
    precision: Precision


def recipe_of_run(recipe: Recipe, unit: Unit, folder: Path) -> LanguageModelRecipe:
    """The recipe of one run, with the material in `folder`."""
    cell, n_layers, seed = unit
    demo = read_toml(LanguageModelRecipe, DEMO_RECIPE)
    streams = tuple(str(folder / f"{name}.npy") for name in recipe.sources)
    tokenizer = load_tokenizer(str(folder / TOKENIZER))
    retrieval = demo.data.retrieval
    assert retrieval is not None
    if recipe.retrieval == 0:
        retrieval = None
    elif (folder / BABI).exists():
        babi = str(folder / BABI)
        retrieval = replace(
            retrieval, weight=recipe.retrieval, babi_path=babi, filler=streams, filler_tokens=FILLER_TOKENS
        )
    else:
        bare: dict[str, Any] = {"lengths": (0,), "length_weights": (1.0,), "filler": (), "filler_tokens": None}
        retrieval = replace(retrieval, weight=recipe.retrieval, real=0.0, babi_path=None, **bare)
    text = tuple(TextPart(weight=weight, tokens=stream) for weight, stream in zip(recipe.weights, streams, strict=True))
    config = config_of(cell, recipe, n_layers=n_layers, d_vocab=len(tokenizer))
    return replace(
        demo,
        model=ModelRecipe(config=config),
        data=replace(
            demo.data, tokenizer=str(folder / TOKENIZER), length=recipe.length, text=text, retrieval=retrieval
        ),
        optimiser=replace(demo.optimiser, warmup=recipe.warmup),
        evaluation=None,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        precision=recipe.precision,
        seed=seed,
        log_every=recipe.log_every,
    )


@dataclass(frozen=True)
class Rows:
    """What a seed's runs learn, step by step."""

    tokens: UInt16[np.ndarray, "step row pos"]
    roles: UInt8[np.ndarray, "step row pos"]

    def batch(self, step: int) -> Batch:
        return Batch(torch.from_numpy(self.tokens[step].copy()), torch.from_numpy(self.roles[step].copy()))


def rows_of(recipe: Recipe, seed: int, folder: Path, *, jobs: int = 1) -> Rows:
    """The rows of a seed, from files in `folder`, which are made, by `jobs` processes, if they are not there."""
    files = [folder / f"rows-{seed}-{part}.npy" for part in ("tokens", "roles")]
    if not files[1].exists():
        run = recipe_of_run(recipe, (recipe.cells[0], recipe.n_layers[0], seed), folder)
        mixture = make_mixture(run, open_tokenizer(run.data, len(load_tokenizer(run.data.tokenizer))))
        shape = (run.steps, run.batch_size, run.data.length + 1)
        dtypes = (np.uint16, np.uint8)
        partial = [file.with_suffix(".part") for file in files]
        tokens, roles = (
            np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
            for file, dtype in zip(partial, dtypes, strict=True)
        )

        def fill(first: int) -> None:
            for step in range(first, run.steps, jobs):
                batch = mixture.batch(step)
                tokens[step], roles[step] = batch.tokens.numpy(), batch.roles.numpy()

        if jobs == 1:
            fill(0)
        else:
            # The mixture takes longer to make than to share: forked, before anything touches a GPU.
            context = multiprocessing.get_context("fork")
            processes = [context.Process(target=fill, args=(first,)) for first in range(jobs)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            if any(process.exitcode for process in processes):
                raise RuntimeError(f"the rows of seed {seed} could not be made: see above.")
        for file, whole in zip(partial, files, strict=True):
            file.rename(whole)
    tokens, roles = (np.load(file, mmap_mode="r") for file in files)
    return Rows(tokens, roles)


class OutOfTimeError(RuntimeError):
    """A run would not end before its deadline."""


def train(
    recipe: Recipe,
    unit: Unit,
    folder: Path,
    rows: Rows,
    *,
    device: str,
    is_late: Callable[[float], bool] = lambda seconds: False,
    steps: int | None = None,
    at_step: Callable[[HookedMamba, int], None] = lambda model, step: None,
) -> tuple[HookedMamba, dict[str, list[Any]]]:
    """The model after the last step, and its loss on the way: step, text_loss, answer_loss (nats), answer_accuracy.

    A loss that is no finite number ends the run; the last line says so (NaN), and its step is where.
    is_late: is asked every `log_every` steps with the seconds that the rest will take. steps: so many, to try it out.
    at_step: is called with the model and the number of steps behind it, of those in `rivals_at`.
    Raises OutOfTimeError when it says yes.
    """
    run = recipe_of_run(recipe, unit, folder)
    model = make_model(run.model, seed=run.seed).to(device).train()
    group = ProcessGroup(device=torch.device(device))
    step_of = make_step(model, make_optimiser(model, run.optimiser), run, group)
    log: dict[str, list[Any]] = {name: [] for name in ("step", "text_loss", "answer_loss", "answer_accuracy")}
    sums, since = RoleSums(device), time.monotonic()
    n_steps = run.steps if steps is None else steps
    for step in range(n_steps):
        if step in recipe.rivals_at:
            before = time.monotonic()
            at_step(model, step)
            since += time.monotonic() - before
        loss, norm = step_of(rows.batch(step), learning_rate(step, run.steps, run.optimiser), sums)
        if (step + 1) % run.log_every and step + 1 < n_steps:
            continue
        is_finite = math.isfinite(float(loss)) and math.isfinite(float(norm))
        means = sums.read()
        log["step"].append(step + 1)
        for name in ("text_loss", "answer_loss", "answer_accuracy"):
            log[name].append(means.get(name, math.nan) if is_finite else math.nan)
        if not is_finite:
            break
        now = time.monotonic()
        # The first of these steps choose the kernels' tiles.
        if step + 1 > run.log_every and is_late((now - since) * (n_steps - step - 1) / run.log_every):
            raise OutOfTimeError(f"{unit} after {step + 1} steps")
        sums, since = RoleSums(device), now
    if n_steps in recipe.rivals_at:
        at_step(model, n_steps)
    return model.eval().requires_grad_(False), log


def measure(recipe: Recipe, unit: Unit, folder: Path, rows: Rows, *, device: str, **how: Any) -> Tables:
    """Train a run and read it. Tables: records (held-out documents), prompts, blocks, log, runs (one line)."""
    started = time.monotonic()
    rivals_of = Rivals(folder)
    if unit[0] in RIVAL_CELLS:
        how["at_step"] = rivals_of.read
    model, log = train(recipe, unit, folder, rows, device=device, **how)
    trained = time.monotonic()
    # Prompts have many shapes, each of which a graph would be captured for.
    model.cuda_graphs = False
    held = read_json_object(folder / f"{HELD_OUT}.json")["documents"]
    stream = TokenStream.load(folder / f"{HELD_OUT}.npy")
    documents = [stream.document(place) for place in range(len(held))]
    has_diverged = math.isnan(log["text_loss"][-1])
    tokenizer = load_tokenizer(str(folder / TOKENIZER))
    bits = document_bits(
        model,
        [document[:-1] for document in documents],
        before=tokenizer.eos_token_id,
        length=recipe.length,
        batch_tokens=EVALUATION_TOKENS[torch.device(device).type],
    )
    prompts: dict[str, list[Any]] = {"task": [], "is_right": []}
    if (folder / PROMPTS).exists():
        samples, _ = load_samples(folder / PROMPTS, tokenizer)
        scores = [None] * len(samples) if has_diverged else score_labels(model, samples)
        prompts["task"] = [sample.task for sample in samples]
        prompts["is_right"] = [0 if score is None else int(score.is_right) for score in scores]
    config = model.cfg
    about = {
        "d_model": [config.d_model],
        "n_parameters": [sum(weight.numel() for weight in model.parameters())],
        "steps": [log["step"][-1]],
        "has_diverged": [int(has_diverged)],
        "seconds": [trained - started],
        "seconds_read": [time.monotonic() - trained],
    }
    tables: Tables = {
        "records": {
            "source": [one["source"] for one in held],
            "document": [one["document"] for one in held],
            "n_bytes": stream.n_bytes.tolist(),
            "bits": [math.nan if has_diverged else float(value) for value in bits],
        },
        "prompts": prompts,
        "blocks": lambdas_of_blocks(model, documents),
        "log": log,
        "rivals": rivals_of.columns,
        "runs": about,
    }
    cell, n_layers, seed = unit
    for columns in tables.values():
        n_lines = len(next(iter(columns.values())))
        columns |= {"cell": [cell] * n_lines, "n_layers": [n_layers] * n_lines, "seed": [seed] * n_lines}
    return tables


class Rivals:
    """Negative mass and redundancy of heads, of each block and part, along a run: means over heads and prompts."""

    def __init__(self, folder: Path) -> None:
        self.samples: list[NeedleSample] = []
        if (folder / PROMPTS).exists():
            self.samples, _ = load_samples(folder / PROMPTS, load_tokenizer(str(folder / TOKENIZER)))
        names = ("step", "block", "part", "negative_mass", "redundancy", "branch_cosine")
        self.columns: dict[str, list[Any]] = {name: [] for name in names}

    def read(self, model: HookedMamba, step: int) -> None:
        """Add what `model` shows after `step` steps; it is left as it was. Nothing without prompts."""
        if not self.samples:
            return
        was_training, graphs, model.cuda_graphs = model.training, model.cuda_graphs, False
        model.eval()
        with torch.no_grad():
            read = rivals(model, self.samples)
            cosines = branch_cosines(model, self.samples).mean(axis=0)
        model.train(was_training)
        model.cuda_graphs = graphs
        for block in range(model.cfg.n_layers):
            for place, part in enumerate(RIVAL_PARTS):
                means = {name: float(np.mean(read[name][block, place])) for name in ("negative_mass", "redundancy")}
                if not math.isnan(means["negative_mass"]):
                    line = {"step": step, "block": block, "part": part, "branch_cosine": float(cosines[block]), **means}
                    for name, value in line.items():
                        self.columns[name].append(value)


@torch.no_grad()
def lambdas_of_blocks(model: HookedMamba, documents: list[np.ndarray]) -> dict[str, list[Any]]:
    """Of each differential block: its lambda, and the spread where every token has one of its own.

    lambda, lambda_sd: mean and standard deviation over the first tokens of the documents (and heads).
    """
    long = [document[:GATED_TOKENS] for document in documents if len(document) >= GATED_TOKENS][:16]
    rows = long or [documents[0]]
    tokens = torch.from_numpy(np.stack(rows).astype(np.int64)).to(model.embed.weight.device)
    columns: dict[str, list[Any]] = {"block": [], "lambda": [], "lambda_sd": []}

    def keep(value: Tensor, name: str) -> None:
        columns["lambda"].append(float(value.double().mean()))
        columns["lambda_sd"].append(float(value.double().std(correction=0)))

    columns["block"] = list(model.cfg.differential_blocks)
    model.run_with_hooks(tokens, [(differential_point(block, "lambda"), keep) for block in columns["block"]])
    return columns


def append_line(path: Path, line: str) -> None:
    """Add a line to a file that is whole at every moment."""
    before = path.read_bytes() if path.exists() else b""
    write_bytes(path, before + line.encode() + b"\n")
