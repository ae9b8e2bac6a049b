"""Held-out measurement: equal to the plain definition, independent of batching, with honest intervals."""

import json
import math

import numpy as np
import pytest
import torch

from diffmamba_interp import HookedMamba
from diffmamba_interp.lens import HeldOutDocument, LensMeasurement, TunedLens, measure_lens
from diffmamba_interp.lens import evaluation as evaluation_module
from diffmamba_interp.text.batches import random_tokens


@pytest.fixture
def documents(model: HookedMamba) -> list[HeldOutDocument]:
    lengths = [5, 12, 2, 9, 12]
    return [
        HeldOutDocument(tokens=random_tokens(model.cfg.d_vocab, (n,), seed=n + i), n_bytes=3 * n)
        for i, n in enumerate(lengths)
    ]


def test_means_equal_the_definition_document_by_document(
    model: HookedMamba, lens: TunedLens, documents: list[HeldOutDocument]
) -> None:
    measured = measure_lens(model, lens, documents)
    kl, bits, model_bits = [], [], []
    for document in documents:
        logits, cache = model.run_with_cache(document.tokens[None], "blocks.2.hook_resid_pre")
        p = logits[0, :-1].log_softmax(-1)
        q = lens(cache["blocks.2.hook_resid_pre"][0, :-1], 2).log_softmax(-1)
        kl += (p.exp() * (p - q)).sum(-1).tolist()
        bits.append(-q.gather(-1, document.tokens[1:, None]).sum().item() / math.log(2))
        model_bits.append(-p.gather(-1, document.tokens[1:, None]).sum().item() / math.log(2))
    n_bytes = sum(document.n_bytes or 0 for document in documents)
    stage = measured.stages[2]
    assert stage.stage == "after block 1"
    assert stage.kl_nats.value == pytest.approx(np.mean(kl), rel=1e-5)
    assert stage.bits_per_byte is not None
    assert stage.bits_per_byte.value == pytest.approx(sum(bits) / n_bytes, rel=1e-5)
    assert measured.model_bits_per_byte is not None
    assert measured.model_bits_per_byte.value == pytest.approx(sum(model_bits) / n_bytes, rel=1e-5)
    assert (measured.n_documents, measured.n_tokens, measured.n_bytes) == (5, 35, n_bytes)


def test_batching_and_padding_do_not_change_the_result(
    model: HookedMamba, lens: TunedLens, documents: list[HeldOutDocument], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = measure_lens(model, lens, documents)
    monkeypatch.setitem(evaluation_module.BATCH_TOKENS, "cpu", 1)
    alone = measure_lens(model, lens, documents)
    for one, other in zip(together.stages, alone.stages, strict=True):
        assert one.kl_nats.value == pytest.approx(other.kl_nats.value, rel=1e-5)
        assert one.logit_lens_kl_nats.low == pytest.approx(other.logit_lens_kl_nats.low, rel=1e-5)


def test_an_untrained_lens_saves_nothing(model: HookedMamba, documents: list[HeldOutDocument]) -> None:
    for stage in measure_lens(model, TunedLens.from_model(model), documents).stages:
        assert (stage.kl_saved_nats.value, stage.kl_saved_nats.low, stage.kl_saved_nats.high) == (0, 0, 0)
        assert stage.kl_nats == stage.logit_lens_kl_nats


def test_the_interval_holds_the_mean_and_narrows_with_more_documents(model: HookedMamba, lens: TunedLens) -> None:
    many = [HeldOutDocument(tokens=random_tokens(97, (8,), seed=i), n_bytes=None) for i in range(60)]
    few_stage, many_stage = (measure_lens(model, lens, docs).stages[1].kl_nats for docs in (many[:6], many))
    assert many_stage.low < many_stage.value < many_stage.high
    assert many_stage.high - many_stage.low < 0.6 * (few_stage.high - few_stage.low)


def test_without_text_there_are_no_bits_per_byte(model: HookedMamba, lens: TunedLens) -> None:
    documents = [HeldOutDocument(tokens=torch.tensor([1, 2, 3]), n_bytes=None)]
    measured = measure_lens(model, lens, documents)
    assert measured.stages[0].bits_per_byte is None
    assert measured.model_bits_per_byte is None
    assert measured.n_bytes is None


def test_a_measurement_goes_to_json_and_back(
    model: HookedMamba, lens: TunedLens, documents: list[HeldOutDocument]
) -> None:
    measured = measure_lens(model, lens, documents)
    assert LensMeasurement.from_dict(json.loads(json.dumps(measured.to_dict()))) == measured


def test_nothing_to_measure_on_is_an_error(model: HookedMamba, lens: TunedLens) -> None:
    with pytest.raises(ValueError, match="no held-out document"):
        measure_lens(model, lens, [])
    with pytest.raises(ValueError, match="two tokens"):
        HeldOutDocument(tokens=torch.tensor([1]), n_bytes=1)
