"""Rows are decoded again and compared with what they were made from."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.lm_training import retrieval_rows
from diffmamba_interp.lm_training.mixture import Role
from diffmamba_interp.lm_training.recipe import RetrievalPart
from diffmamba_interp.lm_training.retrieval_rows import RetrievalRows
from diffmamba_interp.lm_training.sample_tokens import FillerTokens, PieceTokens
from diffmamba_interp.needle.babi import babi_stories_of_split, heldout_babi_stories
from diffmamba_interp.needle.haystack import answer_text, format_prompt
from diffmamba_interp.needle.stories import TASKS
from diffmamba_interp.needle.tasks import generate_story
from diffmamba_interp.text import TokenStream, encode_texts
from diffmamba_interp.text.documents import split_of_hash, story_hash

LENGTH = 160
N_ROWS = 8


class Sample(NamedTuple):
    """One sample of a row, taken apart; its last token is end-of-text."""

    tokens: list[int]
    roles: list[int]
    text: str
    context: str
    pairs: list[tuple[str, str]]

    @property
    def facts(self) -> tuple[str, ...]:
        sentences = re.findall(r"[^.]+\.", self.context)
        return tuple(s.strip() for s in sentences if not s.strip().startswith("Filler"))

    @property
    def hashes(self) -> list[str]:
        return [story_hash(self.facts, question) for question, _ in self.pairs]


class Maker:
    """Makes rows with the tests' tokenizer, filler and archive."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, data: Path) -> None:
        self.tokenizer, self.data = tokenizer, data
        self.pieces = PieceTokens(tokenizer)
        self.filler = FillerTokens.from_streams(tokenizer, [TokenStream.load(data / "filler.npy")], None)

    def rows(self, *, length: int = LENGTH, seed: int = 0, exclude: frozenset[str] = frozenset(), **part: Any) -> Any:
        real = {task: babi_stories_of_split(self.data / "babi.tar", task, "lm_train") for task in TASKS}
        return RetrievalRows(
            RetrievalPart(weight=1.0, filler=("filler.npy",), babi_path="babi.tar", **part),
            self.pieces,
            length=length,
            seed=seed,
            end_of_text=self.tokenizer.eos_token_id,
            filler=self.filler,
            real=real,
            exclude=exclude,
        )

    def samples(self, rows: Any, n: int = N_ROWS) -> list[Sample]:
        return [sample for k in range(n) for sample in self.taken_apart(*rows.row(k))]

    def taken_apart(self, tokens: np.ndarray, roles: np.ndarray) -> Iterator[Sample]:
        used = int((roles != Role.PAD).sum())
        assert (roles[used:] == Role.PAD).all()
        assert (tokens[used:] == self.tokenizer.eos_token_id).all()
        start = 0
        for end in np.flatnonzero(tokens[:used] == self.tokenizer.eos_token_id).tolist():
            ids = tokens[start:end].tolist()
            text = self.tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)
            match = re.fullmatch(r"<context>(.*)</context>((?: Question: [^?]*\? Answer: \w+)+)", text)
            assert match is not None, text
            pairs = re.findall(r" Question: ([^?]*\?) Answer: (\w+)", match[2])
            yield Sample(ids, roles[start:end].tolist(), text, match[1], pairs)
            start = end + 1
        assert start == used


@pytest.fixture(scope="module")
def maker(tokenizer: PreTrainedTokenizerBase, data: Path) -> Maker:
    return Maker(tokenizer, data)


