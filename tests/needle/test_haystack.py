import itertools
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.needle.filler import Filler, tokenise
from diffmamba_interp.needle.haystack import Haystack, StoryTooLongError, answer_text, format_prompt, prompt_tail
from diffmamba_interp.needle.records import NeedleSample, Span
from diffmamba_interp.needle.stories import TASKS, Story
from diffmamba_interp.needle.tasks import generate_story
from diffmamba_interp.text.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def haystack(tokenizer: PreTrainedTokenizerBase, filler: Filler) -> Haystack:
    return Haystack(tokenizer, filler)


def text_of(sample: NeedleSample, span: Span) -> str:
    return sample.prompt[span.char_start : span.char_end]


def all_spans(sample: NeedleSample) -> list[Span]:
    return [
        sample.context_span,
        sample.question_span,
        *sample.fact_spans,
        *sample.filler_spans,
        *(mention.span for mention in sample.mentions),
    ]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("depth", [None, 0.0, 0.5, 1.0])
def test_spliced_tokens_and_spans_are_those_of_the_final_prompt(
    haystack: Haystack, task: str, depth: float | None
) -> None:
    assert haystack.splices
    for index, length in itertools.product(range(3), (0, 1_500, 3_000)):
        story = generate_story(task, seed=7, index=index, n_facts=(2, 5), vocabulary="mixed")
        sample = haystack.hide(story, length=length, depth=depth)
        whole = tokenise(haystack.tokenizer, [sample.prompt])[0]
        np.testing.assert_array_equal(sample.tokens, whole.tokens)
        for span in all_spans(sample):
            overlap = [
                token
                for token, (start, end) in enumerate(zip(whole.starts, whole.ends, strict=True))
                if start < span.char_end and end > span.char_start
            ]
            assert (overlap[0], overlap[-1] + 1) == (span.token_start, span.token_end)


def test_without_splicing_the_samples_are_the_same(haystack: Haystack, filler: Filler, story: Story) -> None:
    whole = Haystack(haystack.tokenizer, filler)
    whole.splices = False
    for length in (0, 300, 900):
        spliced = haystack.hide(story, length=length).to_record()
        assert whole.hide(story, length=length).to_record() == spliced


def test_a_tokenizer_that_joins_words_gets_right_prompts_too(
    unsplit_tokenizer: PreTrainedTokenizerBase, texts: list[str], story: Story
) -> None:
    haystack = Haystack(unsplit_tokenizer, Filler.from_texts(unsplit_tokenizer, texts[1:]))
    assert not haystack.splices
    sample = haystack.hide(story, length=400)
    whole = tokenise(unsplit_tokenizer, [sample.prompt])[0]
    np.testing.assert_array_equal(sample.tokens, whole.tokens)
    assert 300 < sample.n_tokens <= 400
    assert [text_of(sample, span) for span in sample.fact_spans] == list(story.facts)


@pytest.mark.parametrize("length", [0, 200, 1_000, 2_500])
def test_spans_name_facts_question_context_and_filler(haystack: Haystack, story: Story, length: int) -> None:
    sample = haystack.hide(story, length=length)
    assert [text_of(sample, span) for span in sample.fact_spans] == list(story.facts)
    assert [text_of(sample, span) for span in sample.needle_spans] == [story.facts[2]]
    assert text_of(sample, sample.question_span) == story.question
    context = text_of(sample, sample.context_span)
    assert sample.prompt == format_prompt(context, story.question)
    parts = sorted((*sample.fact_spans, *sample.filler_spans), key=lambda span: span.char_start)
    assert " ".join(text_of(sample, span) for span in parts) == context
    assert bool(sample.filler_spans) == (length > 0)


@pytest.mark.parametrize("length", [300, 1_000, 4_000])
def test_a_prompt_is_never_longer_than_asked_and_hardly_shorter(haystack: Haystack, length: int) -> None:
    sizes = [haystack.hide(generate_story("qa1", seed=0, index=index), length=length).n_tokens for index in range(25)]
    assert max(sizes) <= length
    assert min(sizes) > length - 60
    assert np.median(sizes) > length - 12


