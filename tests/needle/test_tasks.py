import itertools
import re
from collections import Counter

import pytest

from diffmamba_interp.needle.stories import TASKS
from diffmamba_interp.needle.tasks import generate_stories, generate_story, iterate_stories
from diffmamba_interp.needle.vocabulary import BABI, OWN
from diffmamba_interp.text.documents import SPLITS

N_SUPPORTING = {"qa1": {1}, "qa2": {2}, "qa3": {3}, "qa4": {1}, "qa5": {1}}
DIRECTIONS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("vocabulary", ["babi", "own"])
def test_stories_have_the_facts_answers_and_labels_of_their_task(task: str, vocabulary: str) -> None:
    words = {"babi": BABI, "own": OWN}[vocabulary]
    for index in range(60):
        story = generate_story(task, seed=0, index=index, vocabulary=vocabulary)
        assert len(story.supporting) in N_SUPPORTING[task]
        assert len(story.labels) == (7 if task == "qa5" else 6)
        known = {*words.givers, *words.objects} if task == "qa5" else set(words.places)
        assert set(story.labels) <= known
        assert story.labels == tuple(sorted(story.labels))
        assert not any("{" in text for text in (*story.facts, story.question))
        assert all(fact[0].isupper() and fact.endswith(".") for fact in story.facts)
        assert story.question.endswith("?")


@pytest.mark.parametrize("task", TASKS)
def test_a_supporting_fact_or_an_earlier_one_names_the_answer(task: str) -> None:
    for index in range(60):
        story = generate_story(task, seed=1, index=index, vocabulary="mixed")
        supporting = " ".join(story.facts[i] for i in story.supporting)
        assert re.search(rf"\b{story.answer}\b", supporting)


@pytest.mark.parametrize("task", TASKS)
def test_bAbI_sentences_are_in_bAbI_forms(task: str) -> None:
    people = "(Mary|John|Sandra|Daniel|Bill|Fred|Jeff)"
    place = "(bathroom|bedroom|garden|hallway|kitchen|office)"
    thing = "(apple|football|milk)"
    forms = "|".join(
        [
            rf"{people} (moved|went|went back|journeyed|travelled) to the {place}\.",
            rf"{people} (got|took|grabbed|picked up|left|discarded|put down|dropped) the {thing}( there)?\.",
            rf"{people} (gave|passed|handed) the {thing} to {people}\.",
            rf"The {place} is (north|south|east|west) of the {place}\.",
            rf"Where is ({people}|the {thing})\?",
            rf"Where was the {thing} before the {place}\?",
            rf"What is (north|south|east|west) of the {place}\?",
            rf"What is the {place} (north|south|east|west) of\?",
            rf"What did {people} give to {people}\?",
            rf"Who gave the {thing}( to {people})?\?",
            rf"Who received the {thing}\?",
            rf"Who did {people} give the {thing} to\?",
        ]
    )
    for index in range(60):
        story = generate_story(task, seed=2, index=index)
        for sentence in (*story.facts, story.question):
            assert re.fullmatch(forms, sentence), sentence


def test_the_answer_to_where_a_person_is_was_told_last() -> None:
    for index in range(100):
        story = generate_story("qa1", seed=3, index=index)
        who = story.question.removeprefix("Where is ").removesuffix("?")
        told = [fact for fact in story.facts if fact.startswith(f"{who} ")]
        assert told[-1].endswith(f" {story.answer}.")


@pytest.mark.parametrize("n_facts", [(2, 2), (3, 5)])
def test_a_place_has_one_neighbour_in_the_direction_that_is_asked(n_facts: tuple[int, int]) -> None:
    for index in range(100):
        story = generate_story("qa4", seed=4, index=index, vocabulary="babi", n_facts=n_facts)
        facts = [re.fullmatch(r"The (\w+) is (\w+) of the (\w+)\.", fact).groups() for fact in story.facts]
        neighbours = [*facts, *((b, opposite(d), a) for a, d, b in facts)]
        if asked := re.fullmatch(r"What is (\w+) of the (\w+)\?", story.question):
            direction, place = asked.groups()
        else:
            place, direction = re.fullmatch(r"What is the (\w+) (\w+) of\?", story.question).groups()
            direction = opposite(direction)
        assert {a for a, d, b in neighbours if (d, b) == (direction, place)} == {story.answer}


def opposite(direction: str) -> str:
    right, up = DIRECTIONS[direction]
    return next(name for name, step in DIRECTIONS.items() if step == (-right, -up))


def test_a_story_depends_on_seed_and_index_alone() -> None:
    first = generate_story("qa2", seed=5, index=7)
    generate_story("qa2", seed=5, index=8)
    assert generate_story("qa2", seed=5, index=7) == first
    assert generate_story("qa2", seed=6, index=7) != first
    later = iterate_stories("qa2", seed=5, start=7)
    assert next(later) == first


def test_every_option_changes_the_stories() -> None:
    base = generate_stories("qa2", n=5)
    assert generate_stories("qa2", n=5) == base
    assert generate_stories("qa2", n=5, seed=1) != base
    assert generate_stories("qa2", n=5, vocabulary="own") != base
    assert all(len(story.facts) >= 20 for story in generate_stories("qa2", n=5, n_facts=(20, 25)))
    assert base[0] not in generate_stories("qa2", n=5, exclude={base[0].hash})


def test_mixed_vocabulary_takes_both() -> None:
    sources = {story.source for story in generate_stories("qa1", n=20, vocabulary="mixed")}
    assert sources == {"generated/babi", "generated/own"}


@pytest.mark.parametrize("split", SPLITS)
def test_stories_of_a_split_have_its_hash(split: str) -> None:
    assert {story.split for story in generate_stories("qa1", n=15, split=split)} == {split}


@pytest.mark.parametrize("task", TASKS)
def test_no_story_of_evaluation_occurs_in_training(task: str) -> None:
    n_facts = None if task == "qa4" else (2, 4)
    training = iterate_stories(task, seed=0, split="lm_train", n_facts=n_facts)
    hashes = {story.hash for story in itertools.islice(training, 200)}
    evaluation = generate_stories(task, n=15, seed=0, split="eval", n_facts=n_facts)
    assert len({story.hash for story in evaluation}) == 15
    assert hashes.isdisjoint(story.hash for story in evaluation)


def test_a_split_that_runs_dry_says_so() -> None:
    with pytest.raises(ValueError, match="gave no new story of split None"):
        generate_stories("qa1", n=10_000, n_facts=(1, 1))


def test_all_answers_are_about_equally_frequent() -> None:
    counts = Counter(generate_story("qa1", seed=0, index=index).answer for index in range(1_200))
    assert set(counts) == set(BABI.places)
    assert all(130 < count < 270 for count in counts.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "qa6"}, "qa1, qa2, qa3, qa4, qa5"),
        ({"task": "qa1", "vocabulary": "latin"}, "'babi', 'own' or 'mixed'"),
        ({"task": "qa1", "n_facts": (5, 2)}, "1 <= fewest <= most"),
        ({"task": "qa4", "n_facts": (2, 6)}, "at most 5 facts"),
    ],
)
def test_an_impossible_story_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate_story(seed=0, index=0, **arguments)