BARE = {"short": 0.7, "max_questions": 4}
HIDDEN = BARE | {"lengths": (LENGTH,), "length_weights": (1.0,), "short": 1.0}
KINDS = {
    "bare": BARE,
    "hidden": HIDDEN,
    "real": BARE | {"babi_words": 0.0, "own_words": 0.0, "real": 1.0},
    "two hidden in a row": HIDDEN | {"lengths": (LENGTH // 2,)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_sample_begins_with_the_evaluations_prompt_and_answer(maker: Maker, kind: str) -> None:
    samples = maker.samples(maker.rows(**KINDS[kind]))
    assert samples
    for sample in samples:
        question, answer = sample.pairs[0]
        assert sample.text.startswith(format_prompt(sample.context, question) + answer_text(answer))


@pytest.mark.parametrize("kind", KINDS)
def test_spliced_tokens_are_those_of_the_whole_text(maker: Maker, kind: str) -> None:
    samples = maker.samples(maker.rows(**KINDS[kind]))
    whole = encode_texts(maker.tokenizer, [sample.text for sample in samples])
    assert [sample.tokens for sample in samples] == list(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_nothing_else_have_the_role_of_answers(maker: Maker, kind: str) -> None:
    for sample in maker.samples(maker.rows(**KINDS[kind])):
        answers = [token for token, role in zip(sample.tokens, sample.roles, strict=True) if role == Role.ANSWER]
        expected = "".join(answer_text(answer) for _, answer in sample.pairs)
        assert maker.tokenizer.backend_tokenizer.decode(answers) == expected
        assert set(sample.roles) == {Role.CONTEXT, Role.ANSWER}


@pytest.mark.parametrize("kind", ["bare", "hidden", "two hidden in a row"])
def test_the_facts_of_a_context_are_those_of_one_story_in_its_order(
    maker: Maker, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, str] = {}

    def recorded(task: str, **options: Any) -> Any:
        story = generate_story(task, **options)
        told[story.hash] = story.answer
        return story

    monkeypatch.setattr(retrieval_rows, "generate_story", recorded)
    for sample in maker.samples(maker.rows(**KINDS[kind])):
        assert told[sample.hashes[0]] == sample.pairs[0][1]


@pytest.mark.parametrize("kind", ["hidden", "two hidden in a row"])
def test_hidden_samples_come_close_to_their_length_and_never_exceed_it(maker: Maker, kind: str) -> None:
    rows = maker.rows(**KINDS[kind])
    length = rows.part.lengths[0]
    longest_sentence = 14
    firsts = [next(iter(maker.taken_apart(*rows.row(k)))) for k in range(N_ROWS)]
    for sample in firsts:
        assert length - 2 * longest_sentence <= len(sample.tokens) + 1 <= length
    assert sum("Filler" in sample.context for sample in firsts) > N_ROWS / 2


def test_filler_between_facts_is_one_stretch_of_consecutive_sentences(maker: Maker) -> None:
    everything = maker.pieces.text(maker.filler.tokens.tolist())
    for sample in maker.samples(maker.rows(**HIDDEN)):
        filler = [s.strip() for s in re.findall(r"[^.]+\.", sample.context) if s.strip().startswith("Filler")]
        assert " ".join(filler) in everything


def test_facts_lie_before_between_and_after_filler(maker: Maker) -> None:
    contexts = [sample.context for sample in maker.samples(maker.rows(**HIDDEN), 30) if "Filler" in sample.context]
    starts = {context.startswith("Filler") for context in contexts}
    ends = {context.split(". ")[-1].startswith("Filler") for context in contexts}
    assert starts == ends == {True, False}


@pytest.mark.parametrize("kind", KINDS)
def test_every_question_of_a_row_belongs_to_the_training_split(maker: Maker, kind: str) -> None:
    hashes = [digest for sample in maker.samples(maker.rows(**KINDS[kind])) for digest in sample.hashes]
    assert {split_of_hash(digest) for digest in hashes} == {"lm_train"}
    assert max(len(sample.pairs) for sample in maker.samples(maker.rows(**KINDS[kind]))) > 1


@pytest.mark.parametrize("kind", ["bare", "hidden"])
def test_no_excluded_story_is_asked_about_be_it_first_or_further(maker: Maker, kind: str) -> None:
    free = [digest for sample in maker.samples(maker.rows(**KINDS[kind])) for digest in sample.hashes]
    excluded = frozenset(free[::2])
    strict = maker.samples(maker.rows(exclude=excluded, **KINDS[kind]))
    assert excluded.isdisjoint(digest for sample in strict for digest in sample.hashes)


def test_real_stories_are_training_stories_and_never_held_out_ones(maker: Maker) -> None:
    path = maker.data / "babi.tar"
    training = {story.hash for task in TASKS for story in babi_stories_of_split(path, task, "lm_train")}
    held_out = {story.hash for task in TASKS for story in heldout_babi_stories(path, task)}
    samples = maker.samples(maker.rows(**KINDS["real"]))
    assert {sample.hashes[0] for sample in samples} <= training
    assert held_out.isdisjoint(digest for sample in samples for digest in sample.hashes)


def test_rows_are_a_function_of_seed_and_number(maker: Maker) -> None:
    rows = maker.rows(**HIDDEN)
    forwards = [rows.row(k)[0].tolist() for k in range(6)]
    assert [maker.rows(**HIDDEN).row(k)[0].tolist() for k in reversed(range(6))] == forwards[::-1]
    other = maker.rows(seed=1, **HIDDEN)
    assert all(other.row(k)[0].tolist() != row for k, row in enumerate(forwards))


def test_rows_have_one_token_more_than_their_length(maker: Maker) -> None:
    tokens, roles = maker.rows(**BARE).row(0)
    assert tokens.shape == roles.shape == (LENGTH + 1,)
    assert (tokens.dtype, roles.dtype) == (np.uint32, np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": (1.0, 0.0, 0.0, 0.0, 0.0)},
        {"own_words": 0.0},
        {"babi_words": 0.0},
        {"real": 3.0},
        {"short": 0.0},
        {"max_questions": 1},
        {"lengths": (LENGTH // 2,)},
        {"lengths": (LENGTH, 0), "length_weights": (1.0, 1.0)},
    ],
    ids=str,
)
def test_each_option_changes_the_rows(maker: Maker, change: dict[str, Any]) -> None:
    usual, changed = maker.rows(**HIDDEN), maker.rows(**HIDDEN | change)
    assert any(usual.row(k)[0].tolist() != changed.row(k)[0].tolist() for k in range(6))


def test_a_task_without_a_share_is_never_asked(maker: Maker) -> None:
    samples = maker.samples(maker.rows(**BARE | {"tasks": (0.0, 0.0, 0.0, 1.0, 0.0), "own_words": 0.0}))
    assert samples
    assert all(re.match(r"The \w+ is \w+ of the \w+\.", sample.facts[0]) for sample in samples)


def test_questions_after_one_context_stay_within_their_number(maker: Maker) -> None:
    assert {len(sample.pairs) for sample in maker.samples(maker.rows(**BARE | {"max_questions": 2}))} == {1, 2}