def test_without_filler_the_context_is_the_facts(tokenizer: PreTrainedTokenizerBase, story: Story) -> None:
    sample = Haystack(tokenizer).hide(story, length=0)
    assert sample.prompt == format_prompt(" ".join(story.facts), story.question)
    assert sample.filler_spans == ()


def test_filler_is_cut_between_sentences_and_runs_on(haystack: Haystack, filler: Filler, story: Story) -> None:
    sample = haystack.hide(story, length=1_200)
    running = " " + " ".join(text_of(sample, span) for span in sample.filler_spans)
    assert running in filler.text
    start = filler.text.index(running)
    assert start in filler.sentence_chars
    assert start + len(running) in filler.sentence_chars


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_one_depth_puts_all_facts_together_at_that_share_of_the_filler(
    haystack: Haystack, story: Story, depth: float
) -> None:
    sample = haystack.hide(story, length=4_000, depth=depth)
    first, last = sample.fact_spans[0], sample.fact_spans[-1]
    before = first.token_start - sample.context_span.token_start
    after = sample.context_span.token_end - last.token_end
    assert before / (before + after) == pytest.approx(depth, abs=0.02)
    assert text_of(sample, replace(first, char_end=last.char_end)) == " ".join(story.facts)


def test_each_fact_can_have_its_own_depth(haystack: Haystack, story: Story) -> None:
    sample = haystack.hide(story, length=4_000, depth=(0.1, 0.5, 0.9))
    assert sample.fact_depths == pytest.approx((0.1, 0.5, 0.9), abs=0.03)


def test_random_positions_cover_the_whole_context(haystack: Haystack, story: Story) -> None:
    depths = [
        depth for seed in range(60) for depth in haystack.hide(story, length=1_500, depth=None, seed=seed).fact_depths
    ]
    assert min(depths) < 0.05
    assert max(depths) > 0.9
    assert np.mean(depths) == pytest.approx(0.5, abs=0.08)


def test_mentions_are_whole_words_of_the_context(tokenizer: PreTrainedTokenizerBase, story: Story) -> None:
    text = "The gardener saw the kitchen. Nobody knew the kitchens. An office stood in the garden. Rain fell."
    haystack = Haystack(tokenizer, Filler.from_texts(tokenizer, [text] * 20))
    sample = haystack.hide(story, length=400)
    context = text_of(sample, sample.context_span)
    for mention in sample.mentions:
        assert text_of(sample, mention.span) == mention.label
    n_filler = context.count(" the kitchen.")
    assert n_filler > 0
    labels = [mention.label for mention in sample.mentions]
    assert labels.count("kitchen") == n_filler
    assert labels.count("bathroom") == 1
    assert len(sample.answer_spans) == context.count("the garden.")
    assert len(sample.distractor_spans) + len(sample.answer_spans) == len(labels)


def test_labels_of_the_question_are_no_mentions(tokenizer: PreTrainedTokenizerBase) -> None:
    story = generate_story("qa4", seed=0, index=0)
    sample = Haystack(tokenizer).hide(story, length=0)
    assert any(label in story.question for label in story.labels)
    assert all(mention.span.char_end <= sample.context_span.char_end for mention in sample.mentions)


def test_answer_tokens_continue_the_prompt(haystack: Haystack, story: Story) -> None:
    sample = haystack.hide(story, length=300)
    whole = tokenise(haystack.tokenizer, [f"{sample.prompt} {story.answer}"])[0].tokens
    np.testing.assert_array_equal(whole, [*sample.tokens, *sample.answer_tokens])
    assert len(sample.answer_tokens) > 1
    assert [haystack.tokenizer.decode(ids) for ids in sample.label_tokens] == [f" {x}" for x in sample.labels]


