import json
from dataclasses import replace

import pytest

from diffmamba_interp.needle.stories import Story, stories_in_training, without_training_stories
from diffmamba_interp.needle.tasks import generate_stories
from diffmamba_interp.text.documents import split_of_hash, story_hash


def test_a_story_goes_to_json_and_back(story: Story) -> None:
    assert Story.from_record(json.loads(json.dumps(story.to_record()))) == story


def test_a_record_that_was_changed_is_refused(story: Story) -> None:
    record = story.to_record()
    record["question"] = "Where is John?"
    with pytest.raises(ValueError, match="changed after it was written"):
        Story.from_record(record)


def test_the_hash_is_that_of_facts_and_question_alone(story: Story) -> None:
    assert story.hash == story_hash(story.facts, story.question)
    assert story.split == split_of_hash(story.hash)
    assert replace(story, source="elsewhere", answer="office").hash == story.hash
    assert replace(story, question="Where is John?").hash != story.hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "qa6"}, "task is 'qa6'"),
        ({"facts": ()}, "has no facts"),
        ({"answer": "attic"}, "exactly once among the labels"),
        ({"labels": ("garden", "garden")}, "exactly once among the labels"),
        ({"supporting": (3,)}, "0 to 2"),
        ({"supporting": ()}, "indices of facts"),
    ],
)
def test_a_story_that_makes_no_sense_is_refused(story: Story, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(story, **change)


def test_stories_of_training_are_told_from_the_others() -> None:
    stories = generate_stories("qa1", n=6)
    training = frozenset(story.hash for story in stories[:2])
    assert stories_in_training(stories, training) == stories[:2]
    assert without_training_stories(stories, training) == stories[2:]
