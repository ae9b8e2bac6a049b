"""What the runs of a recipe read, in one file: training text, bAbI, held-out documents and prompts.

    tar.xz of   tokenizer/, <source>.npy (token streams), babi.tar, held_out.npy and .json, prompts.xz, made.json

Training text is of the split lm_train, in an order by hash, up to the recipe's tokens; held-out documents are of the
split eval, cut to their first characters, of a novel as many pieces spread over it. Prompts are held-out stories
without filler.
"""

from __future__ import annotations

import io
import itertools
import json
import lzma
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from diffmamba_interp.analysis.results import data_sha256
from diffmamba_interp.files.atomic import write_bytes, write_text
from diffmamba_interp.files.json_files import json_text, plain, read_json_object
from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle import TASKS, NeedleSample, Story, generate_stories
from diffmamba_interp.needle.babi import heldout_babi_stories
from diffmamba_interp.needle.haystack import Haystack
from diffmamba_interp.needle.records import save_samples
from diffmamba_interp.text import (
    Document,
    TextSource,
    documents_of_split,
    save_tokenizer,
    train_tokenizer,
    write_tokens,
)
from diffmamba_interp.text.documents import order_by_hash
from diffmamba_interp.text.generated_text import generated_documents
from diffmamba_interp.text.sources import GENERATED
from diffmamba_interp.text.stable_random import StableRandom
from diffmamba_interp.text.tokenizer import MIN_VOCAB_SIZE

BABI_ARCHIVE = "babi_tasks_v1-2.tar.gz"
MADE, BABI, HELD_OUT, PROMPTS, TOKENIZER = "made.json", "babi.tar", "held_out", "prompts.xz", "tokenizer"
# Two bytes a token, and a history of all of them.
_PACKING = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lp": 1, "lc": 3, "dict_size": 2**26}]
_GENERATED_CHARACTERS = 400_000


def prepare(recipe: Any, options: Any, path: Path) -> None:
    """Write the file. Raises ValueError for a source without held-out documents."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sources = {name: _documents(name, recipe, options) for name in recipe.sources}
        tokenizer = _tokenizer(recipe, sources)
        save_tokenizer(tokenizer, folder / TOKENIZER)
        for (name, documents), n_tokens in zip(sources.items(), recipe.n_tokens, strict=True):
            training = order_by_hash(documents_of_split(documents, "lm_train"), seed=recipe.seed)
            write_tokens(training, tokenizer, folder / f"{name}.npy", max_tokens=n_tokens)
        _write_held_out(folder, recipe, sources, tokenizer)
        archive = options.data / BABI_ARCHIVE
        uses_babi = recipe.retrieval > 0 and GENERATED not in recipe.sources
        if uses_babi:
            _copy_babi(archive, folder / BABI)
        if recipe.retrieval > 0:
            save_samples(folder / PROMPTS, _prompts(recipe, tokenizer, archive if uses_babi else None))
        read = {name: options.data / name for name in recipe.sources if name != GENERATED}
        sums = data_sha256(read | ({"babi": archive} if uses_babi else {}))
        write_text(folder / MADE, json_text({"made_for": made_for(recipe), "sums": sums}))
        write_bytes(path, _packed(folder))


def unpack(path: Path, folder: Path, recipe: Any) -> Path:
    """The files of a material in `folder`. Raises ValueError for one that is not whole, or of another recipe."""
    with _opened(path) as archive:
        archive.extractall(folder, filter="data")
    _require_made_for(recipe, read_json_object(folder / MADE), path)
    return folder


def made_for(recipe: Any) -> dict[str, Any]:
    """What of a recipe decides its material."""
    names = ("seed", "sources", "n_tokens", "bytes", "retrieval", "n_held_out", "held_out_chars", "n_prompts")
    return plain({name: getattr(recipe, name) for name in names})


def sums_of(path: Path, recipe: Any) -> dict[str, str]:
    """Sha256 of the data that a material was made of, by name. Raises ValueError as `unpack` does."""
    with _opened(path) as archive:
        member = archive.extractfile(MADE)
        assert member is not None
        made = json.loads(member.read())
    _require_made_for(recipe, made, path)
    return made["sums"]


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """A material's archive; what is not one, or is cut off, becomes a ValueError with the way out."""
    try:
        with tarfile.open(path, "r:xz") as archive:
            yield archive
    except (EOFError, KeyError, lzma.LZMAError, tarfile.TarError) as error:
        raise ValueError(
            f"{path} is no material of this question, or was cut off ({error}): copy it again, or write it with "
            "run.py --prepare-to."
        ) from error


