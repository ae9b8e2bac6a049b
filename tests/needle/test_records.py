import json
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.needle.filler import Filler
from diffmamba_interp.needle.haystack import Haystack
from diffmamba_interp.needle.records import NeedleSample, ReadSample, load_samples, save_samples
from diffmamba_interp.needle.samples import make_needle_samples
from diffmamba_interp.needle.stories import Story
from diffmamba_interp.text.tokenizer import train_tokenizer


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


def test_prompts_and_what_was_said_about_them_come_back(
    tokenizer: PreTrainedTokenizerBase, filler: Filler, tmp_path: Path
) -> None:
    samples = [
        sample for length in (0, 300) for sample in make_needle_samples(tokenizer, n=3, length=length, filler=filler)
    ]
    save_samples(tmp_path / "samples", samples, {"recipe": {"n": [3]}})
    again, about = load_samples(tmp_path / "samples", tokenizer)
    assert about == {"recipe": {"n": [3]}}
    for one, other in zip(again, samples, strict=True):
        assert one.to_record() == other.to_record()
        # What records are joined by, which depends on the text too.
        assert ReadSample.of(one).id == ReadSample.of(other).id
        assert one.tokens.dtype == np.int32


def test_another_tokenizer_and_another_file_are_refused(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], tmp_path: Path
) -> None:
    save_samples(tmp_path / "samples", make_needle_samples(tokenizer, n=2, length=0))
    with pytest.raises(ValueError, match="does not give back the prompts"):
        load_samples(tmp_path / "samples", train_tokenizer([text.upper() for text in texts], 300))
    (tmp_path / "other").write_bytes(b"no such file")
    with pytest.raises(ValueError, match="is no file of prompts"):
        load_samples(tmp_path / "other", tokenizer)
