"""A swapped needle is the same story with two labels exchanged: as long, in the same places, with the other answer."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle import NeedleSample, make_needle_samples, swapped_needles
from diffmamba_interp.needle.swaps import PLACES
from diffmamba_interp.needle.tasks import generate_story
from diffmamba_interp.needle.world import Event, find_person
from diffmamba_interp.text.tokenizer import wrap_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return load_demo_tokenizer()


def samples_of(tokenizer: PreTrainedTokenizerFast, task: str, n: int = 8, length: int = 0) -> list[NeedleSample]:
    return make_needle_samples(tokenizer, task=task, n=n, length=length, seed=3)


@pytest.mark.parametrize(("task", "length"), [("qa1", 0), ("qa2", 256), ("qa3", 0), ("qa4", 0), ("qa5", 256)])
def test_both_prompts_hold_one_story_with_two_labels_exchanged(
    tokenizer: PreTrainedTokenizerFast, task: str, length: int
) -> None:
    pairs = swapped_needles(tokenizer, samples_of(tokenizer, task, length=length))
    assert len(pairs) >= 6
    for pair in pairs:
        clean, corrupted = pair.clean, pair.corrupted
        assert clean.n_tokens == corrupted.n_tokens
        assert clean.answer != corrupted.answer
        assert corrupted.answer in clean.labels
        assert clean.answer[:1].isupper() == corrupted.answer[:1].isupper()
        exchanged = {clean.answer: corrupted.answer, corrupted.answer: clean.answer}
        facts = [[s.prompt[f.char_start : f.char_end] for f in s.fact_spans] for s in (clean, corrupted)]
        for fact, swapped in zip(*facts, strict=True):
            words = [exchanged.get(word.strip("."), word.strip(".")) for word in fact.split()]
            assert words == [word.strip(".") for word in swapped.split()]
        assert corrupted.question == clean.question
        assert corrupted.answer_tokens == clean.label_tokens[clean.labels.index(corrupted.answer)]
        assert tokenizer.decode(corrupted.tokens.tolist()) == corrupted.prompt
        for mention in corrupted.mentions:
            assert corrupted.prompt[mention.span.char_start : mention.span.char_end] == mention.label
        assert corrupted.prompt[corrupted.question_span.char_start :].startswith(corrupted.question)
        assert corrupted.story_hash != clean.story_hash


def test_the_swapped_story_s_answer_follows_from_its_facts(tokenizer: PreTrainedTokenizerFast) -> None:
    for pair in swapped_needles(tokenizer, samples_of(tokenizer, "qa1")):
        sample = pair.corrupted
        facts = [sample.prompt[f.char_start : f.char_end] for f in sample.fact_spans]
        events = [Event("move", fact.split()[0], place=fact.rstrip(".").split()[-1]) for fact in facts]
        found = find_person(events, sample.question.rstrip("?").split()[-1])
        assert found == (sample.answer, sample.supporting)


def test_every_position_has_one_place_and_the_labels_alone_differ(tokenizer: PreTrainedTokenizerFast) -> None:
    for pair in swapped_needles(tokenizer, samples_of(tokenizer, "qa2", length=256)):
        places = pair.places
        assert tuple(places) == PLACES
        assert sorted(place for of_class in places.values() for place in of_class) == list(range(pair.clean.n_tokens))
        assert places["end"][-1] == pair.clean.n_tokens - 1
        assert set(places["needle label"]) <= set(pair.differs_at)
        assert set(pair.differs_at) <= {*places["needle label"], *places["other facts"], *places["rest of the needle"]}
        words = {tokenizer.decode([int(pair.clean.tokens[at])]).strip() for at in places["needle label"]}
        assert words == {pair.clean.answer}


def test_a_seed_gives_one_choice_and_mentioned_labels_come_first(tokenizer: PreTrainedTokenizerFast) -> None:
    samples = samples_of(tokenizer, "qa1", n=12)

    def others(seed: int) -> list[str]:
        return [pair.corrupted.answer for pair in swapped_needles(tokenizer, samples, seed=seed)]

    assert others(0) == others(0)
    assert len({tuple(others(seed)) for seed in range(4)}) > 1
    for sample, other in zip(samples, others(0), strict=True):
        mentioned = {mention.label for mention in sample.mentions} - {sample.answer}
        assert not mentioned or other in mentioned


def test_filler_keeps_its_words(tokenizer: PreTrainedTokenizerFast) -> None:
    story = generate_story("qa1", seed=1, index=0)
    filler = "A kitchen, a garden, an office and a bedroom are not a hallway or a bathroom. " * 40
    (sample,) = make_needle_samples(tokenizer, task="qa1", n=1, length=256, filler=filler, stories=[story])
    (pair,) = swapped_needles(tokenizer, [sample])
    texts = [[s.prompt[f.char_start : f.char_end] for f in s.filler_spans] for s in (pair.clean, pair.corrupted)]
    assert texts[0] == texts[1]
    assert len(pair.clean.mentions) > len(story.facts)


def test_a_sample_without_another_label_of_its_length_is_left_out_or_refused(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = wrap_tokenizer(backend)
    samples = make_needle_samples(letters, task="qa1", n=12, length=0, seed=1)
    pairs = swapped_needles(letters, samples)
    assert {sample.answer for sample in samples} - {pair.clean.answer for pair in pairs} == {"bathroom"}
    assert all(len(pair.clean.answer) == len(pair.corrupted.answer) for pair in pairs)
    with pytest.raises(ValueError, match="none of 1 samples has another label of as many tokens"):
        swapped_needles(letters, [next(sample for sample in samples if sample.answer == "bathroom")])
    with pytest.raises(ValueError, match="samples were made with another tokenizer"):
        swapped_needles(tokenizer, samples)
