"""From a recipe to what the loop needs: the tokenizer, the mixture of data, the model."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.lm_training.mixture import Mixture, Role, RowMaker, TextCrops, text_rows
from diffmamba_interp.lm_training.recipe import DataRecipe, ModelRecipe, Recipe, RetrievalPart, TextPart
from diffmamba_interp.lm_training.retrieval_rows import RetrievalRows
from diffmamba_interp.lm_training.sample_tokens import FillerTokens, PieceTokens
from diffmamba_interp.models.conversion import convert_to_differential
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.needle.babi import babi_stories_of_split, heldout_babi_stories
from diffmamba_interp.needle.stories import TASKS
from diffmamba_interp.text import DataError, TextSource, TokenStream, cached_tokens, load_tokenizer

logger = logging.getLogger(__name__)

_ROWS_TO_TRY = 8


def make_model(recipe: ModelRecipe, *, seed: int) -> HookedMamba:
    """The model at step 0, on the CPU in float32, its new weights drawn with `seed`."""
    if recipe.init_from is None:
        assert recipe.config is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return HookedMamba(recipe.config)
    model = HookedMamba.from_pretrained(recipe.init_from)
    if recipe.placement is not None:
        model = convert_to_differential(model, recipe.placement, recipe.alignment, seed=seed)
    return model.float()


def open_tokenizer(recipe: DataRecipe, n_tokens: int) -> PreTrainedTokenizerBase:
    """The recipe's tokenizer, for a model with `n_tokens` tokens (padding rows of its vocabulary not counted).

    Raises DataError if it cannot be read, or if the model has too few tokens for it.
    """
    name = recipe.tokenizer
    try:
        tokenizer = load_tokenizer(name)
    except OSError as error:
        raise DataError(f"there is no tokenizer {name!r}: no folder, tokenizer.json or hub id ({error}).") from error
    if len(tokenizer) > n_tokens:
        raise DataError(
            f"the tokenizer {name} has {len(tokenizer)} tokens, the model's vocabulary (d_vocab, less its padding) "
            f"only {n_tokens}: they do not belong together."
        )
    return tokenizer


def make_mixture(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Mixture:
    """The data section as batches. Raises DataError or FileNotFoundError for data that cannot be used."""
    parts: list[tuple[float, RowMaker]] = []
    data, seed = recipe.data, recipe.data_seed
    for index, part in enumerate(data.text):
        stream = _open_text(part, tokenizer)
        crops = TextCrops(stream.tokens, length=data.length, seed=seed, part=index)
        parts.append((part.weight, text_rows(crops)))
        logger.info(
            "text %s: %d tokens, %d rows an epoch",
            part.tokens or part.source,
            len(stream.tokens),
            crops.n_crops,
        )
    if data.retrieval is not None:
        parts.append((data.retrieval.weight, _make_retrieval(data, seed, tokenizer).row))
    return Mixture(parts, batch_size=recipe.batch_size, seed=seed, d_vocab=len(tokenizer))


def open_stream(path: str, tokenizer: PreTrainedTokenizerBase) -> TokenStream:
    """A token stream made with this tokenizer.

    Raises FileNotFoundError if there is none; DataError or DamagedFileError if a part of it is missing or damaged, or
    if it is empty or holds other tokens.
    """
    try:
        stream = TokenStream.load(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} does not exist: it must be a token stream, which diffmamba_interp.text.write_tokens "
            "makes. To train on text, give it as source instead of tokens."
        ) from error
    if len(stream.tokens) == 0:
        raise DataError(f"{path} holds no tokens: make it again from text.")
    if int(stream.tokens.max()) >= len(tokenizer) or int(stream.tokens[-1]) != tokenizer.eos_token_id:
        raise DataError(
            f"{path} was made with another tokenizer: it has token ids up to {int(stream.tokens.max())} and ends in "
            f"{int(stream.tokens[-1])}; this one has {len(tokenizer)} tokens and end-of-text {tokenizer.eos_token_id}."
        )
    return stream


def sha256_of_files(recipe: Recipe) -> dict[str, str]:
    """Sha256 of all data that the data section names, by its name there (a hub dataset's: of name and commit)."""
    part = recipe.data.retrieval
    names = [text.tokens for text in recipe.data.text if text.tokens]
    names += [*part.filler, *([part.babi_path] if part.babi_path else [])] if part else []
    files = {name: _sha256(Path(name)) for name in dict.fromkeys(names) if Path(name).exists()}
    return files | {text.source: _source(text).sha256() for text in recipe.data.text if text.source}


def _open_text(part: TextPart, tokenizer: PreTrainedTokenizerBase) -> TokenStream:
    if part.tokens is not None:
        return open_stream(part.tokens, tokenizer)
    try:
        return cached_tokens(_source(part), tokenizer, split="lm_train", folder=part.cache, max_tokens=part.max_tokens)
    except DataError as error:
        if "no documents" not in str(error):
            raise
        raise DataError(
            f"{part.source}: none of its documents is in the split lm_train. A text file is one document, and a "
            "document goes to one split by its hash: cut the text into several files, or lines of a .jsonl file."
        ) from error


def _source(part: TextPart) -> TextSource:
    assert part.source is not None
    return TextSource.of_recipe(part.source, part)


def _sha256(path: Path) -> str:
    """Of a file, or of all files of a folder with their names."""
    if path.is_file():
        return file_sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return hashlib.sha256("\n".join(f"{f.relative_to(path)} {_sha256(f)}" for f in files).encode()).hexdigest()


def _make_retrieval(data: DataRecipe, seed: int, tokenizer: PreTrainedTokenizerBase) -> RetrievalRows:
    part = data.retrieval
    assert part is not None
    filler = None
    if part.filler:
        streams = [open_stream(path, tokenizer) for path in part.filler]
        filler = FillerTokens.from_streams(tokenizer, streams, part.filler_tokens)
        logger.info("filler: %d tokens in %d sentences", len(filler.tokens), len(filler.bounds) - 1)
    exclude, real = _real_stories(part)
    rows = RetrievalRows(
        dataclasses.replace(part, lengths=tuple(min(length, data.length) for length in part.lengths)),
        PieceTokens(tokenizer),
        length=data.length,
        seed=seed,
        end_of_text=tokenizer.eos_token_id,
        filler=filler,
        real=real,
        exclude=exclude,
    )
    if not any((rows.row(k)[1] == Role.ANSWER).any() for k in range(_ROWS_TO_TRY)):
        raise DataError(
            f"no retrieval sample fits into rows of {data.length} tokens (data.length): give a greater length, or "
            "tasks with shorter stories."
        )
    return rows


def _real_stories(part: RetrievalPart) -> tuple[frozenset[str], dict]:
    """Hashes of held-out real stories, and the real ones that training may use, per task."""
    if part.babi_path is None:
        return frozenset(), {}
    path = part.babi_path
    tasks = [task for task, share in zip(TASKS, part.tasks, strict=True) if share]
    exclude = frozenset(story.hash for task in TASKS for story in heldout_babi_stories(path, task))
    real = {task: babi_stories_of_split(path, task, "lm_train") for task in tasks} if part.real else {}
    return exclude, {task: [s for s in stories if s.hash not in exclude] for task, stories in real.items()}
