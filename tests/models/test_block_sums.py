"""A block's sum is made in the next block's norm, and whoever looks at the stream sees it as it is without that.

On a CPU the kernel is replaced by what it computes, and the rest of the fused path is left out.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.hook_points import Recorder
from diffmamba_interp.models import block as block_module
from diffmamba_interp.models.branch_stack import BranchStack
from diffmamba_interp.models.mamba2_mixer import Mamba2Mixer
from diffmamba_interp.ops import select
from diffmamba_interp.ops.kernels import NormFirst
from tests.models.tiny import random_tokens, tiny_model


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for every sum that is made in a norm; the fused choice without its other kernels."""
    calls: list[str] = []

    def add_rms_norm(
        before: Tensor, added: Tensor, weight: Tensor, eps: float, *, first: NormFirst | None
    ) -> tuple[Tensor, Tensor]:
        calls.append("joined" if first is None else "joined after a sub-norm")
        added = added if first is None else _normed(added, first.weight * first.gain, first.eps)
        total = before + added
        return total, _normed(total, weight, eps)

    def without_kernels(function: Callable[..., object]) -> Callable[..., object]:
        return lambda *args, **kwargs: function(*args, **{**kwargs, "fused": False})

    def rms_norm(x: Tensor, weight: Tensor, eps: float, *, gain: float) -> Tensor:
        return _normed(x, weight * gain, eps)

    monkeypatch.setattr(block_module.kernels, "add_rms_norm", add_rms_norm)
    monkeypatch.setattr(block_module.kernels, "rms_norm", rms_norm)
    monkeypatch.setattr(BranchStack, "serves", lambda self, n_pos: False)
    monkeypatch.setattr("diffmamba_interp.models.language_model.choose_impl", _fused)
    for kind in (Mamba2Mixer, block_module.RMSNorm):
        monkeypatch.setattr(kind, "forward", without_kernels(kind.forward))
    return calls


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps))


def _fused(*_: object) -> select.Choice:
    return select.Choice("fused", "a test wants it")


@pytest.fixture
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,)), n_layers=3)


@torch.no_grad()
def test_every_sum_but_the_last_is_made_in_a_norm(joined: list[str], model: HookedMamba) -> None:
    tokens = random_tokens()
    logits = model(tokens)
    assert joined == ["joined after a sub-norm", "joined"]
    with torch.enable_grad():
        assert torch.equal(model(tokens), logits)
    assert len(joined) == 2
    model(tokens, stop_at_block=1)
    model(tokens, stop_at_block=0)
    assert len(joined) == 2


@torch.no_grad()
def test_recorders_see_the_sums_that_are_made_in_a_norm(joined: list[str], model: HookedMamba) -> None:
    tokens = random_tokens()
    _, cache = model.run_with_cache(tokens, ["blocks.*.hook_resid_*", "blocks.*.hook_mixer_*"])
    assert joined == ["joined", "joined"]
    with torch.enable_grad():
        _, expected = model.run_with_cache(tokens, ["blocks.*.hook_resid_*", "blocks.*.hook_mixer_*"])
    assert list(cache) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in cache.items())
    assert cache["blocks.0.hook_resid_post"] is cache["blocks.1.hook_resid_pre"]


@torch.no_grad()
@pytest.mark.parametrize(
    ("point", "n_joined"),
    [
        ("blocks.0.hook_resid_post", 1),
        ("blocks.1.hook_resid_pre", 1),
        ("blocks.1.norm.hook_scale", 1),
        ("blocks.1.hook_mixer_in", 2),
        ("blocks.0.hook_mixer_out", 2),
    ],
)
def test_a_function_between_two_blocks_keeps_their_sum_and_norm_apart(
    joined: list[str], model: HookedMamba, point: str, n_joined: int
) -> None:
    tokens, edit = random_tokens(), [(point, lambda value, name: 2 * value)]
    edited = model.run_with_hooks(tokens, edit)
    assert len(joined) == n_joined
    assert ("joined after a sub-norm" in joined) == (n_joined == 2 and point != "blocks.0.hook_mixer_out")
    with torch.enable_grad():
        assert torch.equal(model.run_with_hooks(tokens, edit), edited)
    assert not torch.equal(model(tokens), edited)


@torch.no_grad()
def test_torchs_module_hooks_on_blocks_are_shown_tensors(joined: list[str], model: HookedMamba) -> None:
    shown: list[object] = []
    first = model.blocks[0].register_forward_hook(lambda module, args, out: shown.append(out[0]))
    model(random_tokens())
    assert len(joined) == 1
    first.remove()
    model.blocks[2].register_forward_pre_hook(lambda module, args: shown.append(args[0]))
    model(random_tokens())
    assert len(joined) == 2
    with nn.modules.module.register_module_forward_pre_hook(lambda module, args: shown.extend(args[:1])):
        model(random_tokens())
    assert len(joined) == 2
    n_before = joined.count("joined after a sub-norm")
    model.blocks[0].mixer.register_forward_hook(lambda module, args, out: shown.append(out[0]))
    model(random_tokens())
    assert joined.count("joined after a sub-norm") == n_before
    assert all(isinstance(value, Tensor) for value in shown)


@torch.no_grad()
def test_a_block_of_another_class_gets_the_sum_made(joined: list[str], model: HookedMamba) -> None:
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, resid: Tensor, *args: object, **kwargs: object) -> object:
            assert isinstance(resid, Tensor)
            return self.inner(resid, *args, **kwargs)

    tokens = random_tokens()
    expected = model(tokens)
    model.blocks[1] = Wrapped(model.blocks[1])
    assert torch.equal(model(tokens), expected)
    assert len(joined) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_the_kernel_changes_no_more_than_rounding(dtype: torch.dtype) -> None:
    from tests.models.test_graphs import gpu_model, gpu_tokens

    model, tokens = gpu_model("alternate", dtype), gpu_tokens(130)
    model.cuda_graphs = False
    recorder = Recorder()
    joined = model.run_with_hooks(tokens, [("blocks.*.hook_resid_post", recorder)])
    apart: dict[str, Tensor] = {}
    logits = model.run_with_hooks(tokens, [("blocks.*.hook_resid_post", lambda v, n: apart.update({n: v}))])
    torch.testing.assert_close(joined, logits, rtol=2e-2, atol=2e-2)
    for name, value in apart.items():
        error = (recorder.seen[name] - value).float().norm() / value.float().norm()
        assert error < (1e-5 if dtype == torch.float32 else 1e-2), name
