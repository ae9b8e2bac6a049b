"""Prompts of the analyses are the same for everybody who asks, and a story keeps its place at every n."""

from dataclasses import replace
from pathlib import Path

import pytest

from diffmamba_interp.analysis.prompts import PromptRecipe, cell_prompts, data_of, each_once
from diffmamba_interp.text.documents import split_of_hash

RECIPE = PromptRecipe(stories="generated", lengths=(0, 256), n=(3, 2), seed=7)


def test_cells_come_task_by_task_with_the_asked_number_of_prompts() -> None:
    assert RECIPE.wanted[:4] == [("qa1", 0), ("qa1", 256), ("qa2", 0), ("qa2", 256)]
    assert len(RECIPE.wanted) == 10
    for task, length in RECIPE.wanted:
        samples = cell_prompts(RECIPE, Path(), task, length)
        assert len(samples) == {0: 3, 256: 2}[length]
        assert {(sample.task, sample.length, sample.seed) for sample in samples} == {(task, length, 7)}
        assert all(split_of_hash(sample.story_hash) == "eval" for sample in samples)
        assert all(sample.n_tokens <= length for sample in samples if length)


def test_more_prompts_begin_with_the_same_ones() -> None:
    few, many = (
        [
            sample.story_hash
            for length in RECIPE.lengths
            for sample in cell_prompts(replace(RECIPE, n=(n,)), Path(), "qa1", length)[:2]
        ]
        for n in (2, 4)
    )
    assert few == many


def test_n_is_given_for_each_length_or_once_for_all() -> None:
    assert replace(RECIPE, n=(5,)).n == (5, 5)
    assert replace(RECIPE, n=(5, 6)).n == (5, 6)
    with pytest.raises(ValueError, match="one for each of the lengths"):
        replace(RECIPE, n=(1, 2, 3))


def test_only_real_stories_name_data() -> None:
    assert data_of(RECIPE, Path("data")) == {}
    real = PromptRecipe(stories="babi", lengths=(0,), n=(1,), seed=7)
    assert set(data_of(real, Path("data"))) == {"babi_tasks_v1-2.tar.gz", "novels"}


def test_unknown_stories_are_refused() -> None:
    with pytest.raises(ValueError, match='"generated" or "babi"'):
        PromptRecipe(stories="bible", lengths=(0,), n=(1,), seed=7)


def test_a_prompt_that_comes_twice_is_kept_once_where_it_came_first() -> None:
    first, second, third = cell_prompts(RECIPE, Path(), "qa1", 0)
    again = replace(first, story_hash="0" * 64)
    assert each_once([first, second, again, third, second]) == [again, second, third]
    longer = replace(first, length=256)
    assert each_once([first, longer]) == [first, longer]