def test_seed_length_and_depth_each_change_the_prompt(haystack: Haystack, story: Story) -> None:
    base = haystack.hide(story, length=800, seed=0)
    assert haystack.hide(story, length=800, seed=0).prompt == base.prompt
    for change in ({"seed": 1}, {"length": 900}, {"depth": 0.5}):
        assert haystack.hide(story, **{"length": 800, "seed": 0, **change}).prompt != base.prompt


def test_a_story_longer_than_the_prompt_is_refused(haystack: Haystack, story: Story) -> None:
    with pytest.raises(StoryTooLongError, match="more than length 20"):
        haystack.hide(story, length=20)


def test_a_story_that_just_fits_gets_no_filler(haystack: Haystack, story: Story) -> None:
    n_alone = haystack.hide(story, length=0).n_tokens
    sample = haystack.hide(story, length=n_alone)
    assert sample.n_tokens == n_alone
    assert sample.filler_spans == ()


def test_too_little_filler_is_reported(tokenizer: PreTrainedTokenizerBase, story: Story) -> None:
    haystack = Haystack(tokenizer, Filler.from_texts(tokenizer, "It rained. It snowed."))
    with pytest.raises(ValueError, match="give more text, or a smaller length"):
        haystack.hide(story, length=500)
    with pytest.raises(ValueError, match="needs filler"):
        Haystack(tokenizer).hide(story, length=500)


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (1.5, r"numbers in \[0, 1\]"),
        ((0.5, 0.1, 0.9), "never fall"),
        ((0.1, 0.2), "has 2 numbers, but the story has 3 facts"),
    ],
)
def test_a_wrong_depth_is_refused(haystack: Haystack, story: Story, depth: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        haystack.hide(story, length=500, depth=depth)


def test_a_negative_length_is_refused(haystack: Haystack, story: Story) -> None:
    with pytest.raises(ValueError, match="length is -1"):
        haystack.hide(story, length=-1)


@pytest.mark.parametrize("length", [0, 200])
def test_behind_a_beginning_of_text_token_every_span_is_one_further(
    story: Story, tokenizer: PreTrainedTokenizerBase, texts: list[str], filler: Filler, length: int
) -> None:
    beginning = train_tokenizer(texts, 400)
    beginning.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|pad|> $A", special_tokens=[("<|pad|>", 1)]
    )
    sample = Haystack(beginning, filler).hide(story, length=length and length + 1)
    plain = Haystack(tokenizer, filler).hide(story, length=length)
    never = Haystack(beginning, filler, bos="never").hide(story, length=length)
    assert never.tokens.tolist() == plain.tokens.tolist()
    assert Haystack(tokenizer, filler, bos="always").hide(story, length=0).tokens[0] == tokenizer.bos_token_id
    assert sample.tokens[0] == 1
    assert tokenizer.decode(sample.tokens[1:]) == sample.prompt
    assert sample.answer_tokens == plain.answer_tokens
    for span in (sample.context_span, sample.question_span, *sample.fact_spans, *sample.filler_spans):
        text = tokenizer.decode(sample.tokens[span.token_start : span.token_end])
        assert sample.prompt[span.char_start : span.char_end] in text
        assert span.token_start > 1
    assert sample.n_tokens <= (length + 1 if length else sample.n_tokens)
    if length == 0:
        assert sample.tokens[1:].tolist() == plain.tokens.tolist()
        shifted = [(span.token_start + 1, span.token_end + 1) for span in plain.fact_spans]
        assert [(span.token_start, span.token_end) for span in sample.fact_spans] == shifted


def test_the_prompt_has_the_papers_format() -> None:
    prompt = format_prompt("Mary went out. It rained.", "Where is Mary?")
    assert prompt == "<context>Mary went out. It rained.</context> Question: Where is Mary? Answer:"
    assert prompt.endswith(prompt_tail("Where is Mary?"))


def test_the_space_belongs_to_the_answer() -> None:
    assert answer_text("garden") == " garden"
