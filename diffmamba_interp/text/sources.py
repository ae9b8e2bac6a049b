"""Where text comes from: files, the hub, or nothing but this package and Python.

"texts/pile/*.jsonl.gz"    files (see `files`): a path, a folder or a pattern (see `locations`)
"owner/name"               a dataset on the hub, streamed through the `datasets` library
"generated"                text from a grammar and a seed: the same everywhere
"builtin"                  "generated" and the documentation inside the Python installation
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffmamba_interp.text.documents import DataError, Document, documents_sha256
from diffmamba_interp.text.files import document_of_row, read_rows
from diffmamba_interp.text.generated_text import generated_documents
from diffmamba_interp.text.locations import SUFFIXES, find_files
from diffmamba_interp.text.python_docs import python_documents

GENERATED = "generated"
BUILTIN = "builtin"
# The hub is asked once before anything is read of it: who does not answer by then is not waited for.
HUB_TIMEOUT_S = 20.0
# The `datasets` library would try 20 times, each for as long.
_HUB_ATTEMPTS = 2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """A description of text that can be read any number of times, always the same.

    Raises ValueError for a `max_documents` below 1, or an option of the hub for text that is not there.

    location: see the module. text_field: field or column that holds the text.
    hub_config, hub_split, hub_revision: which part of a hub dataset (its split: `None` for "train"), and which commit
        (`None`: the newest). hub_split also chooses among the splits of a saved DatasetDict, which are never joined.
    n_chars: how much text "generated" makes, in characters. seed: what it is made from.
    max_documents: stop after so many, at least 1; `None` for all.
    skip_empty: pass over rows whose text is null or missing, instead of refusing the source; the log says how many.
    max_unpacked_gb: how much a packed file may unpack to (see `files.read_rows`).
    """

    location: str
    text_field: str = "text"
    hub_config: str | None = None
    hub_split: str | None = None
    hub_revision: str | None = None
    n_chars: int = 2_000_000
    seed: int = 0
    max_documents: int | None = None
    skip_empty: bool = False
    max_unpacked_gb: float | None = None

    def __post_init__(self) -> None:
        if self.max_documents is not None and self.max_documents < 1:
            raise ValueError(f"max_documents is {self.max_documents}: it must be at least 1, or None for all.")
        # A split may be that of a folder, too.
        generated = ("hub_split",) if self.location in (GENERATED, BUILTIN) else ()
        for name in () if is_hub_id(self.location) else ("hub_config", "hub_revision", *generated):
            if getattr(self, name) is not None:
                raise DataError(
                    f"{name} is {getattr(self, name)!r}, but {self.location!r} is no dataset on the hub: leave {name} "
                    "out, or give the hub's owner/name."
                )

    @classmethod
    def of_recipe(cls, location: str, recipe: Any) -> TextSource:
        """The text at `location`, read as the recipe's fields of these names say; one that it does not have is left."""
        return cls(location=location, **{name: getattr(recipe, name) for name in _OPTIONS if hasattr(recipe, name)})

    def documents(self) -> Iterator[Document]:
        """The documents in a fixed order; the log says how many rows were passed over.

        Raises FileNotFoundError or DataError (with file and line) if the text cannot be read, DataError if
        there is none.
        """
        n_documents = n_skipped = 0
        for document in self._rows():
            if n_documents == self.max_documents:
                break
            if document is None:
                n_skipped += 1
                continue
            n_documents += 1
            yield document
        if n_skipped:
            kinds = "blank, null or missing" if self.skip_empty else "blank"
            logger.warning("%s: %d rows passed over, whose text is %s", self.location, n_skipped, kinds)
        if n_documents == 0:
            raise DataError(
                f"{self.location} holds no text: every document is missing or blank (field {self.text_field!r})."
            )

    def sha256(self) -> str:
        """What a result made with this text records.

        Over the bytes of the files and what was asked of them; over the texts of "generated" and "builtin"
        (the latter depends on the Python version); over the name and commit of a hub dataset.
        """
        if self.location in (GENERATED, BUILTIN):
            return documents_sha256(self.documents())
        total = hashlib.sha256(f"{self.text_field}\n{self.max_documents}\n".encode())
        if self.skip_empty:
            total.update(b"skip_empty\n")
        if is_hub_id(self.location):
            identity = (self.location, self.hub_config, self._hub_split, _hub_commit(self))
            total.update("\n".join(map(str, identity)).encode())
            return total.hexdigest()
        for path in self.files():
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()

    def files(self) -> list[Path]:
        """The files that are read, in order; none for text that is generated or on the hub."""
        if self.location in (GENERATED, BUILTIN) or is_hub_id(self.location):
            return []
        return find_files(self.location, split=self.hub_split)

    @property
    def _hub_split(self) -> str:
        return self.hub_split or "train"

    def _rows(self) -> Iterator[Document | None]:
        """All documents, and None for each row that is passed over."""
        if self.location in (GENERATED, BUILTIN):
            yield from self._generated()
            if self.location == BUILTIN:
                yield from python_documents()
        elif is_hub_id(self.location):
            yield from self._hub()
        else:
            options: dict[str, Any] = {"skip_empty": self.skip_empty, "max_unpacked_gb": self.max_unpacked_gb}
            unread: list[Path] = []
            files = find_files(self.location, split=self.hub_split, unread=unread)
            if unread:
                names = ", ".join(repr(path.name) for path in unread[:5]) + (", ..." if len(unread) > 5 else "")
                logger.warning("%s: %d files of other kinds are not read: %s", self.location, len(unread), names)
            for path in files:
                yield from read_rows(path, text_field=self.text_field, **options)

    def _generated(self) -> Iterator[Document]:
        for index, text in enumerate(generated_documents(n_chars=self.n_chars, seed=self.seed)):
            yield Document(text, f"generated, seed {self.seed}, document {index}")

    def _hub(self) -> Iterator[Document | None]:
        for number, row in enumerate(_hub_rows(self), start=1):
            where = f"{self.location}, row {number}"
            if self.text_field not in row and not self.skip_empty:
                raise DataError(
                    f"{where}: no field {self.text_field!r}; the fields are {', '.join(row)}: choose one "
                    "with text_field."
                )
            yield document_of_row(
                row.get(self.text_field), where, text_field=self.text_field, skip_empty=self.skip_empty
            )


