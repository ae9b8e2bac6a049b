"""Where text comes from: files, the hub, or nothing but this package and Python.

"texts/pile/*.jsonl.gz"    files (see `files`): a path, a folder or a pattern
"owner/name"               a dataset on the hub, streamed through the `datasets` library
"generated"                text from a grammar and a seed: the same everywhere
"builtin"                  "generated" and the documentation inside the Python installation
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffmamba_interp.data.documents import DataError, Document, documents_sha256
from diffmamba_interp.data.files import SUFFIXES, find_files, read_file, without_lone_surrogates
from diffmamba_interp.data.python_docs import python_documents
from diffmamba_interp.generated_text import generated_documents

GENERATED = "generated"
BUILTIN = "builtin"


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """A description of text that can be read any number of times, always the same.

    location: see the module. text_field: field or column that holds the text.
    hub_config, hub_split, hub_revision: which part of a hub dataset, and which commit (`None`: the newest).
    n_chars: how much text "generated" makes, in characters. seed: what it is made from.
    max_documents: stop after so many; `None` for all.
    """

    location: str
    text_field: str = "text"
    hub_config: str | None = None
    hub_split: str = "train"
    hub_revision: str | None = None
    n_chars: int = 2_000_000
    seed: int = 0
    max_documents: int | None = None

    def documents(self) -> Iterator[Document]:
        """The documents in a fixed order.

        Raises FileNotFoundError or DataError (with file and line) if the text cannot be read, DataError if
        there is none.
        """
        n_documents = 0
        for document in self._all_documents():
            if n_documents == self.max_documents:
                return
            n_documents += 1
            yield document
        if n_documents == 0:
            raise DataError(f"{self.location} holds no text: every document is missing or blank.")

    def sha256(self) -> str:
        """What a result made with this text records.

        Over the bytes of the files and what was asked of them; over the texts of "generated" and "builtin"
        (the latter depends on the Python version); over the name and commit of a hub dataset.
        """
        if self.location in (GENERATED, BUILTIN):
            return documents_sha256(self.documents())
        total = hashlib.sha256(f"{self.text_field}\n{self.max_documents}\n".encode())
        if is_hub_id(self.location):
            total.update("\n".join(map(str, self._hub_identity())).encode())
            return total.hexdigest()
        for path in find_files(self.location):
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()

    def _all_documents(self) -> Iterable[Document]:
        if self.location in (GENERATED, BUILTIN):
            yield from self._generated()
            if self.location == BUILTIN:
                yield from python_documents()
        elif is_hub_id(self.location):
            yield from self._hub()
        else:
            for path in find_files(self.location):
                yield from read_file(path, text_field=self.text_field)

    def _generated(self) -> Iterator[Document]:
        for index, text in enumerate(generated_documents(n_chars=self.n_chars, seed=self.seed)):
            yield Document(text, f"generated, seed {self.seed}, document {index}")

    def _hub(self) -> Iterator[Document]:
        for number, row in enumerate(_stream(self), start=1):
            where = f"{self.location}, row {number}"
            text = row.get(self.text_field)
            if not isinstance(text, str):
                raise DataError(
                    f"{where}: no text in field {self.text_field!r}; the fields are {', '.join(row)}: give "
                    "the right text_field."
                )
            if text.strip():
                yield Document(without_lone_surrogates(text), where)

    def _hub_identity(self) -> tuple[str | None, ...]:
        from huggingface_hub import HfApi

        commit = HfApi().dataset_info(self.location, revision=self.hub_revision).sha
        return self.location, self.hub_config, self.hub_split, commit


def is_hub_id(location: str) -> bool:
    """Is this `owner/name` of a hub dataset, rather than a path, a pattern or a name of ours?"""
    if location in (GENERATED, BUILTIN) or Path(location).exists():
        return False
    looks_like_path = location.startswith((".", "/", "~")) or any(sign in location for sign in "*?[\\")
    return location.count("/") == 1 and not looks_like_path and not location.lower().endswith(SUFFIXES)


def _stream(source: TextSource) -> Iterable[dict[str, Any]]:
    import datasets

    try:
        return datasets.load_dataset(
            source.location,
            source.hub_config,
            split=source.hub_split,
            revision=source.hub_revision,
            streaming=True,
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"the hub dataset {source.location!r} (config {source.hub_config!r}, split {source.hub_split!r}) "
            f"cannot be opened: {error}. Check its name and the network, or give a local file."
        ) from error
