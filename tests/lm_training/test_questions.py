import dataclasses

import pytest

from diffmamba_interp.lm_training.questions import further_questions, vocabulary_of
from diffmamba_interp.needle.stories import TASKS, Story
from diffmamba_interp.needle.tasks import generate_story
from diffmamba_interp.text.stable_random import StableRandom

CASES = [(task, words) for task in TASKS for words in ("babi", "own")]


def stories(task: str, words: str, n: int = 15) -> list[Story]:
    n_facts = None if task == "qa4" else (3, 12)
    return [generate_story(task, seed=3, index=index, vocabulary=words, n_facts=n_facts) for index in range(n)]


def asked_anew(story: Story) -> dict[str, str]:
    """All questions that the facts answer, the story's own included, in any of its phrasings."""
    other = dataclasses.replace(story, question="Is this another question?")
    return dict(pair for seed in range(12) for pair in further_questions(other, StableRandom(seed)))


@pytest.mark.parametrize(("task", "words"), CASES)
def test_questions_read_off_the_facts_agree_with_the_storys_own_answer(task: str, words: str) -> None:
    for story in stories(task, words, 8):
        assert asked_anew(story)[story.question] == story.answer


@pytest.mark.parametrize(("task", "words"), CASES)
def test_further_questions_are_others_each_asked_once(task: str, words: str) -> None:
    found = [further_questions(story, StableRandom(0)) for story in stories(task, words)]
    assert any(found)
    for story, pairs in zip(stories(task, words), found, strict=True):
        questions = [question for question, _ in pairs]
        assert story.question not in questions
        assert len(set(questions)) == len(questions)
        assert all(answer in " ".join(story.facts) for _, answer in pairs)


@pytest.mark.parametrize(("task", "words"), CASES)
def test_the_words_of_a_story_are_recognised(task: str, words: str) -> None:
    assert {vocabulary_of(story).name for story in stories(task, words)} == {words}


def test_facts_in_neither_vocabulary_are_refused() -> None:
    story = Story(
        task="qa1", facts=("Mary flew away.",), question="Where is Mary?", answer="x", labels=("x",), supporting=(0,),
        source="test",
    )  # fmt: skip
    with pytest.raises(ValueError, match="Mary flew away.*in neither vocabulary"):
        further_questions(story, StableRandom(0))
