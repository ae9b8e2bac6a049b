"""Rows of the accuracy grid go to a file and back, and its cells can be counted again from them."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.needle import make_needle_samples
from diffmamba_interp.needle.accuracy_grid import (
    Cell,
    PromptRow,
    grid_rows,
    prompt_rows,
    read_rows,
    summarise,
    write_rows,
)
from diffmamba_interp.needle.filler import Filler
from diffmamba_interp.needle.haystack import Haystack
from diffmamba_interp.needle.samples import hide_stories
from diffmamba_interp.needle.scoring import LabelScores, wilson_interval
from diffmamba_interp.needle.stories import Story
from diffmamba_interp.needle.tasks import generate_stories

LABELS = ("garden", "kitchen", "office", "school")


def row(model: str, index: int, *, right: bool, length: int = 0) -> PromptRow:
    return PromptRow(
        model=model,
        task="qa1",
        length=length,
        index=index,
        story=f"{index:016x}",
        n_tokens=40,
        n_mentioned=2,
        answer="kitchen",
        labels=LABELS,
        predicted="kitchen" if right else "office",
        generated="kitchen" if right else "tree",
        log_probs=(-3.0, -1.0 if right else -4.0, -2.0, -5.25),
    )


@pytest.fixture
def rows() -> list[PromptRow]:
    first = [row("a", index, right=index < 3) for index in range(10)]
    return first + [row("b", index, right=index < 8) for index in range(10)]


def test_a_cell_counts_right_answers_of_both_models(rows: list[PromptRow]) -> None:
    (cell,) = summarise(rows, ("a", "b"))
    assert (cell.n, cell.chance, cell.chance_mentioned) == (10, 0.25, 0.5)
    assert [model.accuracy for model in cell.models] == [0.3, 0.8]
    assert [model.generated for model in cell.models] == [0.3, 0.8]
    assert (cell.models[1].low, cell.models[1].high) == wilson_interval(8, 10)
    assert cell.difference is not None
    assert cell.difference.value == pytest.approx(0.5)


def test_every_task_and_length_has_a_cell_in_order(rows: list[PromptRow]) -> None:
    longer = [row(model, 0, right=True, length=1024) for model in ("a", "b")]
    assert [(c.length, c.n) for c in summarise([*longer, *rows], ("a", "b"))] == [(0, 10), (1024, 1)]


def test_one_model_has_no_difference(rows: list[PromptRow]) -> None:
    (cell,) = summarise(rows[:10], ("a",))
    assert cell.difference is None
    assert Cell.from_dict(cell.to_dict()) == cell


def test_models_with_other_stories_are_not_compared(rows: list[PromptRow]) -> None:
    with pytest.raises(ValueError, match="same stories"):
        summarise(rows[:-1], ("a", "b"))


def test_cells_survive_the_way_to_json_and_back(rows: list[PromptRow]) -> None:
    (cell,) = summarise(rows, ("a", "b"))
    assert Cell.from_dict(cell.to_dict()) == cell


def test_rows_survive_the_way_to_a_file_and_back_in_the_same_bytes(rows: list[PromptRow], tmp_path: Path) -> None:
    write_rows(tmp_path / "one.csv.xz", rows)
    write_rows(tmp_path / "other.csv.xz", rows)
    assert read_rows(tmp_path / "one.csv.xz") == rows
    assert (tmp_path / "one.csv.xz").read_bytes() == (tmp_path / "other.csv.xz").read_bytes()


def test_a_file_without_log_probabilities_still_says_who_was_right(rows: list[PromptRow], tmp_path: Path) -> None:
    bare = [replace(row, log_probs=()) for row in rows]
    write_rows(tmp_path / "bare.csv.xz", bare)
    again = read_rows(tmp_path / "bare.csv.xz")
    assert again == bare
    assert summarise(again, ("a", "b")) == summarise(rows, ("a", "b"))


def test_a_prompt_that_one_model_did_not_answer_is_not_written(rows: list[PromptRow], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not by all of a, b"):
        write_rows(tmp_path / "rows.csv.xz", rows[:-1])
    assert not list(tmp_path.iterdir())


def test_rows_name_the_first_generated_word_and_the_labels_that_facts_mention(
    tokenizer: PreTrainedTokenizerBase, story: Story
) -> None:
    sample = Haystack(tokenizer).hide(story, length=0)
    generated = tuple(tokenizer(" garden. And", add_special_tokens=False)["input_ids"])
    scores = LabelScores(log_probs=(-1.0,) * 6, n_label_tokens=(1,) * 6, answer=2, generated=generated)
    (found,) = prompt_rows("a", [sample], [scores], tokenizer)
    assert (found.generated, found.generates_answer) == ("garden", True)
    assert (found.predicted, found.log_probs) == (story.labels[0], (-1.0,) * 6)
    (bare,) = prompt_rows("a", [sample], [scores], tokenizer, keep_log_probs=False)
    assert bare == replace(found, log_probs=())
    assert found.n_mentioned == 3
    assert story.hash.startswith(found.story)


def test_stories_too_long_for_the_length_are_passed_over(tokenizer: PreTrainedTokenizerBase, filler: Filler) -> None:
    haystack = Haystack(tokenizer, filler)
    stories = generate_stories("qa2", n=12)
    sizes = sorted(haystack.hide(story, length=0).n_tokens for story in stories)
    found = hide_stories(haystack, stories, n=12, length=sizes[6], seed=0)
    assert 0 < len(found) < 12
    assert all(sample.n_tokens <= sizes[6] for sample in found)
    assert len(hide_stories(haystack, stories, n=3, length=0, seed=0)) == 3


def test_a_grid_asks_every_model_the_same_prompts_cell_by_cell(tokenizer: PreTrainedTokenizerBase) -> None:
    asked: list[tuple[str, list[str]]] = []
    told: list[list[PromptRow]] = []

    def score(model: str, samples) -> list[LabelScores]:
        asked.append((model, [sample.story_hash for sample in samples]))
        # "right" finds every answer, "first" always the first label.
        answers = [sample.labels.index(sample.answer) if model == "right" else 0 for sample in samples]
        return [
            LabelScores(
                log_probs=tuple(-1.0 if place == answer else -2.0 for place in range(len(sample.labels))),
                n_label_tokens=(1,) * len(sample.labels),
                answer=sample.labels.index(sample.answer),
            )
            for sample, answer in zip(samples, answers, strict=True)
        ]

    cells, models = [("qa1", 0), ("qa4", 0)], {"a": "right", "b": "first"}
    rows = grid_rows(models, tokenizer, cells, n=4, seed=3, score=score, on_cell=told.append)
    assert [model for model, _ in asked] == ["right", "first"] * 2
    assert asked[0][1] == asked[1][1] != asked[2][1]
    assert [row for of_cell in told for row in of_cell] == rows
    assert [{(row.task, row.length) for row in of_cell} for of_cell in told] == [{cell} for cell in cells]
    assert [cell.models[0].accuracy for cell in summarise(rows, ("a", "b"))] == [1.0, 1.0]


def test_a_rows_prompt_is_found_again_by_its_index(tokenizer: PreTrainedTokenizerBase) -> None:
    def score(_: None, samples) -> list[LabelScores]:
        n = len(samples[0].labels)
        return [LabelScores(log_probs=(-1.0,) * n, n_label_tokens=(1,) * n, answer=0) for _ in samples]

    rows = grid_rows({"a": None}, tokenizer, [("qa2", 0)], n=3, seed=7, score=score)
    samples = make_needle_samples(tokenizer, task="qa2", n=3, length=0, seed=7)
    assert [(row.index, row.story) for row in rows] == [(i, s.story_hash[:16]) for i, s in enumerate(samples)]


def test_a_cell_that_no_story_fits_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="fit a length of 8 tokens"):
        grid_rows({"a": None}, tokenizer, [("qa1", 8)], n=2, seed=0)
