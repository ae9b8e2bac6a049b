"""What a lens is trained with: the options of the command, as a file and as a resolved, checked whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.files.paths import expand_fields
from diffmamba_interp.runs.run_log import Reporter
from diffmamba_interp.runs.settings import (
    changed,
    from_values,
    read_toml,
    require_numbers,
    require_positive,
    require_seed,
    to_toml,
    to_values,
)
from diffmamba_interp.text.documents import Bos

LensKind = Literal["tuned", "jacobian"]
Loss = Literal["kl", "ce"]
OptimizerName = Literal["sgd", "adam"]
Split = Literal["auto", "run", "hash", "whole"]
Storage = Literal["float16", "int8"]

OPERATIONAL = (
    "out",
    "device",
    "micro_batch",
    "max_passes",
    "eval_tokens",
    "snapshot_minutes",
    "report_to",
    "eval_only",
    "max_unpacked_gb",
    "storage",
)
"""Fields that may change between the start of a run and its resumption; eval_tokens only where it holds nothing out."""

OF_ONE_KIND: dict[LensKind, tuple[str, ...]] = {
    "tuned": ("loss", "optimizer", "lr_scale", "steps", "tokens_per_step", "max_passes"),
    "jacobian": ("prompts", "prompt_tokens", "skip_first", "branches", "storage"),
}
"""Fields that say nothing about a lens of the other kind."""


@dataclass(frozen=True, kw_only=True)
class LensRecipe:
    """Options of `python -m diffmamba_interp.train_lens`; see `with_schedule` for what `None` means in a size."""

    kind: LensKind = "tuned"
    """tuned: an affine map for each block, trained to say what the model will say. jacobian: the mean derivative of
    what leaves the last block by what enters each, which nothing is trained for."""
    model: str = "diff-mamba2"
    """A bundled model (diff-mamba2, mamba2), a checkpoint folder, or a hub id."""
    tokenizer: str | None = None
    """Folder, tokenizer.json or hub id; None: that of the model."""
    data: str = "auto"
    """Files, folder, pattern or hub dataset id; builtin; generated; random-tokens (no text at all). auto: builtin, or
    random-tokens for a model whose vocabulary is too small for any text."""
    max_documents: int | None = None
    """Read only so many documents of the data, in its own order; None: all. A large hub dataset needs it."""
    text_field: str = "text"
    """Field or column of the data that holds the text (.jsonl, .parquet, .arrow, hub)."""
    hub_config: str | None = None
    """Which configuration of a hub dataset; None: its only one."""
    hub_split: str | None = None
    """Which split of a hub dataset (None: train), or of a folder that holds several, such as a saved DatasetDict."""
    hub_revision: str | None = None
    """Which commit, tag or branch of a hub dataset; None: the newest commit."""
    skip_empty: bool = False
    """Pass over rows whose text is null or missing, and say how many; otherwise they are an error."""
    max_unpacked_gb: float | None = None
    """Stop when a packed file of the data unpacks to more GB (10^9 bytes); None: 0.27, or 50 times its packed size."""
    split: Split = "auto"
    """run: hold out part of the text to measure the lens, whole documents where there are many, else the end of each,
    at most a tenth and at most eval_tokens, and train on all the rest. hash: the demo chain's own splits by hash of
    each document, 85 % left to language-model training, 10 % for the lens, 5 % held out; for text that train_lm trained
    the model on, and for the bundled lenses. whole: with eval_only, measure on all of the text. auto: hash for builtin
    and generated, run for text of yours; with eval_only, whole for text that the lens was not trained on."""
    bos: Bos = "auto"
    """Whether each document begins with the tokenizer's beginning-of-text token (BOS). auto: as its template has it."""
    out: str | None = None
    """Folder for the lens; None: runs/lens/<model's name>."""
    loss: Loss = "kl"
    """Of a tuned lens. kl: divergence from the model's final prediction. ce: cross entropy with the next token."""
    optimizer: OptimizerName = "sgd"
    """Of a tuned lens. sgd: Nesterov momentum 0.9. adam: AMSGrad."""
    lr_scale: float = 1.0
    """Of a tuned lens: multiplies the learning rate, 0.1 for sgd and 0.001 for adam, which falls linearly to 0."""
    steps: int | None = None
    """Of a tuned lens: optimiser steps; None: 250, or 50 for a model of at most 20 million parameters."""
    tokens_per_step: int | None = None
    """Of a tuned lens: tokens per optimiser step, over all processes; None: 2^18, or 4096 for such a model."""
    sequence_length: int | None = None
    """Tokens per sequence, of a tuned lens' training and of what is held out; None: 2048, or 256 for such a model."""
    max_passes: int | None = None
    """Of a tuned lens: stop with an error when the data would be read more often; None: repeat it as needed."""
    prompts: int | None = None
    """Of a Jacobian lens: pieces of text that the derivatives are averaged over; None: 100, or 32 for such a model."""
    prompt_tokens: int | None = None
    """Of a Jacobian lens: tokens of each piece; None: 128."""
    skip_first: int = 16
    """Of a Jacobian lens: positions left out at the beginning of each piece; the last one always is."""
    branches: bool = False
    """Of a Jacobian lens: also the derivatives by what each branch of a differential block puts out."""
    storage: Storage = "float16"
    """Of a Jacobian lens: float16 as others read it, or int8 in half the bytes, which is read here alone."""
    eval_tokens: int | None = None
    """Held-out tokens that the finished lens is measured on; None: 2^19, or 2^14 for such a model. With split run it
    also decides how much is held out."""
    seed: int = 0
    """Decides the order of the data and, with split run, what of it is held out."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto: cuda where there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the model and the large products (sums are float32); auto: bfloat16 on cuda, float32 elsewhere."""
    micro_batch: int | None = None
    """Sequences per forward pass and process; None: found from the memory. A Jacobian lens keeps all that the pass
    computed until its d_model backward passes are done."""
    snapshot_minutes: float = 5.0
    """Minutes between snapshots from which a stopped run resumes."""
    report_to: Reporter = "none"
    """Where the log goes beside log.jsonl."""
    eval_only: str | None = None
    """Folder of a lens to measure instead of training one."""

    def __post_init__(self) -> None:
        require_numbers(self)
        require_seed(self.seed)
        expand_fields(self, "model", "tokenizer", "data", "out", "eval_only")
        require_positive(self, *_SIZES, "lr_scale", "max_unpacked_gb")
        if self.eval_only is None:
            other: LensKind = "jacobian" if self.kind == "tuned" else "tuned"
            defaults = {field.name: field.default for field in fields(self)}
            strange = [name for name in OF_ONE_KIND[other] if getattr(self, name) != defaults[name]]
            if strange:
                raise ValueError(
                    f"{strange[0]} is {getattr(self, strange[0])!r}, which says nothing about a {self.kind} lens: "
                    f"leave it out, or give kind = {other!r}."
                )
        if self.skip_first < 0:
            raise ValueError(f"skip_first is {self.skip_first}: it cannot be negative.")
        if self.kind == "jacobian" and (self.prompt_tokens or PROMPT_TOKENS) < self.skip_first + 2:
            raise ValueError(
                f"prompt_tokens is {self.prompt_tokens or PROMPT_TOKENS}, of which the first {self.skip_first} and the "
                f"last are left out: give at least {self.skip_first + 2}, or a smaller skip_first."
            )
        if self.split == "whole" and self.eval_only is None:
            raise ValueError("split is 'whole', which leaves nothing to train on: give it with eval_only.")
        if self.snapshot_minutes < 0:
            raise ValueError(f"snapshot_minutes is {self.snapshot_minutes}: it cannot be negative.")
        length, tokens = self.sequence_length, self.tokens_per_step
        if length is not None and length < 2:
            raise ValueError("sequence_length is 1: a sequence needs a token to predict from and one to predict.")
        if length is not None and tokens is not None and tokens % length:
            raise ValueError(
                f"tokens_per_step is {tokens}, which is no multiple of sequence_length {length}: a step holds "
                "whole sequences."
            )

    @property
    def sequences_per_step(self) -> int:
        """Sequences per optimiser step, over all processes; the schedule must be resolved."""
        assert self.tokens_per_step is not None
        assert self.sequence_length is not None
        return self.tokens_per_step // self.sequence_length


