"""Stories from real bAbI files (tasks 1-20 v1.2), and which of them may be used for evaluation.

A file holds numbered lines; a number of 1 starts a new story:

    1 Mary moved to the bathroom.
    2 Where is Mary?<TAB>bathroom<TAB>1

Every question becomes one `Story` with the facts up to it. `path` is the archive (.tar.gz, read in place,
never unpacked) or the folder that it unpacks to.
"""

from __future__ import annotations

import io
import json
import logging
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NoReturn, get_args

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.needle.stories import TASKS, Story, without_training_stories
from diffmamba_interp.needle.vocabulary import BABI
from diffmamba_interp.text.documents import Split, require_split

Edition = Literal["en", "en-10k", "en-valid", "en-valid-10k"]
Part = Literal["train", "valid", "test"]

LABELS = {
    **dict.fromkeys(("qa1", "qa2", "qa3", "qa4"), tuple(sorted(BABI.places))),
    "qa5": tuple(sorted((*BABI.givers, *BABI.objects))),
}

logger = logging.getLogger(__name__)

# <edition>/qa4_two-arg-relations_test.txt, or <edition>/qa4_test.txt in the -valid editions.
_FILE_NAME = re.compile(r"(?:^|/)(?P<edition>en[\w-]*)/(?P<task>qa\d+)_(?:.*_)?(?P<part>train|valid|test)\.txt$")
_LINE = re.compile(r"(?P<number>\d+) (?P<text>\S.*)")


@checked
def read_babi(path: str | Path, task: str, *, part: Part = "test", edition: Edition = "en-10k") -> list[Story]:
    """The stories of one file, one per question, in the file's order.

    Raises FileNotFoundError if `path` or that file is missing, ValueError (with file and line) if a line is
    not in the format.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}: it must be one of {', '.join(TASKS)}.")
    for choice, known in ((part, get_args(Part)), (edition, get_args(Edition))):
        if choice not in known:
            raise ValueError(f"{choice!r} is no part or edition of bAbI: give one of {', '.join(known)}.")
    wanted = (edition, task, part)
    texts = {key: text for key, text in _files(Path(path), only={wanted})}
    if wanted not in texts:
        there = sorted("/".join(key) for key in _names(Path(path)) if key[1] == task)
        raise FileNotFoundError(
            f"{path} holds no {part} file of {task} in edition {edition!r}. Of {task} it holds "
            f"{', '.join(there) or 'nothing'} (edition/task/part)."
        )
    return list(_parse(texts[wanted], task, "/".join(wanted)))


@checked
def read_babi_training(path: str | Path, task: str) -> list[Story]:
    """All different stories of the training and validation files of `task`, whatever the edition."""
    stories: dict[str, Story] = {}
    for (edition, _, part), text in _files(Path(path), only=_training_keys({task})):
        for story in _parse(text, task, f"{edition}/{task}/{part}"):
            stories.setdefault(story.hash, story)
    if not stories:
        raise FileNotFoundError(f"{path} holds no training file of {task}: is it the bAbI archive or folder?")
    return list(stories.values())


@checked
def babi_training_hashes(path: str | Path, tasks: Sequence[str] = TASKS) -> frozenset[str]:
    """Hashes of every story in the training and validation files of `tasks`, whatever the edition."""
    return frozenset(story.hash for task in tasks for story in read_babi_training(path, task))


@checked
def heldout_babi_stories(path: str | Path, task: str, *, edition: Edition = "en-10k") -> list[Story]:
    """The official test stories whose facts and question occur in no training file, in the file's order."""
    stories = read_babi(path, task, part="test", edition=edition)
    heldout = without_training_stories(stories, babi_training_hashes(path, [task]))
    logger.info("bAbI %s: %d of %d test stories occur in no training file", task, len(heldout), len(stories))
    return heldout


