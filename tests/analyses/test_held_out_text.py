"""Bits of held-out text: of every token of every document, whatever rows and batches it is read in."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analyses.held_out_text import report, run
from diffmamba_interp.analysis.question import Asked
from tests.models.tiny import tiny_model

DOCUMENTS = [np.array([3, 1, 4, 1, 5, 9, 2]), np.array([6]), np.array([5, 3, 5, 8, 9])]


def bits(length: int = 64, batch_tokens: int = 1_000) -> np.ndarray:
    return run.document_bits(tiny_model(), DOCUMENTS, before=0, length=length, batch_tokens=batch_tokens)


def test_bits_are_those_of_every_token_after_the_end_of_text() -> None:
    model, expected = tiny_model(), []
    for tokens in DOCUMENTS:
        row = torch.tensor([[0, *tokens.tolist()]])
        log_probs = model(row[:, :-1]).log_softmax(dim=-1)[0]
        expected.append(-log_probs.gather(1, row[0, 1:, None]).sum().item() / math.log(2))
    assert bits() == pytest.approx(expected, rel=1e-5)


def test_batches_change_nothing_and_rows_cut_the_past_off() -> None:
    assert bits(batch_tokens=1) == pytest.approx(bits(), rel=1e-5)
    cut = bits(length=3)
    assert cut[1] == pytest.approx(bits()[1], rel=1e-5)
    assert not np.allclose(cut[[0, 2]], bits()[[0, 2]])
    first = run.document_bits(tiny_model(), [DOCUMENTS[0][:3]], before=0, length=64, batch_tokens=1_000)
    second = run.document_bits(tiny_model(), [DOCUMENTS[0][3:6]], before=4, length=64, batch_tokens=1_000)
    third = run.document_bits(tiny_model(), [DOCUMENTS[0][6:]], before=9, length=64, batch_tokens=1_000)
    assert cut[0] == pytest.approx((first + second + third).item(), rel=1e-5)


def made_up_records(differences: np.ndarray) -> dict[str, np.ndarray]:
    n = len(differences)
    sizes = np.tile([100.0, 900.0], n // 2)
    plain = 1.5 * sizes
    return {
        "model": np.repeat(["mamba2", "diff-mamba2"], n),
        "source": np.tile(["a", "b"], n),
        "document": np.tile(np.char.mod("d%d", np.arange(n)), 2),
        "n_bytes": np.tile(sizes, 2),
        "bits": np.concatenate([plain, plain + differences * sizes]),
    }


def test_bits_per_byte_are_of_sums_and_differences_of_documents() -> None:
    records = made_up_records(np.tile([0.5, -0.1], 10))
    whole = report.cell(records, "all")
    assert whole["difference"].value == pytest.approx((0.5 * 100 - 0.1 * 900) / 1000)
    assert (whole["n"], whole["n_bytes"]) == (20, 10_000)
    small = report.cell(records, "a")
    assert [small["difference"].low, small["difference"].high] == pytest.approx([0.5, 0.5])
    shuffled = records | {"document": np.concatenate([records["document"][:20], records["document"][:20][::-1]])}
    with pytest.raises(ValueError, match="run both again"):
        report.cell(shuffled, "all")


def test_documents_are_kept_in_a_file_that_serves_no_other_recipe(tmp_path: Path) -> None:
    recipe = run.Recipe(text="generated", n_chars=3_000, length=64, seed=7)
    options = run.Options(device="cpu")
    run.write_documents(recipe, options, tmp_path / "held")
    asked = Asked(recipe=recipe, options=options, material=tmp_path / "held")
    held = run.read_documents(asked)
    assert held["n_tokens"].sum() == len(held["tokens"])
    assert held["n_bytes"].sum() >= 3_000
    assert run.sums_of_documents(asked) == {}
    with pytest.raises(ValueError, match="was made for .* prepare it again"):
        run.read_documents(replace(asked, recipe=replace(recipe, length=65)))
