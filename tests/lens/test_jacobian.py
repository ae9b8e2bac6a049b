"""The Jacobian lens: its matrices are the derivatives that the definition names, and it reads as they say."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig
from diffmamba_interp.hook_names import BRANCHES, block_point, branch_out
from diffmamba_interp.lens import (
    JacobianFit,
    JacobianLens,
    LogitLens,
    ModelUnembed,
    TrainingError,
    fit_jacobian_lens,
    jacobian_fit,
    lens_trajectory,
)
from diffmamba_interp.lens.jacobian_layout import JacobianLensConfig
from diffmamba_interp.lens.training import Stopped
from tests.models.tiny import random_tokens, relative_error, tiny_model

SKIP, N_POS = 2, 9
VALID = range(SKIP, N_POS - 1)


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    """Block 0 differential, block 1 plain, in float64."""
    return tiny_model(DifferentialConfig(placement=(0,))).double().requires_grad_(False)


@pytest.fixture(scope="module")
def prompts() -> Tensor:
    return random_tokens(3, N_POS)


@pytest.fixture(scope="module")
def lens(model: HookedMamba, prompts: Tensor) -> JacobianLens:
    return fit_jacobian_lens(model, prompts, branches=True, skip_first=SKIP)


def final_of(model: HookedMamba, tokens: Tensor, name: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """What leaves the last block as a function of the value at a hook point, [batch, pos, d_model]; and that value."""
    _, cache = model.run_with_cache(tokens[None], name)

    def final(value: Tensor) -> Tensor:
        hooks = [(name, lambda *_: value)]
        return model.run_with_hooks(tokens.expand(len(value), -1), hooks, stop_at_block=model.cfg.n_layers)

    return final, cache[name].detach()


def explicit(model: HookedMamba, prompts: Tensor, name: str) -> Tensor:
    """The definition, term by term, from the whole Jacobian [pos, d_model, pos, d_model] of each prompt."""
    terms = []
    for tokens in prompts:
        jacobian = torch.autograd.functional.jacobian(*final_of(model, tokens, name), vectorize=True)[0, :, :, 0]
        terms += [
            sum(jacobian[target, :, source] for target in VALID if target >= source) / len(prompts) / len(VALID)
            for source in VALID
        ]
    return torch.stack(terms).sum(dim=0)


def points(model: HookedMamba) -> list[str]:
    stages = [block_point(block, "resid_pre") for block in range(model.cfg.n_layers)]
    return [*stages, *(branch_out(0, branch) for branch in BRANCHES)]


def matrices(lens: JacobianLens) -> dict[str, Tensor]:
    stages = {block_point(block, "resid_pre"): matrix for block, matrix in enumerate(lens.jacobians)}
    return stages | lens.branches


def test_every_matrix_is_the_mean_of_explicit_jacobians(
    model: HookedMamba, prompts: Tensor, lens: JacobianLens
) -> None:
    assert list(matrices(lens)) == points(model)
    for name, matrix in matrices(lens).items():
        assert relative_error(matrix.double(), explicit(model, prompts, name)) < 1e-6, name


def test_every_matrix_is_what_small_changes_at_all_sources_do(
    model: HookedMamba, prompts: Tensor, lens: JacobianLens
) -> None:
    direction, step = torch.randn(16, generator=torch.Generator().manual_seed(2), dtype=torch.float64), 1e-4
    for name, matrix in matrices(lens).items():
        effect = torch.zeros(16, dtype=torch.float64)
        for tokens in prompts:
            final, value = final_of(model, tokens, name)
            changes = torch.zeros(len(VALID), N_POS, 16, dtype=torch.float64)
            changes[range(len(VALID)), VALID] = step * direction
            of_sources = (final(value + changes) - final(value - changes)) / (2 * step)
            effect += of_sources[:, VALID].sum(dim=(0, 1)) / len(prompts) / len(VALID)
        assert relative_error(matrix.double() @ direction, effect) < 1e-3, name


class LinearMixer(nn.Module):
    """here @ u[t] + before @ u[t - 1]."""

    def __init__(self, here: Tensor, before: Tensor) -> None:
        super().__init__()
        self.here, self.before = here, before

    def forward(self, u: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        earlier = nn.functional.pad(u, (0, 0, 1, 0))[:, :-1]
        return u @ self.here.mT + earlier @ self.before.mT, None


class NoNorm(nn.Module):
    def forward(self, resid: Tensor, **_: Any) -> Tensor:
        return resid


def test_of_a_linear_model_the_lens_is_the_exact_product() -> None:
    model = tiny_model(n_layers=3).requires_grad_(False)
    here = 0.3 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(3))
    before = 0.3 * torch.randn(16, 16, generator=torch.Generator().manual_seed(4))
    for block, matrix in zip(model.blocks, here, strict=True):
        block.norm = NoNorm()
        # The last block alone looks back: what a source does one position later counts while that lies in V.
        block.mixer = LinearMixer(matrix, before if block is model.blocks[2] else torch.zeros(16, 16))
    lens = fit_jacobian_lens(model, random_tokens(2, N_POS), skip_first=SKIP)
    one = torch.eye(16)
    last = one + here[2] + before * (len(VALID) - 1) / len(VALID)
    expected = [last @ (one + here[1]) @ (one + here[0]), last @ (one + here[1]), last]
    for matrix, product in zip(lens.jacobians, expected, strict=True):
        assert relative_error(matrix, product) < 1e-6
    assert lens.config.relative_error == pytest.approx([0, 0, 0], abs=1e-3)


def test_a_padded_prompt_counts_as_the_prompt_alone(model: HookedMamba) -> None:
    short, long = random_tokens(1, 7, seed=5), random_tokens(1, N_POS, seed=6)
    padded = torch.cat([nn.functional.pad(short, (0, N_POS - 7), value=-100), long])
    both = fit_jacobian_lens(model, padded, lengths=[7, N_POS], skip_first=SKIP)
    alone = [fit_jacobian_lens(model, prompt, skip_first=SKIP).jacobians for prompt in (short, long)]
    torch.testing.assert_close(both.jacobians, (alone[0] + alone[1]) / 2, rtol=1e-6, atol=1e-7)


def test_the_error_is_that_of_a_mean_over_prompts(model: HookedMamba, prompts: Tensor, lens: JacobianLens) -> None:
    each = np.stack([fit_jacobian_lens(model, prompt[None], skip_first=SKIP).jacobians.numpy() for prompt in prompts])
    variance = each.var(axis=0, ddof=1).sum(axis=(1, 2)) / len(prompts)
    expected = np.sqrt(variance / np.square(each.mean(axis=0)).sum(axis=(1, 2)))
    np.testing.assert_allclose(lens.config.relative_error, expected, rtol=1e-4)
    assert fit_jacobian_lens(model, prompts[:1], skip_first=SKIP).config.relative_error is None


def test_batches_and_breaks_change_nothing(model: HookedMamba, prompts: Tensor, lens: JacobianLens) -> None:
    whole = JacobianFit(model, prompts, skip_first=SKIP, branches=True, micro_batch=2)
    records = list(whole.run())
    assert [record.n_prompts for record in records] == [0, 2, 2, 3]
    assert [record.step for record in records] == [1, 2, 3, whole.n_steps]
    torch.testing.assert_close(whole.lens.jacobians, lens.jacobians, rtol=1e-6, atol=1e-7)

    fit = JacobianFit(model, prompts, skip_first=SKIP, branches=True, micro_batch=2)
    for _ in range(4):
        next(fit.run())
        state = fit.state()
        fit = JacobianFit(model, prompts, skip_first=SKIP, branches=True)
        fit.restore(state)
    assert torch.equal(fit.lens.jacobians, whole.lens.jacobians)
    assert all(torch.equal(fit.lens.branches[name], matrix) for name, matrix in whole.lens.branches.items())
    assert fit.lens.config == whole.lens.config
    with pytest.raises(ValueError, match="the saved fit has n_prompts 3, this one has 2"):
        JacobianFit(model, prompts[:2], skip_first=SKIP, branches=True).restore(state)


def test_a_fit_stops_between_steps_and_says_how_far_it_is(model: HookedMamba, prompts: Tensor) -> None:
    fit = JacobianFit(model, prompts, skip_first=SKIP, micro_batch=1)
    assert (fit.step, fit.n_steps) == (0, 6)
    next(fit.run())
    assert (fit.step, fit.n_steps) == (1, 6)
    with pytest.raises(Stopped):
        next(fit.run(lambda: True))
    assert fit.state()["step"] == 1


def test_memory_that_does_not_suffice_halves_the_batch_and_starts_it_anew(
    model: HookedMamba, prompts: Tensor, lens: JacobianLens, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_rows = JacobianFit._add_rows

    def crowded(fit: JacobianFit, graph: Any) -> int:
        if len(graph.final) > 1:
            raise torch.OutOfMemoryError("too much")
        return add_rows(fit, graph)

    monkeypatch.setattr(JacobianFit, "_add_rows", crowded)
    fit = JacobianFit(model, prompts, skip_first=SKIP, micro_batch=3)
    list(fit.run())
    assert fit.micro_batch == 1
    torch.testing.assert_close(fit.lens.jacobians, lens.jacobians, rtol=1e-6, atol=1e-7)
    monkeypatch.setattr(JacobianFit, "_add_rows", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("too much")))
    with pytest.raises(TrainingError, match="not enough memory"):
        list(JacobianFit(model, prompts, skip_first=SKIP, micro_batch=1).run())


def test_hooks_and_gradient_modes_of_the_caller(model: HookedMamba, prompts: Tensor, lens: JacobianLens) -> None:
    with torch.no_grad():
        torch.testing.assert_close(fit_jacobian_lens(model, prompts, skip_first=SKIP).jacobians, lens.jacobians)
    with model.hooks([("blocks.*.hook_mixer_out", lambda value, _: torch.zeros_like(value))]):
        blocked = fit_jacobian_lens(model, prompts, skip_first=SKIP)
    torch.testing.assert_close(blocked.jacobians, torch.eye(16).expand(2, -1, -1))
    assert not any(point.is_hooked for point in model.hook_points.values())


def test_behind_a_norm_the_branches_exact_derivatives_are_opposite(model: HookedMamba, prompts: Tensor) -> None:
    """A norm forgets its input's length, so m1 and m2 cannot both be read from one position's derivative."""
    at = 4
    prompt = prompts[:1, : at + 2]
    lens = fit_jacobian_lens(model, prompt, branches=True, skip_first=at)
    _, cache = model.run_with_cache(prompt)
    carried = [lens.branches[name] @ cache[name][0, at].float() for name in (branch_out(0, b) for b in BRANCHES)]
    assert relative_error(carried[0], -carried[1]) < 1e-3
    assert float(carried[0].abs().max()) > 0.1


def test_it_reads_what_the_matrix_carries(model: HookedMamba, prompts: Tensor, lens: JacobianLens) -> None:
    h = torch.randn(4, 16, generator=torch.Generator().manual_seed(7))
    unembed = ModelUnembed(model)
    for stage in range(2):
        torch.testing.assert_close(lens(h, stage), unembed(h @ lens.jacobians[stage].mT))
    logits = lens.branch_logits(h, 0, "subtrahend")
    torch.testing.assert_close(logits, unembed(h @ lens.branches[branch_out(0, "subtrahend")].mT))
    with pytest.raises(ValueError, match=r"no Jacobian of blocks\.1\.mixer\.minuend\.hook_out"):
        lens.branch_logits(h, 1, "minuend")
    with pytest.raises(IndexError, match="blocks 0 to 1"):
        lens(h, 2)


def test_a_lens_of_identities_is_the_logit_lens(model: HookedMamba, prompts: Tensor) -> None:
    config = JacobianLensConfig(base_model_name_or_path="", d_model=16, num_hidden_layers=2)
    identity = JacobianLens(ModelUnembed(model), config, torch.eye(16).repeat(2, 1, 1))
    read, logit = (lens_trajectory(model, one, prompts) for one in (identity, LogitLens.from_model(model)))
    np.testing.assert_allclose(read.kl_to_final_nats, logit.kl_to_final_nats, atol=1e-5)
    for token in (0, 5):
        torch.testing.assert_close(identity.direction(token)(0), LogitLens.from_model(model).direction(token)(0))


def test_a_direction_is_the_logit_before_the_norms_scale(model: HookedMamba, lens: JacobianLens) -> None:
    h, token = torch.randn(16, generator=torch.Generator().manual_seed(8)).double(), 11
    carried = lens.jacobians[1].double() @ h
    scale = (carried.square().mean() + model.ln_final.eps).sqrt()
    logit = lens.direction(token)(0).double() @ h / scale
    torch.testing.assert_close(logit, lens.unembed(carried)[token])
    last = lens.direction(token)(1)
    torch.testing.assert_close(last, model.unembed.weight[token] * model.ln_final.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skip_first": N_POS - 1}, r"a prompt has 9 tokens.* at least 10 tokens, or a smaller skip_first"),
        ({"prompts": torch.full((1, N_POS), 23)}, "vocabulary is 0 to 22"),
        ({"model": tiny_model(), "branches": True}, "no block of this model is differential"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    model: HookedMamba, prompts: Tensor, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_jacobian_lens(**{"model": model, "prompts": prompts, "skip_first": SKIP, **changes})


def test_derivatives_that_are_not_finite_stop_the_fit_without_harm(model: HookedMamba, prompts: Tensor) -> None:
    fit = JacobianFit(model, prompts, skip_first=SKIP)
    broken = [("blocks.1.hook_mixer_out", lambda value, _: value * torch.inf)]
    with model.hooks(broken), pytest.raises(TrainingError, match="derivatives of prompts 0 to 2 are not finite"):
        next(fit.run())
    assert not fit.sums.any()


def test_a_lens_of_another_width_or_number_of_stages_is_refused(model: HookedMamba, lens: JacobianLens) -> None:
    unembed = ModelUnembed(model)
    with pytest.raises(ValueError, match="d_model 8, but the model has 16"):
        JacobianLens(unembed, replace(lens.config, d_model=8), torch.zeros(2, 8, 8))
    with pytest.raises(ValueError, match="jacobians holds 2 matrices for 3 stages"):
        JacobianLens(unembed, replace(lens.config, num_hidden_layers=3), lens.jacobians)


def test_the_first_batch_fits_the_device(model: HookedMamba, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jacobian_fit.first_micro_batch(model, 128) == 4
    assert jacobian_fit.first_micro_batch(model, 10_000) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_on_a_gpu_the_fit_is_that_of_the_cpu(impl: str) -> None:
    torch.manual_seed(0)
    cfg = HookedMambaConfig(
        d_model=64, n_layers=2, d_vocab=96, d_state=32, d_head=32, differential=DifferentialConfig(placement=(0,))
    )
    model = HookedMamba(cfg).requires_grad_(False)
    prompts = random_tokens(5, 40, d_vocab=96)
    options: dict[str, Any] = {"branches": True, "skip_first": 4, "micro_batch": 2}
    on_cpu = fit_jacobian_lens(model, prompts, **options)
    model.to("cuda").impl = impl
    on_gpu = fit_jacobian_lens(model, prompts, **options)
    assert on_gpu.jacobians.is_cuda
    # Triton's products are TF32 unless it was told otherwise.
    for name, matrix in matrices(on_cpu).items():
        assert relative_error(matrices(on_gpu)[name].cpu(), matrix) < (2e-3 if impl == "fused" else 1e-4), name