@checked
def babi_stories_of_split(path: str | Path, task: str, split: Split) -> list[Story]:
    """Real stories that `split` may use.

    "eval": the official test stories that no training file holds. "lm_train", "lens_train": those training
    stories whose hash falls into that split (a story in both kinds of file counts as training).
    """
    if require_split(split) == "eval":
        return heldout_babi_stories(path, task)
    return [story for story in read_babi_training(path, task) if story.split == split]


@checked
def read_babilong_indices(path: str | Path) -> dict[str, tuple[int, ...]]:
    """BABILong's choice of test samples: per task, 0-based indices into the stories of its en-10k test file.

    Raises ValueError if the file is not a JSON object of lists of whole numbers.
    """
    with Path(path).open(encoding="utf-8") as file:
        content = json.load(file)
    right = isinstance(content, dict) and all(
        isinstance(indices, list) and all(type(index) is int and index >= 0 for index in indices)
        for indices in content.values()
    )
    if not right:
        raise ValueError(f'{path} is no BABILong index: expected an object such as {{"qa1": [1, 4, 10]}}.')
    return {task: tuple(indices) for task, indices in content.items()}


Key = tuple[str, str, str]


def _training_keys(tasks: set[str]) -> set[Key]:
    return {(edition, task, part) for edition in get_args(Edition) for task in tasks for part in ("train", "valid")}


def _files(path: Path, only: set[Key]) -> Iterator[tuple[Key, str]]:
    """(edition, task, part) and text of the wanted files."""
    if path.is_dir():
        for file in sorted(path.rglob("qa*.txt")):
            key = _key(file.as_posix())
            if key in only:
                yield key, file.read_text(encoding="utf-8")
        return
    with _open_archive(path) as archive:
        for member in archive:
            key = _key(member.name)
            if key in only and (content := archive.extractfile(member)) is not None:
                with io.TextIOWrapper(content, encoding="utf-8") as text:
                    yield key, text.read()


def _names(path: Path) -> list[Key]:
    if path.is_dir():
        names = [file.as_posix() for file in path.rglob("qa*.txt")]
    else:
        with _open_archive(path) as archive:
            names = archive.getnames()
    return [key for name in names if (key := _key(name)) is not None]


def _key(name: str) -> Key | None:
    match = _FILE_NAME.search(name)
    return (match["edition"], match["task"], match["part"]) if match else None


def _open_archive(path: Path) -> tarfile.TarFile:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give the bAbI archive (.tar.gz) or its folder.")
    try:
        return tarfile.open(path)
    except tarfile.ReadError as error:
        raise ValueError(f"{path} is no tar archive: give the bAbI archive (.tar.gz) or its folder.") from error


def _parse(text: str, task: str, name: str) -> Iterator[Story]:
    facts: list[str] = []
    fact_of_number: dict[int, int] = {}
    for line_number, line in enumerate(text.splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            _refuse(name, line_number, f"expected '<number> <sentence>', found {line!r}")
        number, content = int(match["number"]), match["text"]
        if number == 1:
            facts, fact_of_number = [], {}
        if "\t" not in content:
            fact_of_number[number] = len(facts)
            facts.append(content.strip())
            continue
        columns = content.split("\t")
        if len(columns) != 3:
            _refuse(name, line_number, f"a question needs 3 columns, this one has {len(columns)}: {line!r}")
        question, answer, references = (column.strip() for column in columns)
        if answer not in LABELS[task]:
            _refuse(name, line_number, f"{answer!r} is no answer of {task}: known are {', '.join(LABELS[task])}")
        try:
            supporting = tuple(fact_of_number[int(reference)] for reference in references.split())
        except (KeyError, ValueError):
            _refuse(name, line_number, f"supporting facts {references!r} are no numbers of earlier facts")
        if not supporting:
            _refuse(name, line_number, "the question names no supporting fact")
        yield Story(
            task=task,
            facts=tuple(facts),
            question=question,
            answer=answer,
            labels=LABELS[task],
            supporting=supporting,
            source=f"babi/{name}",
        )


def _refuse(name: str, line_number: int, problem: str) -> NoReturn:
    raise ValueError(f"bAbI file {name}, line {line_number}: {problem}.")
