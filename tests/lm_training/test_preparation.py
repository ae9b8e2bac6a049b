import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from diffmamba_interp import HookedMamba, HookedMambaConfig, convert_to_differential
from diffmamba_interp.lm_training.preparation import (
    make_mixture,
    make_model,
    open_stream,
    open_tokenizer,
    sha256_of_files,
)
from diffmamba_interp.lm_training.recipe import DataRecipe, ModelRecipe, RetrievalPart, TextPart
from diffmamba_interp.text import DataError, Document, write_tokens
from tests.lm_training.tiny import tiny_config, tiny_recipe
from tests.models.tiny import tiny_model


def source(path: Path, **options: Any) -> tuple[TextPart, ...]:
    return (TextPart(weight=1.0, source=str(path), cache=str(path.parent / "cache"), **options),)


def weights(model: HookedMamba) -> dict[str, torch.Tensor]:
    return model.state_dict()


def test_new_weights_depend_on_the_seed_alone() -> None:
    one, two, other = (make_model(ModelRecipe(config=tiny_config()), seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(value, weights(two)[name]) for name, value in weights(one).items())
    assert not torch.equal(one.embed.weight, other.embed.weight)


def test_a_checkpoint_is_taken_as_it_is(tmp_path: Path) -> None:
    saved = tiny_model()
    saved.save_pretrained(tmp_path)
    loaded = make_model(ModelRecipe(init_from=str(tmp_path)), seed=0)
    assert loaded.cfg == saved.cfg
    assert all(torch.equal(value, weights(saved)[name]) for name, value in weights(loaded).items())


@pytest.mark.parametrize("alignment", ["published", "by_component"])
def test_a_checkpoint_is_converted_where_and_how_the_recipe_says(tmp_path: Path, alignment: Any) -> None:
    saved = tiny_model(n_layers=4)
    saved.save_pretrained(tmp_path)
    converted = make_model(ModelRecipe(init_from=str(tmp_path), placement="quarter", alignment=alignment), seed=3)
    expected = convert_to_differential(saved, "quarter", alignment, seed=3)
    assert converted.cfg.differential_blocks == (3,)
    assert all(torch.equal(value, weights(expected)[name]) for name, value in weights(converted).items())
    by_list = make_model(ModelRecipe(init_from=str(tmp_path), placement=(0, 2)), seed=3)
    assert by_list.cfg.differential_blocks == (0, 2)


def test_a_bf16_checkpoint_is_trained_in_float32(tmp_path: Path) -> None:
    tiny_model().bfloat16().save_pretrained(tmp_path)
    model = make_model(ModelRecipe(init_from=str(tmp_path)), seed=0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(data: Path) -> None:
    recipe = DataRecipe(tokenizer=str(data / "tokenizer"), length=8, text=(TextPart(weight=1.0, tokens="x"),))
    assert len(open_tokenizer(recipe, 640)) == 640
    with pytest.raises(DataError, match="has 640 tokens, the model's vocabulary .* only 639: they do not belong"):
        open_tokenizer(recipe, 639)


@pytest.mark.parametrize("name", ["no/such", "no/such/folder/at/all"])
def test_a_missing_tokenizer_is_named(name: str) -> None:
    recipe = DataRecipe(tokenizer=name, length=8, text=(TextPart(weight=1.0, tokens="x"),))
    with pytest.raises(DataError, match=f"tokenizer '{name}'"):
        open_tokenizer(recipe, 640)


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("{")
    recipe = DataRecipe(tokenizer=str(tmp_path / "t.json"), length=8, text=(TextPart(weight=1.0, tokens="x"),))
    with pytest.raises(DataError, match=r"t.json is no tokenizer.json .*\(EOF"):
        open_tokenizer(recipe, 640)


@pytest.mark.parametrize("content", [b"", b"no numpy file"])
def test_an_unreadable_token_stream_is_named(
    content: bytes, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"x.npy is no token stream, or was cut off .*write_tokens"):
        open_stream(str(tmp_path / "x.npy"), tokenizer)


def test_a_missing_token_stream_says_what_one_is(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(FileNotFoundError, match="x.npy does not exist.* give it as source"):
        open_stream(str(tmp_path / "x.npy"), tokenizer)


def test_a_stream_without_tokens_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    np.save(tmp_path / "x.npy", np.zeros(0, dtype=np.uint16))
    for part in ("ends", "bytes"):
        np.save(tmp_path / f"x.{part}.npy", np.zeros(0, dtype=np.int64))
    with pytest.raises(DataError, match="x.npy holds no tokens"):
        open_stream(str(tmp_path / "x.npy"), tokenizer)


@pytest.mark.parametrize("tokens", [[5, 9999, 0], [5, 6, 7]])
def test_a_stream_of_another_tokenizer_is_refused(
    tokens: list[int], tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    np.save(tmp_path / "x.npy", np.array(tokens, dtype=np.uint16))
    np.save(tmp_path / "x.ends.npy", np.array([3]))
    np.save(tmp_path / "x.bytes.npy", np.array([9]))
    with pytest.raises(DataError, match="made with another tokenizer.* this one has 640 tokens and end-of-text 0"):
        open_stream(str(tmp_path / "x.npy"), tokenizer)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "bad.jsonl holds no text"),
        ('{"text": "fine"}\n{"text": 3}\n', "bad.jsonl, line 2: the field 'text' holds int"),
        ('{"text": "fine"}\nnot json\n', "bad.jsonl, line 2 is not valid JSON"),
        ('{"body": "fine"}\n', "bad.jsonl, line 1: no field 'text'; the fields are body"),
        ('{"text": "a few words"}\n' * 3, "too few for one row of 48"),
    ],
)
def test_unreadable_empty_or_short_text_is_named_with_its_line(
    content: str, message: str, data: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    recipe = tiny_recipe(data, data__text=source(tmp_path / "bad.jsonl"), data__retrieval=None)
    with pytest.raises(DataError, match=message):
        make_mixture(recipe, tokenizer)


def test_a_single_document_outside_the_training_split_is_explained(
    data: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    from diffmamba_interp.text.documents import split_of_hash, text_hash

    text = next(text for n in range(999) if split_of_hash(text_hash(text := f"text number {n} " * 99)) == "eval")
    (tmp_path / "one.txt").write_text(text)
    recipe = tiny_recipe(data, data__text=source(tmp_path / "one.txt"), data__retrieval=None)
    with pytest.raises(DataError, match="none of its documents is in the split lm_train.* cut the text into several"):
        make_mixture(recipe, tokenizer)


def test_text_fields_and_token_limits_of_a_source_are_heeded(
    data: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    lines = [json.dumps({"text": f"one {i} " * 40, "body": f"two {i} " * 40}) for i in range(20)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    batches = [
        make_mixture(
            tiny_recipe(data, data__text=source(tmp_path / "t.jsonl", **options), data__retrieval=None), tokenizer
        ).batch(0)
        for options in ({}, {"text_field": "body"}, {"max_tokens": 60})
    ]
    texts = [tokenizer.decode(batch.tokens.flatten().tolist()) for batch in batches]
    assert "one" in texts[0]
    assert "two" not in texts[0]
    assert "two" in texts[1]
    assert len({word for word in texts[2].split() if word.isdigit()}) < 4


def test_rows_in_which_no_story_fits_are_refused(data: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    recipe = tiny_recipe(data, data__length=6)
    with pytest.raises(DataError, match="no retrieval sample fits into rows of 6 tokens"):
        make_mixture(recipe, tokenizer)


def test_held_out_real_stories_are_excluded_and_training_ones_used(
    data: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    from diffmamba_interp.lm_training.preparation import _make_retrieval
    from diffmamba_interp.needle.babi import heldout_babi_stories
    from diffmamba_interp.needle.stories import TASKS

    part = RetrievalPart(weight=1.0, real=1.0, babi_path=str(data / "babi.tar"), tasks=(1.0, 1.0, 0.0, 0.0, 0.0))
    recipe = tiny_recipe(data, data__retrieval=part, data__length=120)
    rows = _make_retrieval(recipe.data, 0, tokenizer)
    assert rows.exclude == {s.hash for task in TASKS for s in heldout_babi_stories(data / "babi.tar", task)}
    assert set(rows.real) == {"qa1", "qa2"}
    assert rows.exclude.isdisjoint(story.hash for stories in rows.real.values() for story in stories)


def test_all_data_that_a_recipe_names_is_hashed(data: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "babi").mkdir()
    (tmp_path / "babi" / "qa1_x_train.txt").write_text("1 A.")
    text = (*source(tmp_path / "t.jsonl"), TextPart(weight=1.0, tokens=str(data / "train.npy")))
    part = RetrievalPart(weight=1.0, babi_path=str(tmp_path / "babi"), filler=(str(data / "filler.npy"),))
    recipe = tiny_recipe(data, data__text=text, data__retrieval=part)
    before = sha256_of_files(recipe)
    names = (tmp_path / "t.jsonl", tmp_path / "babi", data / "train.npy", data / "filler.npy")
    assert set(before) == {str(name) for name in names}
    (tmp_path / "t.jsonl").write_text('{"text": "two"}\n')
    (tmp_path / "babi" / "qa1_x_train.txt").write_text("1 B.")
    after = sha256_of_files(recipe)
    assert {name for name in before if before[name] != after[name]} == {str(name) for name in names[:2]}


def test_padding_rows_of_the_vocabulary_are_no_tokens(data: Path, tmp_path: Path) -> None:
    cfg = HookedMambaConfig(d_model=16, n_layers=1, d_vocab=648, d_state=4, d_head=8, d_vocab_padding=9)
    recipe = DataRecipe(tokenizer=str(data / "tokenizer"), length=8, text=(TextPart(weight=1.0, tokens="x"),))
    with pytest.raises(DataError, match="only 639"):
        open_tokenizer(recipe, cfg.d_vocab - cfg.d_vocab_padding)


def test_a_stream_that_ends_in_end_of_text_is_opened(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    write_tokens([Document("two words", "here")], tokenizer, tmp_path / "x.npy")
    assert open_stream(str(tmp_path / "x.npy"), tokenizer).tokens[-1] == tokenizer.eos_token_id
