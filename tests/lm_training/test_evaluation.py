import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from diffmamba_interp import HookedMamba
from diffmamba_interp.lm_training import loop
from diffmamba_interp.lm_training.evaluation import (
    EvaluationSet,
    bits_per_byte,
    evaluate,
    prepare_evaluation,
    spread_documents,
)
from diffmamba_interp.lm_training.recipe import EvaluationRecipe
from diffmamba_interp.needle.babi import heldout_babi_stories
from diffmamba_interp.text import Document, TokenStream, bos_tokens, write_tokens
from tests.lm_training.tiny import log, tiny_config, tiny_recipe, trainer


@pytest.fixture
def model() -> HookedMamba:
    return HookedMamba(tiny_config()).eval()


def test_bits_per_byte_are_the_nats_of_whole_rows_over_the_bytes(
    model: HookedMamba, data: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = ["One short text.", "Another naïve one, a little longer."]
    stream = write_tokens([Document(text, "here") for text in texts], tokenizer, tmp_path / "x.npy")
    tokens = torch.from_numpy(stream.tokens.astype("int64"))
    nats = 0.0
    for start in range(0, len(tokens) - 1, 7):
        row = tokens[start : start + 8]
        nats += cross_entropy(model(row[None, :-1])[0], row[1:], reduction="sum").item()
    expected = nats / math.log(2) / sum(len(text.encode()) for text in texts)
    assert bits_per_byte(model, stream, length=7) == pytest.approx(expected, rel=1e-5)
    assert bits_per_byte(model, stream, length=7, batch_tokens=7) == pytest.approx(expected, rel=1e-5)


def test_fewer_tokens_mean_whole_documents_spread_over_the_stream_and_at_least_one(
    model: HookedMamba, data: Path
) -> None:
    stream = TokenStream.load(data / "eval.npy")
    half = spread_documents(stream, len(stream.tokens) // 2)
    documents = [tuple(stream.document(i)) for i in range(len(stream.ends))]
    chosen = [documents.index(tuple(half.document(i))) for i in range(len(half.ends))]
    assert len(chosen) == pytest.approx(len(documents) / 2, abs=1)
    assert np.diff(chosen).tolist() == pytest.approx([2] * (len(chosen) - 1), abs=1)
    assert half.n_bytes.tolist() == [stream.n_bytes[i] for i in chosen]
    expected = bits_per_byte(model, half, length=32)
    assert bits_per_byte(model, stream, length=32, max_tokens=len(stream.tokens) // 2) == pytest.approx(expected)
    assert bits_per_byte(model, stream, length=32) != pytest.approx(expected, rel=1e-9)
    assert len(spread_documents(stream, 2).ends) == 1
    assert spread_documents(stream, 10**9).tokens.tolist() == stream.tokens.tolist()


def test_text_and_retrieval_are_measured_by_name_on_held_out_stories(
    model: HookedMamba, data: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    text = str(data / "eval.npy")
    recipe = EvaluationRecipe(
        text=(text,), tasks=("qa1", "qa4"), lengths=(0, 120), n=3, babi_path=str(data / "babi.tar"), filler=text
    )
    prepared = prepare_evaluation(recipe, tokenizer)
    names = {f"{kind}_{task}_{n}" for kind in ("generated", "real") for task in ("qa1", "qa4") for n in (0, 120)}
    assert set(prepared.samples) == names
    held_out = {story.hash for task in ("qa1", "qa4") for story in heldout_babi_stories(data / "babi.tar", task)}
    for name, samples in prepared.samples.items():
        assert len(samples) == 3
        assert all((sample.story_hash in held_out) == name.startswith("real") for sample in samples)
        assert all(sample.n_tokens <= 120 for sample in samples if name.endswith("120"))
    found = evaluate(model, prepared, length=32)
    assert set(found) == {f"bits_per_byte/{text}", *(f"accuracy/{name}" for name in names)}
    assert all(0 <= value <= 1 for name, value in found.items() if name.startswith("accuracy"))


def test_retrieval_prompts_begin_as_training_rows_do_without_a_beginning_of_text_token(
    data: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    recipe = EvaluationRecipe(tasks=("qa1",), lengths=(0, 120), n=2, filler=str(data / "eval.npy"))
    plain = prepare_evaluation(recipe, tokenizer).samples
    with_bos = copy.deepcopy(tokenizer)
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, tokenizer.bos_token_id)]
    )
    assert bos_tokens(with_bos, "auto") == (tokenizer.bos_token_id,)
    prompts = prepare_evaluation(recipe, with_bos).samples
    for name, samples in plain.items():
        assert [sample.tokens.tolist() for sample in samples] == [sample.tokens.tolist() for sample in prompts[name]]


def test_no_retrieval_is_measured_when_n_is_0(data: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    assert prepare_evaluation(EvaluationRecipe(n=0), tokenizer).samples == {}


def test_the_log_holds_the_metrics_and_a_finished_run_started_again_still_has_them(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(data, steps=4, evaluation=EvaluationRecipe(every=3, n=0))
    prepared = EvaluationSet({"eval": TokenStream.load(data / "eval.npy")}, {}, max_tokens=300)
    one = trainer(recipe, tmp_path)
    one.evaluation = prepared
    metrics = one.run().metrics
    records = [record for record in log(tmp_path) if "loss" not in record]
    assert [record["step"] for record in records] == [3, 4]
    assert records[-1] == {"step": 4, **metrics}
    assert set(metrics) == {"bits_per_byte/eval"}
    again = trainer(recipe, tmp_path)
    assert again.run().metrics == metrics


def test_an_evaluation_missed_by_a_kill_after_its_snapshot_is_made_up_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(data, steps=4, evaluation=EvaluationRecipe(every=4, n=0))
    prepared = EvaluationSet({"eval": TokenStream.load(data / "eval.npy")}, {}, max_tokens=300)
    whole, broken = trainer(recipe, tmp_path / "whole"), trainer(recipe, tmp_path / "broken")
    whole.evaluation = broken.evaluation = prepared
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            broken.run()
    again = trainer(recipe, tmp_path / "broken")
    again.evaluation = prepared
    assert again.run().metrics == whole.run().metrics
