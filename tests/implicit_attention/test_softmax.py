"""The differential Transformer's attention: its equations, and what the bound of the softmax means."""

import math
from pathlib import Path

import pytest
import torch

from diffmamba_interp import AttentionRecord
from diffmamba_interp.implicit_attention import differential_attention, removed_share
from diffmamba_interp.models.lambda_forms import lambda_from_parameters

torch.manual_seed(0)
QUERIES = (torch.randn(2, 7, 3, 4), torch.randn(2, 7, 3, 4))
KEYS = (torch.randn(2, 7, 3, 4), torch.randn(2, 7, 3, 4))


def test_each_entry_is_the_equation() -> None:
    q1, k1, q2, k2 = (torch.randn(4) for _ in range(4))
    names = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
    lambda_ = lambda_from_parameters(dict(zip(names, (q1, k1, q2, k2), strict=True)), 0.2)
    assert float(lambda_) == pytest.approx(math.exp(q1 @ k1) - math.exp(q2 @ k2) + 0.2, rel=1e-5)
    record = differential_attention(QUERIES, KEYS, lambda_)
    for t in range(7):
        rows = []
        for q, k in zip(QUERIES, KEYS, strict=True):
            weights = [math.exp(float(q[1, t, 2] @ k[1, s, 2]) / 2) for s in range(t + 1)]
            rows.append([weight / sum(weights) for weight in weights] + [0.0] * (6 - t))
        expected = [first - float(lambda_) * second for first, second in zip(*rows, strict=True)]
        assert record.difference[1, 2, t].tolist() == pytest.approx(expected, abs=1e-6)


def test_rows_are_bounded_and_sum_to_one_minus_lambda() -> None:
    record = differential_attention(QUERIES, KEYS, 0.7)
    assert torch.allclose(record.difference.sum(dim=-1), torch.tensor(0.3), atol=1e-6)
    assert float(record.difference.max()) <= 1.0
    assert float(record.difference.min()) >= -0.7
    assert torch.equal(record.minuend, record.minuend.tril())


def test_equal_branches_cancel_and_the_measures_of_records_say_so() -> None:
    record = differential_attention((QUERIES[0],) * 2, (KEYS[0],) * 2, 1.0)
    shares = removed_share(record.minuend[:, 0, -1], record.difference[:, 0, -1], torch.ones(2, 1, 7, dtype=torch.bool))
    assert torch.equal(shares, torch.ones(2, 1))


def test_the_record_is_saved_and_shown_as_others_are(tmp_path: Path) -> None:
    record = differential_attention(QUERIES, KEYS, 0.5, tokens=torch.arange(14).reshape(2, 7), block=3)
    loaded = AttentionRecord.load(record.save(tmp_path / "softmax.npz"))
    assert torch.equal(loaded.difference, record.difference)
    assert (loaded.kind, loaded.block) == ("softmax", 3)
    figure = record.figure(head=1)
    assert "differential attention" in figure.layout.title.text


def test_branches_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="both branches need the same"):
        differential_attention(QUERIES, (KEYS[0], KEYS[1][..., :2]), 0.5)
