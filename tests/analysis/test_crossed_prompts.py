"""Crossed prompts: every story in several texts, each text as often, and nothing but the filler differs."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffmamba_interp.analysis.crossed_prompts import CrossedRecipe, crossed, crossed_prompts_of, write_crossed_prompts
from diffmamba_interp.analysis.prompts import AllocationOptions, stories_of
from diffmamba_interp.analysis.question import Asked
from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle import Filler, Haystack, NeedleSample
from diffmamba_interp.needle.tasks import generate_stories

RECIPE = CrossedRecipe(stories="generated", lengths=(256,), n=(3,), seed=7, fillers=2, texts=3)
TEXTS = {
    "rain": "It rained on the old roofs of the town. Nobody came. ",
    "sea": "The grey sea lay quiet that day. Gulls cried far away. ",
    "wood": "Tall trees stood about the pond. A deer drank from it. ",
}


@pytest.fixture(scope="module")
def haystacks() -> dict[str, Haystack]:
    tokenizer = load_demo_tokenizer()
    return {name: Haystack(tokenizer, Filler.from_texts(tokenizer, text * 60)) for name, text in TEXTS.items()}


@pytest.fixture(scope="module")
def cell(haystacks: dict[str, Haystack]) -> list[tuple[str, NeedleSample]]:
    stories = stories_of("qa1", RECIPE, Path())
    return crossed(haystacks, stories, n=6, length=256, fillers=2, seed=7)


def test_every_story_is_hidden_in_its_texts_and_every_text_serves_as_often(
    cell: list[tuple[str, NeedleSample]],
) -> None:
    assert Counter(name for name, _ in cell) == dict.fromkeys(TEXTS, 4)
    by_story: dict[str, list[str]] = {}
    for name, sample in cell:
        by_story.setdefault(sample.story_hash, []).append(name)
        assert TEXTS[name].split(".")[0] in sample.prompt
    assert list(by_story.values()) == [["rain", "sea"], ["wood", "rain"], ["sea", "wood"]] * 2


def test_facts_keep_their_depth_from_text_to_text(cell: list[tuple[str, NeedleSample]]) -> None:
    for (_, first), (_, second) in zip(cell[::2], cell[1::2], strict=True):
        assert (first.question, first.answer, first.supporting) == (second.question, second.answer, second.supporting)
        # A boundary of sentences is near every place, so depths agree to about a sentence.
        np.testing.assert_allclose(first.fact_depths, second.fact_depths, atol=0.1)


def test_stories_that_are_too_long_are_passed_over_in_all_texts(haystacks: dict[str, Haystack]) -> None:
    stories = generate_stories("qa2", n=12, seed=7, split="eval", vocabulary="mixed")
    alone = [Haystack(load_demo_tokenizer()).hide(story, length=0).n_tokens for story in stories]
    limit = int(np.median(alone)) + 1
    kept = crossed(haystacks, stories, n=12, length=limit, fillers=3, seed=7)
    fitting = [story.hash for story, n_tokens in zip(stories, alone, strict=True) if n_tokens <= limit]
    assert 0 < len(fitting) < len(stories)
    assert list(dict.fromkeys(sample.story_hash for _, sample in kept)) == fitting
    assert set(Counter(sample.story_hash for _, sample in kept).values()) == {3}
    assert all(sample.n_tokens <= limit for _, sample in kept)


def test_prompts_and_their_texts_come_back_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, haystacks: dict[str, Haystack]
) -> None:
    def texts(recipe: CrossedRecipe, data: Path) -> dict[str, str]:
        return {name: text * 60 for name, text in TEXTS.items()}

    monkeypatch.setattr("diffmamba_interp.analysis.crossed_prompts.texts_of", texts)
    monkeypatch.setattr("diffmamba_interp.analysis.prompts.TASKS", ("qa1",))
    options = AllocationOptions(device="cpu")
    write_crossed_prompts(RECIPE, options, tmp_path / "asked")
    asked = Asked(recipe=RECIPE, options=options, material=tmp_path / "asked")
    samples, names = crossed_prompts_of(asked, "qa1", 256)
    expected = crossed(haystacks, stories_of("qa1", RECIPE, Path()), n=3, length=256, fillers=2, seed=7)
    assert names == [name for name, _ in expected]
    assert [sample.prompt for sample in samples] == [sample.prompt for _, sample in expected]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"fillers": 1}, "two texts"), ({"fillers": 4}, "no more than"), ({"lengths": (0,)}, "no filler to compare")],
)
def test_recipes_without_a_comparison_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **changes)
