"""lambda as a score of every token: its equation, its hook, and whatever reads lambda."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba, extract_attention, inspect_checkpoint
from diffmamba_interp.config import lambda_init
from diffmamba_interp.interventions import ScaleLambda, SetLambda, intervene
from diffmamba_interp.lm_training.stage_readings import lambdas
from tests.models.tiny import assert_same_values, random_tokens, relative_error, tiny_model

GATE = DifferentialConfig(placement=(1,), lambda_form="token_gate")
NAME = "blocks.1.mixer.hook_lambda"


@pytest.fixture(params=[{}, {"mixer": "mamba1"}], ids=["mamba2", "mamba1"])
def model(request: pytest.FixtureRequest) -> HookedMamba:
    made = tiny_model(GATE, **request.param)
    with torch.no_grad():
        made.blocks[1].mixer.lambda_w.normal_()
        made.blocks[1].mixer.lambda_b.fill_(0.3)
    return made.requires_grad_(False)


def test_lambda_is_a_score_of_every_token(model: HookedMamba) -> None:
    _, cache = model.run_with_cache(random_tokens())
    mixer, u = model.blocks[1].mixer, cache["blocks.1.hook_mixer_in"]
    assert cache[NAME].shape == (2, 9, 1)
    for t in range(9):
        expected = torch.sigmoid(u[1, t] @ mixer.lambda_w + 0.3) + lambda_init(1)
        assert float(cache[NAME][1, t, 0]) == pytest.approx(float(expected), abs=1e-6)
    branches = [cache[f"blocks.1.mixer.{branch}.hook_out"] for branch in ("minuend", "subtrahend")]
    difference = branches[0] - cache[NAME] * branches[1]
    assert relative_error(cache["blocks.1.mixer.hook_difference"], difference) < 1e-6
    assert float(cache[NAME].std()) > 0.01


def test_lambda_can_be_replaced_per_token_set_and_scaled(model: HookedMamba) -> None:
    tokens = random_tokens()
    logits, cache = model.run_with_cache(tokens)
    assert relative_error(model.run_with_hooks(tokens, [(NAME, lambda v, name: v.clone())]), logits) == 0.0
    with intervene(model, SetLambda(value=0.0)):
        alone = model(tokens)
    with intervene(model, ScaleLambda(factor=0.0)):
        assert relative_error(model(tokens), alone) == 0.0
    one = model.run_with_hooks(tokens, [(NAME, lambda v, name: torch.where(torch.arange(9)[:, None] == 8, 0.0, v))])
    assert torch.equal(one[:, :8], logits[:, :8])
    assert not torch.equal(one[:, 8], logits[:, 8])


@pytest.mark.parametrize("kind", ["hidden", "contribution", "contribution_norm"])
@pytest.mark.parametrize("rows", [None, [2, -1]])
def test_records_hold_lambda_for_every_row(model: HookedMamba, kind: Any, rows: Any, tmp_path: Path) -> None:
    tokens = random_tokens()
    _, cache = model.run_with_cache(tokens, NAME)
    direction = 3 if kind == "contribution" else None
    record = extract_attention(model, tokens, 1, kind, rows, direction=direction)
    at = range(9) if rows is None else [2, 8]
    assert torch.equal(record.lambda_, cache[NAME][:, list(at), 0])
    if kind == "contribution":
        assert float(record.remainder.abs().max()) < 1e-4 * float(record.total.abs().max())
    loaded = type(record).load(record.save(tmp_path / "record.npz"))
    assert torch.equal(loaded.difference, record.difference)
    assert record.figure() is not None


def test_a_prompt_read_in_two_parts_has_the_same_lambdas(model: HookedMamba) -> None:
    tokens = random_tokens(2, 9)
    _, state = model.forward_with_state(tokens[:, :4])
    rest, _ = model.forward_with_state(tokens[:, 4:], state)
    assert relative_error(rest, model(tokens)[:, 4:]) < 1e-5


def test_reports_say_that_there_is_no_one_lambda(model: HookedMamba, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert_same_values(HookedMamba.from_pretrained(tmp_path), model)
    report = inspect_checkpoint(tmp_path)
    assert report.loads
    assert report.blocks[1].lambda_ is None
    assert any("lambda form token_gate" in line for line in report.conventions)
    assert np.isnan(lambdas(model)).all()
    with pytest.raises(ValueError, match="one for each token"):
        model.blocks[1].mixer.lambda_()


def test_what_was_never_published_is_refused(model: HookedMamba, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never published"):
        DifferentialConfig(lambda_form="token_gate", lambda_initialisation="published")
    with pytest.raises(ValueError, match="diff_mamba"):
        model.save_pretrained(tmp_path, format="diff_mamba")
