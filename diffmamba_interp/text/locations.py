"""Which files a location names: a file, a folder or a pattern, in a fixed order, no text twice.

A path that exists is itself, whatever signs are in it; only what does not exist is a pattern (`*`, `?`, `[...]`, and
`**` for any depth), part by part, so `e[v1]/*.txt` looks into the folder `e[v1]` where there is one.

Of a folder, everything below it of known kind is read, except

    hidden names (`.git`, `._a.txt`, `__MACOSX`), and of tables those with an underscore (`_metadata.parquet`)
    what a manifest does not list: a dataset or DatasetDict that `datasets` saved, its cache, the hub's cache
    a second name of the same file (links)

Where a manifest or the names have several splits, one must be named: they are never joined. Names that differ in the
name of a split alone (`train.jsonl` and `test.jsonl`, `wiki.train.txt` and `wiki.valid.txt`, `train/` and
`val.jsonl.zst`) are splits; `crash-test.txt` and `train-journey.txt` are not. The files of a Delta, Iceberg or Hudi
table are refused, since its log says which of them are still valid.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from diffmamba_interp.files.json_files import read_json_object
from diffmamba_interp.files.paths import expand_home
from diffmamba_interp.text.documents import DataError

TEXT_SUFFIXES = (".txt", ".txt.gz", ".txt.zst")
JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
TABLE_SUFFIXES = (".parquet", ".arrow")
SUFFIXES = (*JSON_SUFFIXES, *TEXT_SUFFIXES, *TABLE_SUFFIXES)

logger = logging.getLogger(__name__)

DATASET_DICT_FILE = "dataset_dict.json"
DATASET_FILE = "state.json"
DATASET_INFO_FILE = "dataset_info.json"
# What stands in a folder whose data files are valid only as far as a log says.
_TABLE_LOGS = {"_delta_log": "Delta", ".hoodie": "Hudi", "metadata/version-hint.text": "Iceberg"}
_SPLIT_NAMES = ("train", "training", "test", "testing", "eval", "validation", "valid", "val", "dev")
# How the hub and others end the names of a split's parts: train-00000-of-00002.parquet
_SHARD = re.compile(r"[-_](?P<index>\d+)[-_]of[-_](?P<count>\d+)(-[0-9a-f]+)?$")


def find_files(location: str | Path, *, split: str | None = None, unread: list[Path] | None = None) -> list[Path]:
    """The files that a location names (see the module), sorted; `~` is the home folder.

    split: which one, where a folder holds several ("train", "test").
    unread: takes the files of other kinds in the folder, which nobody hid and no manifest leaves out.
    Raises FileNotFoundError if there are none; DataError if a split must be named, there is none of that name, a
    manifest lists what is not there, or a folder may not be looked into.
    """
    if not str(location):
        raise DataError("the location of the text is empty: give a file, a folder or a pattern.")
    if "://" in str(location):
        raise DataError(f"{location} is an address, of which nothing is fetched: give files, or owner/name on the hub.")
    path = expand_home(location)
    search = _Search(split)
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(set(search.below(path)))
        if unread is not None:
            unread.extend(search.unread)
    elif os.path.lexists(path):
        kind = "a link to nothing" if not path.exists() else "neither a file nor a folder"
        raise FileNotFoundError(f"{location} is {kind}: give a file, which can be read more than once, or a folder.")
    else:
        anchor = Path(path.anchor)
        matches = _matching(anchor, path.parts[1:] if path.anchor else path.parts)
        files = sorted({file for file in matches if file.is_file()})
    if not files:
        raise FileNotFoundError(
            f"{location} names no file: give a file, a folder that holds some, or a pattern such as "
            f"'texts/*.jsonl.gz'. Known kinds: {', '.join(SUFFIXES)}."
        )
    if split is not None and not search.chose_split:
        raise DataError(f"{location} has no splits that are told apart, so there is no {split!r}: leave hub_split out.")
    return _without_second_names(files)


def kind_of_file(path: Path) -> str | None:
    """By which of the known endings a file is read; None for a file of no known kind."""
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


class _Search:
    """A walk through folders, which enters each once, so that links in a circle end."""

    def __init__(self, split: str | None) -> None:
        self.split = split
        self.chose_split = False
        self.unread: list[Path] = []
        self._seen: set[tuple[int, int]] = set()

    def below(self, folder: Path) -> Iterator[Path]:
        """The data files of a folder and the folders in it."""
        status = folder.stat()
        if (status.st_dev, status.st_ino) in self._seen:
            return
        self._seen.add((status.st_dev, status.st_ino))
        for log, kind in _TABLE_LOGS.items():
            if (folder / log).exists():
                raise DataError(
                    f"{folder} is a {kind} table, whose log says which of its files are valid: write its rows into a "
                    "Parquet file, or name single files."
                )
        listed = self._listed_by_manifest(folder)
        if listed is not None:
            yield from listed
            return
        children = _children(folder)
        data = [child for child in children if _is_data(child.name)]
        for child in data:
            if not child.exists():
                raise DataError(f"{child} is a link to nothing: fetch the file that is meant, or remove the link.")
        self.unread += [c for c in children if not _is_hidden(c.name) and kind_of_file(c) is None and c.is_file()]
        folders = [child for child in children if not _is_hidden(child.name) and child.is_dir()]
        chosen = self._of_split(folder, [*(child for child in data if child.is_file()), *folders])
        _warn_of_missing_parts(folder, chosen)
        for child in chosen:
            if child.is_dir():
                yield from self.below(child)
            else:
                yield child

    def _listed_by_manifest(self, folder: Path) -> list[Path] | None:
        """The files that a manifest in the folder lists; None if there is no manifest."""
        if (folder / DATASET_DICT_FILE).is_file():
            splits = read_json_object(folder / DATASET_DICT_FILE).get("splits")
            if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
                raise DataError(f"{folder / DATASET_DICT_FILE} lists no splits: save the dataset again.")
            chosen = folder / self._choose(folder, splits)
            return _saved_files(chosen, read_json_object(chosen / DATASET_FILE))
        if (folder / DATASET_FILE).is_file():
            state = read_json_object(folder / DATASET_FILE)
            # Others write a state.json, too.
            return _saved_files(folder, state) if "_data_files" in state else None
        if (folder / DATASET_INFO_FILE).is_file():
            splits = read_json_object(folder / DATASET_INFO_FILE).get("splits")
            arrow = [child for child in _children(folder) if child.suffix == ".arrow" and child.is_file()]
            if arrow and isinstance(splits, dict) and splits:
                return _cached_files(folder, arrow, self._choose(folder, splits))
        if all((folder / name).is_dir() for name in ("blobs", "snapshots")):
            return list(self.below(_hub_snapshot(folder)))
        return None

    def _of_split(self, folder: Path, children: Sequence[Path]) -> list[Path]:
        """All files and folders, or those of one split where the names are those of several."""
        names = {child: parts for child in children if (parts := _split_and_rest(child))}
        splits = sorted({split for split, _ in names.values()})
        rests = [{split for split, rest in names.values() if rest == common} for _, common in names.values()]
        are_several = any(len(splits_of_rest) > 1 for splits_of_rest in rests)
        if not are_several and (self.split is None or not any(rest == "" for _, rest in names.values())):
            return list(children)
        chosen = self._choose(folder, splits)
        return [child for child, (split, _) in names.items() if split == chosen]

    def _choose(self, folder: Path, splits: Iterable[str]) -> str:
        """The split that was asked for, or the only one."""
        names = list(splits)
        if self.split is not None and self.split in names:
            self.chose_split = True
            return self.split
        listed = ", ".join(names) or "none"
        if self.split is not None:
            raise DataError(f"{folder} has no split {self.split!r}; its splits: {listed}. Choose with hub_split.")
        if len(names) != 1:
            raise DataError(
                f"{folder} holds several splits ({listed}), which are not joined: choose one with hub_split, or name "
                "its folder or files."
            )
        return names[0]


def _split_and_rest(path: Path) -> tuple[str, str] | None:
    """The split that a name speaks of, and what else it says without numbers of parts; None if it names none."""
    stem = _SHARD.sub("", _stem(path))
    words = [word for word in re.split(r"[-_. ]", stem.lower()) if not word.isdigit()]
    split = next((word for word in words if word in _SPLIT_NAMES), None)
    if split is None:
        return None
    words.remove(split)
    return split, " ".join(words)


def _stem(path: Path) -> str:
    return path.name.lower().removesuffix(kind_of_file(path) or "")


def _warn_of_missing_parts(folder: Path, children: Iterable[Path]) -> None:
    """Say in the log where names count parts (00000-of-00002) of which some are not there."""
    parts: dict[tuple[str, int], set[int]] = {}
    for child in children:
        if match := _SHARD.search(_stem(child)):
            key = (_stem(child)[: match.start()], int(match["count"]))
            parts.setdefault(key, set()).add(int(match["index"]))
    for (name, count), there in parts.items():
        if len(there) < count:
            logger.warning("%s holds %d of the %d parts of %s: only these are read", folder, len(there), count, name)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__")) or name == "_temporary"


def _is_data(name: str) -> bool:
    kind = kind_of_file(Path(name))
    # Spark and its like keep notes beside their Parquet files under names with an underscore.
    is_note = name.startswith("_") and kind in TABLE_SUFFIXES
    return kind is not None and not _is_hidden(name) and not is_note


def _saved_files(folder: Path, state: dict) -> list[Path]:
    """The files of a dataset that `Dataset.save_to_disk` wrote."""
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise DataError(
            f"{folder} was saved with a selection of rows beside it: save it again after flatten_indices()."
        )
    try:
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder / DATASET_FILE} does not list the dataset's files: save it again.") from error
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{folder / DATASET_FILE} lists {', '.join(missing)}, which is missing: copy the folder whole.")
    return files


def _cached_files(folder: Path, arrow: Sequence[Path], split: str) -> list[Path]:
    """The files of one split in a folder of the `datasets` cache, without results of `map` (cache-*.arrow)."""
    pattern = re.compile(rf"(?!cache-).*-{re.escape(split)}(-\d{{5}}-of-\d{{5}})?\.arrow")
    files = [file for file in arrow if pattern.fullmatch(file.name)]
    if not files:
        raise DataError(f"{folder} holds no file of the split {split!r} that its {DATASET_INFO_FILE} names.")
    return files


def _hub_snapshot(folder: Path) -> Path:
    """The newest snapshot in a folder of the hub's cache (blobs, refs, snapshots)."""
    main = folder / "refs" / "main"
    snapshots = sorted(child for child in (folder / "snapshots").iterdir() if child.is_dir())
    if main.is_file():
        named = folder / "snapshots" / main.read_text(encoding="utf-8").strip()
        if named in snapshots:
            return named
    if len(snapshots) != 1:
        names = ", ".join(child.name for child in snapshots) or "none"
        raise DataError(f"{folder} is a cache of the hub with several snapshots or none ({names}): name one of them.")
    return snapshots[0]


def _matching(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """What the parts of a pattern name below `folder`. A part that exists is literal."""
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _matching(folder, rest)
        for child in _children(folder):
            if child.is_dir() and not child.is_symlink() and not _is_hidden(child.name):
                yield from _matching(child, parts)
    elif os.path.lexists(folder / part):
        yield from _matching(folder / part, rest)
    else:
        for child in _children(folder):
            if fnmatch.fnmatch(child.name, part) and (not _is_hidden(child.name) or part[0] in "._"):
                yield from _matching(child, rest)


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir()) if folder.is_dir() else []
    except PermissionError as error:
        raise DataError(f"{folder} may not be looked into ({error.strerror}): change its rights.") from error


def _without_second_names(files: Sequence[Path]) -> list[Path]:
    """The files without links to one that is there already."""
    first: dict[tuple[int, int], Path] = {}
    for file in files:
        status = file.stat()
        first.setdefault((status.st_dev, status.st_ino), file)
    return list(first.values())