# Of a recipe; its seed decides other things.
_OPTIONS = (
    *("text_field", "hub_config", "hub_split", "hub_revision"),
    *("max_documents", "skip_empty", "max_unpacked_gb"),
)


def is_hub_id(location: str) -> bool:
    """Is this `owner/name` of a hub dataset, rather than a path, a pattern or a name of ours?"""
    if location in (GENERATED, BUILTIN) or os.path.lexists(location):
        return False
    looks_like_path = location.startswith((".", "/", "~")) or any(sign in location for sign in "*?[\\")
    return location.count("/") == 1 and not looks_like_path and not location.lower().endswith(SUFFIXES)


def _hub_rows(source: TextSource) -> Iterator[dict[str, Any]]:
    """The rows of a hub dataset at one commit, the one that `sha256` records."""
    import datasets

    commit = _hub_commit(source)
    with _hub_errors(source):
        rows = iter(
            datasets.load_dataset(
                source.location, source.hub_config, split=source._hub_split, revision=commit, streaming=True
            )
        )
    while True:
        with _hub_errors(source):
            row = next(rows, None)
        if row is None:
            return
        yield row


def _hub_commit(source: TextSource) -> str | None:
    from huggingface_hub import HfApi

    with _hub_errors(source):
        info = HfApi().dataset_info(source.location, revision=source.hub_revision, timeout=HUB_TIMEOUT_S)
    return info.sha


@contextmanager
def _hub_errors(source: TextSource) -> Iterator[None]:
    """Whatever goes wrong between here and the hub as a DataError, and soon."""
    import datasets

    attempts = datasets.config.STREAMING_READ_MAX_RETRIES
    datasets.config.STREAMING_READ_MAX_RETRIES = min(attempts, _HUB_ATTEMPTS)
    try:
        yield
    except Exception as error:
        if not _is_foreseen(error):
            raise
        reason = str(error) or type(error).__name__
        advice = "There is no file or folder of that name here; check the name and the network."
        if "script" in reason.lower():
            advice = (
                "A dataset that needs a program of its own is not run; many have a copy without one: "
                "hub_revision refs/convert/parquet."
            )
        raise DataError(
            f"the hub dataset {source.location!r} (config {source.hub_config!r}, split {source._hub_split!r}) "
            f"cannot be read: {reason.rstrip('.')}. {advice}"
        ) from error
    finally:
        datasets.config.STREAMING_READ_MAX_RETRIES = attempts


def _is_foreseen(error: Exception) -> bool:
    """Of the library, the file system or the network. Which HTTP library is at work differs between versions."""
    names = {base.__name__ for base in type(error).__mro__}
    return isinstance(error, OSError | ValueError | RuntimeError) or bool(names & {"HTTPError", "ClientError"})
