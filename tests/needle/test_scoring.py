"""Label scores equal a full forward pass per label, whatever shares the batch; intervals are Wilson's."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.config import DifferentialConfig
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.needle.haystack import Haystack
from diffmamba_interp.needle.records import NeedleSample
from diffmamba_interp.needle.scoring import LabelScores, accuracy, score_labels, wilson_interval
from diffmamba_interp.needle.tasks import generate_stories
from tests.models.tiny import tiny_model


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerBase) -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,)), d_vocab=len(tokenizer))


@pytest.fixture(scope="module")
def samples(tokenizer: PreTrainedTokenizerBase) -> list[NeedleSample]:
    """Prompts of different lengths, from tasks with different numbers of labels."""
    haystack = Haystack(tokenizer)
    stories = [story for task in ("qa1", "qa5") for story in generate_stories(task, n=3, n_facts=(2, 6))]
    return [haystack.hide(story, length=0) for story in stories]


def brute_force(model: HookedMamba, sample: NeedleSample) -> list[float]:
    """log p of each label, from one forward pass over prompt and label."""
    found = []
    for label in sample.label_tokens:
        tokens = torch.tensor([[*sample.tokens.tolist(), *label]])
        with torch.no_grad():
            log_probs = model(tokens).log_softmax(-1)[0]
        n = sample.n_tokens
        found.append(sum(float(log_probs[n + k - 1, token]) for k, token in enumerate(label)))
    return found


def one_token_labels(sample: NeedleSample) -> NeedleSample:
    """The same prompt with labels cut to one token (and so, for the model, other words)."""
    tokens = tuple((300 + index,) for index in range(len(sample.labels)))
    return replace(sample, label_tokens=tokens, answer_tokens=tokens[sample.labels.index(sample.answer)])


def test_scores_of_several_tokens_equal_a_full_forward_per_label(
    model: HookedMamba, samples: list[NeedleSample]
) -> None:
    assert max(len(label) for sample in samples for label in sample.label_tokens) > 1
    for sample, scores in zip(samples, score_labels(model, samples), strict=True):
        assert scores.log_probs == pytest.approx(brute_force(model, sample), abs=1e-4)
        assert scores.n_label_tokens == tuple(map(len, sample.label_tokens))
        assert sample.labels[scores.answer] == sample.answer


def test_scores_of_one_token_equal_a_full_forward_per_label(model: HookedMamba, samples: list[NeedleSample]) -> None:
    short = [one_token_labels(sample) for sample in samples]
    for sample, scores in zip(short, score_labels(model, short), strict=True):
        assert scores.log_probs == pytest.approx(brute_force(model, sample), abs=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 150, 100_000])
def test_what_shares_the_batch_changes_nothing(
    model: HookedMamba, samples: list[NeedleSample], batch_tokens: int
) -> None:
    assert len({sample.n_tokens for sample in samples}) > 2
    alone = [score_labels(model, [sample], n_generated=3)[0] for sample in samples]
    together = score_labels(model, samples, batch_tokens=batch_tokens, n_generated=3)
    for one, other in zip(alone, together, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)
        assert one.generated == other.generated


def test_generation_continues_the_prompt_greedily(model: HookedMamba, samples: list[NeedleSample]) -> None:
    tokens = torch.from_numpy(samples[0].tokens).long()[None]
    expected = model.generate(tokens, 4)[0, tokens.shape[1] :].tolist()
    (scores,) = score_labels(model, samples[:1], n_generated=4)
    assert list(scores.generated) == expected
    assert score_labels(model, samples[:1])[0].generated == ()


def test_progress_counts_every_sample(model: HookedMamba, samples: list[NeedleSample]) -> None:
    seen: list[int] = []
    score_labels(model, samples, batch_tokens=150, on_progress=seen.append)
    assert len(seen) > 1
    assert sum(seen) == len(samples)


def test_no_samples_are_refused(model: HookedMamba) -> None:
    with pytest.raises(ValueError, match="no samples"):
        score_labels(model, [])


def test_prediction_probability_and_accuracy_follow_from_the_log_probabilities() -> None:
    right = LabelScores(log_probs=(math.log(0.2), math.log(0.6)), n_label_tokens=(1, 1), answer=1)
    wrong = replace(right, answer=0)
    assert (right.predicted, right.is_right, wrong.is_right) == (1, True, False)
    assert right.probability == pytest.approx(0.75)
    assert wrong.probability == pytest.approx(0.25)
    assert accuracy([right, right, wrong, right]) == 0.75


def test_scores_survive_the_way_to_a_record_and_back() -> None:
    scores = LabelScores(log_probs=(-1.5, -2.0), n_label_tokens=(1, 2), answer=1, generated=(4, 5))
    assert LabelScores.from_dict(scores.to_dict()) == scores


@pytest.mark.parametrize(
    ("n_right", "n", "low", "high"),
    [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (90, 100, 0.8256, 0.9448)],
)
def test_wilson_intervals_are_the_known_ones(n_right: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(n_right, n) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("n_right", "n"), [(3, 2), (-1, 2), (0, 0)])
def test_what_is_no_proportion_is_refused(n_right: int, n: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(n_right, n)
