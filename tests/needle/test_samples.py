import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.needle.filler import Filler
from diffmamba_interp.needle.records import NeedleSample
from diffmamba_interp.needle.samples import make_needle_samples
from diffmamba_interp.needle.stories import TASKS, Story
from diffmamba_interp.needle.tasks import generate_stories
from diffmamba_interp.text.documents import split_of_hash

Archive = Callable[[dict[str, str]], Path]


def prompts(samples: list[NeedleSample]) -> list[str]:
    return [sample.prompt for sample in samples]


@pytest.mark.parametrize("task", TASKS)
def test_samples_come_with_nothing_but_a_tokenizer(tokenizer: PreTrainedTokenizerBase, task: str) -> None:
    samples = make_needle_samples(tokenizer, task=task, n=3, length=1_200, n_facts=(2, 4))
    assert [sample.task for sample in samples] == [task] * 3
    assert all(1_100 < sample.n_tokens <= 1_200 for sample in samples)
    assert all(split_of_hash(sample.story_hash) == "eval" for sample in samples)


def test_filler_may_be_text_texts_or_tokenised(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], filler: Filler
) -> None:
    made = [prompts(make_needle_samples(tokenizer, n=2, length=400, filler=f)) for f in (texts, filler)]
    assert made[0] == made[1]
    joined = "\n\n".join(texts)
    assert prompts(make_needle_samples(tokenizer, n=2, length=400, filler=joined)) == made[0]


def test_every_option_changes_the_samples(tokenizer: PreTrainedTokenizerBase, filler: Filler) -> None:
    base = {"n": 2, "length": 500, "filler": filler}
    first = prompts(make_needle_samples(tokenizer, **base))
    assert prompts(make_needle_samples(tokenizer, **base)) == first
    changes = [
        {"task": "qa4"},
        {"length": 600},
        {"depth": 0.5},
        {"split": "lens_train"},
        {"seed": 1},
        {"vocabulary": "own"},
        {"n_facts": (7, 7)},
        {"filler": None},
        {"exclude": {make_needle_samples(tokenizer, **base)[0].story_hash}},
    ]
    for change in changes:
        assert prompts(make_needle_samples(tokenizer, **{**base, **change})) != first


def test_every_length_tells_the_same_stories(tokenizer: PreTrainedTokenizerBase, filler: Filler) -> None:
    hashes = [
        [sample.story_hash for sample in make_needle_samples(tokenizer, n=4, length=length, filler=filler)]
        for length in (0, 500, 2_000)
    ]
    assert hashes[0] == hashes[1] == hashes[2]


def test_evaluation_repeats_no_story_and_training_hides_a_story_in_other_filler_each_time(
    tokenizer: PreTrainedTokenizerBase, filler: Filler
) -> None:
    options = {"task": "qa1", "n_facts": (1, 1), "length": 200, "filler": filler}
    held_out = make_needle_samples(tokenizer, n=3, split="eval", **options)
    assert len({sample.story_hash for sample in held_out}) == 3
    training = make_needle_samples(tokenizer, n=300, split="lm_train", **options)
    assert len({sample.story_hash for sample in training}) < 300
    # Two prompts may be equal by chance; without seeds of their own all those of a story would be.
    assert len({sample.prompt for sample in training}) > 290


def test_stories_that_do_not_fit_are_passed_over(tokenizer: PreTrainedTokenizerBase, filler: Filler) -> None:
    stories = [*generate_stories("qa3", n=2, n_facts=(90, 90)), *generate_stories("qa1", n=3)]
    samples = make_needle_samples(tokenizer, n=3, length=300, filler=filler, stories=stories)
    assert [sample.task for sample in samples] == ["qa1"] * 3
    with pytest.raises(ValueError, match="only 3 stories"):
        make_needle_samples(tokenizer, n=4, length=300, filler=filler, stories=stories)