def _require_made_for(recipe: Any, made: Mapping[str, Any], path: Path) -> None:
    if made["made_for"] != made_for(recipe):
        raise ValueError(f"{path} was made for {made['made_for']}, not for {made_for(recipe)}: prepare it again.")


def _documents(name: str, recipe: Any, options: Any) -> list[Document]:
    if name == GENERATED:
        texts = generated_documents(n_chars=_GENERATED_CHARACTERS, seed=recipe.seed)
        return [Document(text, f"{place}") for place, text in enumerate(texts)]
    return list(TextSource(location=str(options.data / name)).documents())


def _tokenizer(recipe: Any, sources: dict[str, list[Document]]) -> PreTrainedTokenizerFast:
    """The bundled one; or bytes, with the single merge that a tokenizer of ours has at the least."""
    if not recipe.bytes:
        return load_demo_tokenizer()
    first = next(documents_of_split(next(iter(sources.values())), "lm_train"))
    return train_tokenizer([first.text], MIN_VOCAB_SIZE + 1)


def _write_held_out(folder: Path, recipe: Any, sources: dict[str, list[Document]], tokenizer: Any) -> None:
    pieces: list[tuple[str, Document]] = []
    for (name, documents), n in zip(sources.items(), recipe.n_held_out, strict=True):
        held = order_by_hash(documents_of_split(documents, "eval"), seed=recipe.seed)
        if not held:
            raise ValueError(f"{name} holds no held-out document: give --data the folder above it, or more text.")
        pieces += [(name, piece) for piece in itertools.islice(_pieces(held, n, recipe.held_out_chars), n)]
    write_tokens([piece for _, piece in pieces], tokenizer, folder / f"{HELD_OUT}.npy")
    about = [{"source": name, "document": piece.hash[:12]} for name, piece in pieces]
    write_text(folder / f"{HELD_OUT}.json", json_text({"documents": about}))


def _pieces(documents: Sequence[Document], n: int, n_chars: int) -> Iterator[Document]:
    """The first characters of each document; where there are fewer documents than n, as many pieces of each, spread."""
    each = -(-n // len(documents))
    for document in documents:
        for place in range(each):
            start = place * len(document.text) // each
            yield Document(document.text[start : start + n_chars], f"{document.source}:{start}")


def _prompts(recipe: Any, tokenizer: Any, babi: Path | None) -> list[NeedleSample]:
    # Training rows have no beginning-of-text token, either.
    haystack = Haystack(tokenizer, None, bos="never")
    samples: list[NeedleSample] = []
    for task in TASKS:
        stories: list[Story]
        if babi is None:
            stories = generate_stories(task, n=recipe.n_prompts, split="eval", seed=recipe.seed)
        else:
            stories = StableRandom("ablations", recipe.seed, task).shuffled(heldout_babi_stories(babi, task))
        different = list({(story.facts, story.question): story for story in stories}.values())
        samples += [haystack.hide(story, length=0) for story in different[: recipe.n_prompts]]
    return samples


def _copy_babi(archive: Path, out: Path) -> None:
    """The files of the five tasks alone."""
    names = tuple(f"/{task}_" for task in TASKS)
    with tarfile.open(archive) as source, tarfile.open(out, "w") as target:
        for member in source:
            folder = member.name.split("/")[-2] if "/" in member.name else ""
            if folder.startswith("en") and any(name in member.name for name in names):
                target.addfile(member, source.extractfile(member))


def _packed(folder: Path) -> bytes:
    """The folder's files as a tar.xz; the same files give the same bytes."""
    packed = io.BytesIO()
    with (
        lzma.open(packed, "w", format=lzma.FORMAT_XZ, filters=_PACKING) as stream,
        tarfile.open(fileobj=stream, mode="w") as archive,
    ):
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(str(file.relative_to(folder)))
            entry.size = file.stat().st_size
            with file.open("rb") as content:
                archive.addfile(entry, content)
    return packed.getvalue()