def with_schedule(recipe: LensRecipe, *, quick: bool) -> LensRecipe:
    """The recipe with the sizes of its kind filled in that are None.

    The schedule of the tuned-lens paper is 250 steps of 2^18 tokens in sequences of 2048 (measured on 2^19 tokens).
    `quick`, for small models, is 50 steps of 4096 tokens in sequences of 256 (measured on 2^14). A Jacobian lens takes
    100 pieces of text (quick: 32) of 128 tokens.
    """
    steps, tokens, length, eval_tokens, prompts = (
        (50, 4096, 256, 2**14, 32) if quick else (250, 2**18, 2048, 2**19, 100)
    )
    length = recipe.sequence_length or length
    recipe = replace(recipe, sequence_length=length, eval_tokens=recipe.eval_tokens or eval_tokens)
    if recipe.kind == "jacobian":
        return replace(recipe, prompts=recipe.prompts or prompts, prompt_tokens=recipe.prompt_tokens or PROMPT_TOKENS)
    return replace(
        recipe,
        steps=recipe.steps or steps,
        tokens_per_step=recipe.tokens_per_step or max(tokens - tokens % length, length),
    )


def read_recipe(path: str | Path) -> LensRecipe:
    """A recipe from a TOML file.

    Raises FileNotFoundError, or ValueError for a file that is no TOML, an unknown key or a value of a wrong type.
    """
    return read_toml(LensRecipe, path)


def recipe_from_dict(values: Mapping[str, Any], *, source: str) -> LensRecipe:
    """A recipe from plain values; `source` names them in errors. Raises ValueError (see `read_recipe`)."""
    try:
        return from_values(LensRecipe, values)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def write_recipe(recipe: LensRecipe, path: Path) -> None:
    """Write the recipe as TOML; fields that are None are left out."""
    write_text(path, to_toml(to_values(recipe)))


def first_difference(
    old: LensRecipe, new: LensRecipe, ignored: tuple[str, ...] = OPERATIONAL
) -> tuple[str, Any, Any] | None:
    """The first field in which two recipes differ, with both values; None if they describe the same training."""
    # Before there was a choice, every text was split by hash.
    old, new = (replace(recipe, split="hash") if recipe.split == "auto" else recipe for recipe in (old, new))
    if new.split == "run":
        ignored = tuple(name for name in ignored if name != "eval_tokens")
    differences = changed(to_values(old), to_values(new), ignored)
    return next(((name, *values) for name, values in differences.items()), None)


PROMPT_TOKENS = 128
_SIZES = (
    *("max_documents", "steps", "tokens_per_step", "sequence_length", "max_passes", "micro_batch", "eval_tokens"),
    *("prompts", "prompt_tokens"),
)
