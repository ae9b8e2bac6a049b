import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from diffmamba_interp.needle.babi import (
    babi_stories_of_split,
    babi_training_hashes,
    heldout_babi_stories,
    read_babi,
    read_babi_training,
    read_babilong_indices,
)
from diffmamba_interp.needle.stories import TASKS, Story, stories_in_training
from diffmamba_interp.needle.tasks import generate_stories

Archive = Callable[[dict[str, str]], Path]

TWO_QUESTIONS = """\
1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Daniel went back to the hallway.
5 Where is Daniel? \thallway\t4
1 John moved to the office.
2 Where is John? \toffice\t1
"""


def test_every_question_has_the_facts_up_to_it(babi_archive: Archive) -> None:
    path = babi_archive({"en-10k/qa1_single-supporting-fact_test.txt": TWO_QUESTIONS})
    first, second, third = read_babi(path, "qa1")
    assert first.facts == ("Mary moved to the bathroom.", "John went to the hallway.")
    assert second.facts == (*first.facts, "Daniel went back to the hallway.")
    assert third.facts == ("John moved to the office.",)
    assert (second.question, second.answer, second.supporting) == ("Where is Daniel?", "hallway", (2,))
    assert second.labels == ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
    assert second.source == "babi/en-10k/qa1/test"


def test_the_archive_and_its_folder_hold_the_same(babi_archive: Archive, tmp_path: Path) -> None:
    path = babi_archive({"en/qa1_x_train.txt": TWO_QUESTIONS, "en-valid/qa1_valid.txt": TWO_QUESTIONS})
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    for part, edition in (("train", "en"), ("valid", "en-valid")):
        from_archive = read_babi(path, "qa1", part=part, edition=edition)
        assert read_babi(tmp_path / "unpacked", "qa1", part=part, edition=edition) == from_archive


@pytest.mark.parametrize("task", TASKS)
def test_generated_stories_survive_the_format(
    task: str, babi_archive: Archive, babi_text: Callable[[list[Story]], str]
) -> None:
    stories = generate_stories(task, n=10)
    path = babi_archive({f"en-10k/{task}_x_test.txt": babi_text(stories)})
    for read, made in zip(read_babi(path, task), stories, strict=True):
        assert read.hash == made.hash
        assert (read.answer, read.labels, read.supporting) == (made.answer, made.labels, made.supporting)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Mary moved.", "expected '<number> <sentence>'"),
        ("4 Where is Mary?\tbathroom", "needs 3 columns, this one has 2"),
        ("4 Where is Mary?\tattic\t1", "'attic' is no answer of qa1"),
        ("4 Where is Mary?\tbathroom\t9", "supporting facts '9'"),
        ("4 Where is Mary?\tbathroom\t3", "supporting facts '3'"),
        ("4 Where is Mary?\tbathroom\t", "names no supporting fact"),
    ],
)
def test_a_bad_line_is_reported_with_file_and_line_number(babi_archive: Archive, line: str, message: str) -> None:
    text = "".join(TWO_QUESTIONS.splitlines(keepends=True)[:3]) + line + "\n"
    path = babi_archive({"en-10k/qa1_x_test.txt": text})
    with pytest.raises(ValueError, match=f"en-10k/qa1/test, line 4: .*{message}"):
        read_babi(path, "qa1")


def test_a_missing_file_is_reported_with_those_there_are(babi_archive: Archive) -> None:
    path = babi_archive({"en/qa3_x_train.txt": TWO_QUESTIONS})
    with pytest.raises(FileNotFoundError, match="edition 'en-10k'.*en/qa3/train"):
        read_babi(path, "qa3", part="train")
    with pytest.raises(FileNotFoundError, match="no training file of qa1"):
        read_babi_training(path, "qa1")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give the bAbI archive"):
        read_babi(tmp_path / "nothing.tar.gz", "qa1")
    text = tmp_path / "text.tar.gz"
    text.write_text("no archive")
    with pytest.raises(ValueError, match="no tar archive"):
        read_babi(text, "qa1")


def test_test_stories_that_training_holds_are_not_evaluated(
    babi_archive: Archive, babi_text: Callable[[list[Story]], str]
) -> None:
    stories = generate_stories("qa4", n=30)
    files = {
        "en-10k/qa4_x_test.txt": babi_text(stories[:20]),
        "en-10k/qa4_x_train.txt": babi_text(stories[15:25]),
        "en-valid-10k/qa4_valid.txt": babi_text(stories[12:14]),
    }
    path = babi_archive(files)
    training = babi_training_hashes(path, ["qa4"])
    assert len(training) == 12
    hashes = [story.hash for story in heldout_babi_stories(path, "qa4")]
    assert hashes == [story.hash for story in (*stories[:12], stories[14])]
    assert stories_in_training(heldout_babi_stories(path, "qa4"), training) == []
    assert [s.hash for s in babi_stories_of_split(path, "qa4", "eval")] == hashes


def test_training_stories_are_split_by_hash(babi_archive: Archive, babi_text: Callable[[list[Story]], str]) -> None:
    stories = generate_stories("qa1", n=60)
    path = babi_archive({"en-10k/qa1_x_train.txt": babi_text(stories)})
    for split in ("lm_train", "lens_train"):
        chosen = babi_stories_of_split(path, "qa1", split)
        assert {story.hash for story in chosen} == {s.hash for s in stories if s.split == split}
        assert chosen


def test_the_babilong_index_is_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "index.json"
    file.write_text('{"qa1": [1, 4], "qa2": [8]}')
    assert read_babilong_indices(file) == {"qa1": (1, 4), "qa2": (8,)}
    file.write_text('{"qa1": [1, "4"]}')
    with pytest.raises(ValueError, match="no BABILong index"):
        read_babilong_indices(file)


@pytest.mark.skipif("BABI_PATH" not in os.environ, reason="BABI_PATH does not name the bAbI archive")
def test_741_of_the_1000_real_qa4_test_stories_are_in_its_training_file() -> None:
    path = os.environ["BABI_PATH"]
    test = read_babi(path, "qa4", part="test", edition="en-10k")
    training = frozenset(story.hash for story in read_babi(path, "qa4", part="train", edition="en-10k"))
    assert len(test) == 1_000
    assert len(stories_in_training(test, training)) == 741
    for task in TASKS:
        heldout = heldout_babi_stories(path, task)
        assert stories_in_training(heldout, babi_training_hashes(path, [task])) == []
        assert len(heldout) >= 259
