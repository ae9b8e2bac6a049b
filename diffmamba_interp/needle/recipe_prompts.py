"""The prompts that a needle recipe asks for, and the sums of the data that they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.needle.filler import Filler
from diffmamba_interp.needle.recipe import FillerSplit, NeedleRecipe
from diffmamba_interp.needle.records import NeedleSample
from diffmamba_interp.needle.samples import make_needle_samples
from diffmamba_interp.text.documents import documents_of_split
from diffmamba_interp.text.sources import BUILTIN, GENERATED, TextSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    return TextSource.of_recipe(recipe.filler, recipe)


def data_sha256(recipe: NeedleRecipe) -> dict[str, str]:
    """Sha256 of the stories and the filler that the recipe names."""
    source = filler_source(recipe)
    sums = {} if source is None else {"filler": source.sha256()}
    if recipe.babi is not None:
        is_file = Path(recipe.babi).is_file()
        sums["babi"] = file_sha256(recipe.babi) if is_file else TextSource(location=recipe.babi).sha256()
    return sums
