"""What holds for every configuration, tried on random small ones in float64.

`FUZZ_CONFIGURATIONS=500 pytest tests/test_invariants.py` tries so many; without it a few, which take some seconds. Each
is a function of its number alone, so a failure is repeated by `-k` with that number.
"""

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig
from diffmamba_interp.hook_names import BRANCHES, mixer_point
from diffmamba_interp.implicit_attention import (
    capture_block,
    contribution_along,
    residual_attribution,
    token_contributions,
)
from diffmamba_interp.interventions import Patch, intervene
from diffmamba_interp.models.checkpoints import FORMATS

N_CONFIGURATIONS = int(os.environ.get("FUZZ_CONFIGURATIONS", "6"))
N_POS = 11


@dataclass(frozen=True)
class Case:
    """A random model in float64, two prompts, and the rest of the randomness."""

    model: HookedMamba
    tokens: Tensor
    rng: random.Random


@pytest.fixture(params=range(N_CONFIGURATIONS), scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    rng = random.Random(request.param)
    torch.manual_seed(request.param)
    model = HookedMamba(random_config(rng)).double().requires_grad_(False).eval()
    for name, parameter in model.named_parameters():
        if "lambda" not in name and "A_log" not in name:
            parameter.add_(0.2 * torch.randn_like(parameter))
    tokens = torch.randint(0, model.cfg.d_vocab - model.cfg.d_vocab_padding, (2, N_POS))
    return Case(model, tokens, rng)


def random_config(rng: random.Random) -> HookedMambaConfig:
    """Sizes and options drawn until they make a configuration."""
    while True:
        n_layers = rng.randint(1, 3)
        some = tuple(block for block in range(n_layers) if rng.random() < 0.5)
        differential = DifferentialConfig(
            placement=rng.choice(["all", "alternate", some or (0,)]),
            **random_subtraction(rng),
        )
        try:
            if rng.random() < 0.3:
                return random_mamba1_config(rng, n_layers, differential)
            return HookedMambaConfig(
                n_layers=n_layers,
                d_model=rng.choice([8, 16]),
                d_vocab=19,
                d_state=rng.choice([2, 4]),
                d_conv=rng.choice([2, 3, 4]),
                expand=rng.choice([1, 2]),
                d_head=rng.choice([2, 4, 8]),
                n_groups=rng.choice([1, 1, 2]),
                dt_limit=rng.choice([(0.0, float("inf")), (0.01, 0.5)]),
                proj_bias=rng.random() < 0.3,
                conv_bias=rng.random() < 0.7,
                tie_embeddings=rng.random() < 0.5,
                residual_in_fp32=rng.random() < 0.5,
                chunk_size=rng.choice([2, 4, 16]),
                differential=rng.choice([None, differential, differential]),
            )
        except ValueError:
            continue


def random_subtraction(rng: random.Random) -> dict[str, Any]:
    """Where and how it is subtracted, and lambda's form; some that do not fit each other are left out."""
    subtract_at = rng.choice(["mixer", "mixer", "gated", "scan"])
    if subtract_at == "scan" and rng.random() < 0.5:
        return {"subtract_at": "scan", "lambda_form": "token_head_gate", "normalisation": "none"}
    return {
        "subtract_at": subtract_at,
        "lambda_form": rng.choice(["sigmoid_sum", "sigmoid", "exp_dot", "one", "token_gate"]),
        "normalisation": rng.choice(["post", "pre", "none"]),
        "head_division": rng.choice(["d_head", "n_heads"]) if subtract_at == "mixer" else "d_head",
    }


def random_mamba1_config(rng: random.Random, n_layers: int, differential: DifferentialConfig) -> HookedMambaConfig:
    return HookedMambaConfig(
        mixer="mamba1",
        n_layers=n_layers,
        d_model=rng.choice([8, 16]),
        d_vocab=19,
        d_state=rng.choice([2, 4]),
        d_conv=rng.choice([2, 3, 4]),
        expand=rng.choice([1, 2]),
        dt_rank=rng.choice([None, 3]),
        scan_norm_eps=rng.choice([None, 1e-5]),
        proj_bias=rng.random() < 0.3,
        conv_bias=rng.random() < 0.7,
        tie_embeddings=rng.random() < 0.5,
        residual_in_fp32=rng.random() < 0.5,
        differential=rng.choice([None, differential, differential]),
    )


def same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


def test_a_later_token_changes_nothing_before_it(case: Case) -> None:
    at = case.rng.randrange(1, N_POS)
    changed = case.tokens.clone()
    changed[:, at] = (changed[:, at] + 1) % (case.model.cfg.d_vocab - case.model.cfg.d_vocab_padding)
    before, after = case.model(case.tokens), case.model(changed)
    same(before[:, :at], after[:, :at])
    assert not torch.allclose(before[:, at], after[:, at])


def test_a_batch_is_its_samples(case: Case) -> None:
    same(case.model(case.tokens), torch.cat([case.model(row[None]) for row in case.tokens]))


def test_padding_changes_nothing(case: Case) -> None:
    length = case.rng.randrange(1, N_POS)
    padded = case.model(case.tokens.clone().index_fill(1, torch.arange(length, N_POS), -100), lengths=[length, length])
    same(padded[:, :length], case.model(case.tokens[:, :length]))


def test_pieces_continue_to_the_whole(case: Case) -> None:
    cuts = sorted({0, N_POS, *(case.rng.randrange(1, N_POS) for _ in range(2))})
    state, logits = None, []
    for first, last in zip(cuts, cuts[1:], strict=False):
        piece, state = case.model.forward_with_state(case.tokens[:, first:last], state)
        logits.append(piece)
    same(torch.cat(logits, dim=1), case.model(case.tokens))


def test_hidden_attention_makes_the_output_of_every_scan(case: Case) -> None:
    _, cache = case.model.run_with_cache(case.tokens)
    for block in range(case.model.cfg.n_layers):
        activations = capture_block(case.model, case.tokens, block)
        names = BRANCHES if activations.kind == "differential" else (None,)
        for branch, name in zip(activations.branches, names, strict=True):
            H = branch.scan.hidden(None, tuple(range(branch.n_heads)))
            y = torch.einsum("bhts,bshp->bthp", H, branch.x) + branch.D[:, None] * branch.x
            given = cache[mixer_point(block, "ssm_y", name)]
            same(y.reshape(given.shape), given)


def test_contributions_add_up_to_what_a_block_writes(case: Case) -> None:
    block = case.rng.randrange(case.model.cfg.n_layers)
    activations = capture_block(case.model, case.tokens, block)
    direction = torch.randn(case.model.cfg.d_model, dtype=torch.float64)
    for sources in ("convolved", "input"):
        along = contribution_along(activations, direction, sources=sources)
        same(along.net.sum(dim=-1) + along.bias, activations.mixer_out @ direction)
        vectors = token_contributions(activations, [-1, 2], sources=sources)
        same(vectors.net.sum(dim=2) + vectors.bias, activations.mixer_out[:, [-1, 2]])


def test_a_logit_is_the_sum_of_what_is_attributed(case: Case) -> None:
    attribution = residual_attribution(case.model, case.tokens, 3, case.rng.randrange(N_POS), versus=5)
    same(attribution.total, attribution.logit)


def test_a_value_patched_into_its_own_run_changes_nothing(case: Case) -> None:
    logits, cache = case.model.run_with_cache(case.tokens)
    for name in case.rng.sample(list(cache), 8) + [name for name in cache if name.endswith("hook_lambda")][:1]:
        with intervene(case.model, Patch(name=name, value=cache[name])):
            same(case.model(case.tokens), logits)


def test_a_saved_model_loads_to_the_same_model_in_every_format_that_has_words_for_it(
    case: Case, tmp_path: Path
) -> None:
    expected, served = case.model(case.tokens), []
    for name in FORMATS:
        try:
            case.model.save_pretrained(tmp_path / name, format=name)
        except ValueError:
            continue
        loaded = HookedMamba.from_pretrained(tmp_path / name, dtype=torch.float64)
        same(loaded(case.tokens), expected)
        served.append(name)
    assert "diffmamba_interp" in served
