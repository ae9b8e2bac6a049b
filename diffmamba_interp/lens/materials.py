"""What a recipe of a lens works with: model, tokenizer and text, and the batches and held-out documents of these."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from diffmamba_interp.lens.card import Provenance, read_metrics
from diffmamba_interp.lens.evaluation import HeldOutDocument
from diffmamba_interp.lens.folders import read_description
from diffmamba_interp.lens.held_out import LensText, lens_text
from diffmamba_interp.lens.recipe import LensRecipe, Split
from diffmamba_interp.lens.subjects import load_checkpoint, own_tokenizer
from diffmamba_interp.lens.training import StepBatches
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.runs.process_group import ProcessGroup
from diffmamba_interp.runs.provenance import device_name, package_versions, weights_sha256
from diffmamba_interp.text import DataError, TextSource, TokenBatches, bos_tokens, load_tokenizer, tokenizer_hash
from diffmamba_interp.text.batches import RandomTokenBatches, random_tokens
from diffmamba_interp.text.sources import BUILTIN, GENERATED, is_hub_id

TOKEN_CACHE = Path("runs/cache")
RANDOM_TOKENS = "random-tokens"

logger = logging.getLogger(__name__)


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

    def provenance(self, recipe: LensRecipe, *, lens_sha256: str) -> Provenance:
        """What a lens made or measured with these is said to be made with."""
        return Provenance(
            model=recipe.model,
            model_sha256=self.identity["model"],
            lens_sha256=lens_sha256,
            tokenizer_sha256=self.identity["tokenizer"],
            # Where it lay says nothing to whom it is told.
            data=self.location if is_hub_id(self.location) else Path(self.location).name,
            data_sha256=self.identity["data"],
            seed=recipe.seed,
            device=device_name(self.model.embed.weight.device),
            versions=package_versions(),
        )


def load_materials(recipe: LensRecipe, device: torch.device) -> Materials:
    """Model, tokenizer and text of a recipe.

    Raises FileNotFoundError or ValueError if one cannot be had or they do not fit each other.
    """
    on_gpu = device.type == "cuda"
    name = recipe.dtype if recipe.dtype != "auto" else "bfloat16" if on_gpu else "float32"
    dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
    model, folder = load_checkpoint(recipe.model, device=device, dtype=dtype)
    tokenizer = _tokenizer(recipe, folder, model.cfg.d_vocab)
    location = recipe.data
    if location == "auto":
        location = "builtin" if tokenizer is not None else RANDOM_TOKENS
    if location == RANDOM_TOKENS:
        logger.warning("training on random tokens, not on text: the result says nothing about language")
        tokenizer, source = None, None
    else:
        source = TextSource.of_recipe(location, recipe)
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


def open_prompts(
    text: LensText, materials: Materials, recipe: LensRecipe, group: ProcessGroup
) -> Int64[Tensor, "prompt pos"]:
    """This process's share of the pieces of text over which a Jacobian lens is averaged."""
    assert recipe.prompts is not None
    assert recipe.prompt_tokens is not None
    if recipe.prompts % group.size:
        raise ValueError(f"prompts is {recipe.prompts}, which {group.size} processes cannot share evenly.")
    settings: dict[str, Any] = {
        "length": recipe.prompt_tokens,
        "seed": recipe.seed,
        "rank": group.rank,
        "world_size": group.size,
    }
    if text.training is None:
        return next(RandomTokenBatches(materials.model.cfg.d_vocab, batch_size=recipe.prompts, **settings))
    n_pieces = len(text.training) // recipe.prompt_tokens
    if n_pieces < recipe.prompts:
        raise DataError(
            f"the text has {n_pieces} pieces of {recipe.prompt_tokens} tokens to fit on, fewer than prompts = "
            f"{recipe.prompts}: give more text, or fewer or shorter prompts."
        )
    return next(TokenBatches(text.training, batch_size=recipe.prompts, **settings))


def require_same_tokenizer(lens_folder: str, materials: Materials) -> None:
    """Raise ValueError if the lens in a folder was trained with another tokenizer."""
    stored, now = read_description(lens_folder).get("tokenizer_sha256"), materials.identity["tokenizer"]
    if stored is not None and now is not None and stored != now:
        raise ValueError(
            f"the lens in {lens_folder} was trained with another tokenizer (sha256 {stored[:12]}...) than this one "
            f"({now[:12]}...): give that one with --tokenizer."
        )


def _random_documents(materials: Materials, recipe: LensRecipe) -> list[HeldOutDocument]:
    assert recipe.sequence_length is not None
    assert recipe.eval_tokens is not None
    shape = (max(recipe.eval_tokens // recipe.sequence_length, 2), recipe.sequence_length)
    rows = random_tokens(materials.model.cfg.d_vocab, shape, seed=-1 - recipe.seed)
    return [HeldOutDocument(tokens=row, n_bytes=None) for row in rows]


def _tokenizer(recipe: LensRecipe, folder: Path, d_vocab: int) -> Any:
    """The tokenizer, or None if there is none and none is needed."""
    if recipe.data == RANDOM_TOKENS:
        return None
    tokenizer = own_tokenizer(recipe.model, folder) if recipe.tokenizer is None else load_tokenizer(recipe.tokenizer)
    if tokenizer is None and recipe.data == "auto" and d_vocab < 256:
        return None
    if tokenizer is None:
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