@pytest.fixture
def archive(babi_archive: Archive, babi_text: Callable[[list[Story]], str]) -> Path:
    stories = generate_stories("qa4", n=40, seed=9)
    files = {
        "en-10k/qa4_x_test.txt": babi_text(stories[:20]),
        "en-10k/qa4_x_train.txt": babi_text(stories[15:]),
    }
    return babi_archive(files)


def test_real_stories_are_those_of_the_split(tokenizer: PreTrainedTokenizerBase, archive: Path) -> None:
    options = {"task": "qa4", "n": None, "length": 0, "stories": "babi", "babi_path": archive}
    held_out = make_needle_samples(tokenizer, **options)
    assert len(held_out) == 15
    assert all(sample.source == "babi/en-10k/qa4/test" for sample in held_out)
    training = make_needle_samples(tokenizer, split="lm_train", **options)
    assert {sample.source for sample in training} == {"babi/en-10k/qa4/train"}
    hashes = {sample.story_hash for sample in training}
    assert hashes.isdisjoint(sample.story_hash for sample in held_out)
    with pytest.raises(ValueError, match="n=None for all real ones"):
        make_needle_samples(tokenizer, **{**options, "n": 16})


def test_generated_training_stories_are_never_real_test_stories(
    tokenizer: PreTrainedTokenizerBase, archive: Path
) -> None:
    stories = generate_stories("qa4", n=15, seed=9)
    in_training = {story.hash for story in stories if story.split == "lm_train"}
    options = {"task": "qa4", "n": 40, "length": 0, "seed": 9, "split": "lm_train"}
    without_path = {sample.story_hash for sample in make_needle_samples(tokenizer, **options)}
    assert len(in_training & without_path) > 5
    with_path = make_needle_samples(tokenizer, babi_path=archive, **options)
    assert in_training.isdisjoint(sample.story_hash for sample in with_path)


def test_babilongs_choice_is_taken_in_its_order(
    tokenizer: PreTrainedTokenizerBase, archive: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"qa4": [7, 2, 17]}))
    options = {"task": "qa4", "n": None, "length": 0, "stories": "babi", "babi_path": archive}
    samples = make_needle_samples(tokenizer, babilong_index=index, **options)
    stories = generate_stories("qa4", n=20, seed=9)
    # Story 17 is in the training file too.
    assert [sample.story_hash for sample in samples] == [stories[7].hash, stories[2].hash]
    index.write_text(json.dumps({"qa4": [20]}))
    with pytest.raises(ValueError, match="names story 20 of qa4, but its test file has 20"):
        make_needle_samples(tokenizer, babilong_index=index, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stories": "wikipedia"}, "'generated', 'babi' or stories themselves"),
        ({"stories": "babi"}, "needs babi_path"),
        ({"n": None}, "generated stories never end"),
        ({"task": "qa9"}, "qa1, qa2, qa3, qa4, qa5"),
    ],
)
def test_impossible_wishes_are_refused(tokenizer: PreTrainedTokenizerBase, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_needle_samples(tokenizer, **{"n": 1, "length": 0, **options})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"length": 1.5}, TypeError, "length is 1.5"),
        ({"n_facts": (1000, 1000)}, ValueError, r"n_facts is \(1000, 1000\), and 1000 facts take about"),
        ({"n_facts": (10**9, 10**9)}, ValueError, "n_facts is"),
        ({"n_facts": (1, 2.5)}, TypeError, "n_facts holds 2.5"),
        ({"length": 10**9}, ValueError, "length is 1000000000: filler is generated"),
        ({"n": 1.5}, TypeError, "n is 1.5"),
        ({"depth": "middle"}, TypeError, "depth is 'middle'"),
    ],
)
def test_what_would_never_end_is_refused_at_once(
    tokenizer: PreTrainedTokenizerBase, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_needle_samples(tokenizer, **{"n": 1, **options})  # type: ignore[arg-type]
