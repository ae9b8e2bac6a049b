import json

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.needle.filler import Filler
from diffmamba_interp.needle.haystack import Haystack
from diffmamba_interp.needle.records import NeedleSample
from diffmamba_interp.needle.stories import Story


@pytest.fixture
def sample(tokenizer: PreTrainedTokenizerBase, filler: Filler, story: Story) -> NeedleSample:
    return Haystack(tokenizer, filler).hide(story, length=600, depth=(0.1, 0.5, 0.5))


def test_a_sample_goes_to_json_and_back(sample: NeedleSample) -> None:
    record = json.loads(json.dumps(sample.to_record()))
    back = NeedleSample.from_record(record)
    np.testing.assert_array_equal(back.tokens, sample.tokens)
    for name in NeedleSample.__dataclass_fields__:
        assert name == "tokens" or getattr(back, name) == getattr(sample, name)


def test_a_record_with_a_missing_or_unknown_key_is_refused(sample: NeedleSample) -> None:
    record = sample.to_record()
    record["mood"] = record.pop("seed")
    with pytest.raises(ValueError, match=r"missing \['seed'\], unknown \['mood'\]"):
        NeedleSample.from_record(record)


def test_distractors_are_the_other_labels(sample: NeedleSample) -> None:
    assert set(sample.distractors) | {sample.answer} == set(sample.labels)
    assert sample.answer not in sample.distractors
