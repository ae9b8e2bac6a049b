"""The read-out that lenses share with the model: same numbers, no hooks, no effect on the model."""

import numpy as np
import pytest
import torch
from torch import nn
from tuned_lens.nn.unembed import Unembed

from diffmamba_interp import HookedMamba, HookedMambaConfig
from diffmamba_interp.lens import LogitLens, ModelUnembed, TunedLens


def test_it_decodes_as_the_model_does(model: HookedMamba, tokens: torch.Tensor) -> None:
    resid = model(tokens, stop_at_block=model.cfg.n_layers)
    assert torch.equal(ModelUnembed(model)(resid), model(tokens))


@pytest.mark.parametrize("point", ["ln_final.hook_scale", "ln_final.hook_normalized"])
def test_hooks_attached_to_the_model_do_not_fire_while_a_lens_decodes(model: HookedMamba, point: str) -> None:
    h = torch.randn(2, model.cfg.d_model)
    lenses = [TunedLens.from_model(model), LogitLens.from_model(model)]
    clean = lenses[0](h, 1)
    with model.hooks([(point, lambda value, name: 0 * value)]):
        for lens in [*lenses, LogitLens.from_model(model)]:
            assert torch.equal(lens(h, 1), clean)
        assert not torch.equal(model.ln_final(h), model.ln_final.weight * h)


def test_it_shares_the_models_memory_and_leaves_its_gradients_alone(model: HookedMamba) -> None:
    model.requires_grad_(True)
    unembed = ModelUnembed(model)
    assert unembed.weight.data_ptr() == model.unembed.weight.data_ptr()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in unembed.parameters())


def test_the_libraries_other_uses_of_an_unembed_work(model: HookedMamba) -> None:
    unembed = ModelUnembed(model)
    assert isinstance(unembed.unembedding, nn.Linear)
    h = torch.randn(1, model.cfg.d_model)
    inverted = Unembed.invert(unembed, unembed(h), h0=h + 0.3 * torch.randn(h.shape), max_iter=50)
    assert inverted.kl < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_librarys_hash_is_the_librarys(model: HookedMamba, dtype: torch.dtype) -> None:
    unembed = ModelUnembed(model.to(dtype))
    assert unembed.unembedding_hash() == Unembed.unembedding_hash(unembed)


def test_the_librarys_hash_does_not_depend_on_how_arrays_are_printed(model: HookedMamba) -> None:
    unembed = ModelUnembed(model)
    expected = unembed.unembedding_hash()
    with np.printoptions(threshold=5, edgeitems=1, linewidth=200, suppress=True, floatmode="fixed", sign="+"):
        assert unembed.unembedding_hash() == expected


def test_models_whose_hash_in_the_library_collides_have_different_sha256() -> None:
    torch.manual_seed(0)
    cfg = HookedMambaConfig(d_model=32, n_layers=1, d_vocab=50, d_state=4, d_head=16)
    one, other = ModelUnembed(HookedMamba(cfg)), ModelUnembed(HookedMamba(cfg))
    other.weight.copy_(one.weight)
    other.weight[20, 10] += 0.01
    assert one.unembedding_hash() == other.unembedding_hash()
    assert one.sha256() != other.sha256()


def test_the_sha256_is_the_same_in_float32_and_bfloat16(model: HookedMamba) -> None:
    assert ModelUnembed(model).sha256() == ModelUnembed(model.to(torch.bfloat16)).sha256()


def test_an_untrained_tuned_lens_is_the_logit_lens(model: HookedMamba) -> None:
    h = torch.randn(3, model.cfg.d_model)
    assert torch.equal(TunedLens.from_model(model)(h, 0), LogitLens.from_model(model)(h, 0))


def test_translators_stay_float32_over_a_bfloat16_model(model: HookedMamba) -> None:
    lens = TunedLens.from_model(model.to(torch.bfloat16))
    assert {parameter.dtype for parameter in lens.layer_translators.parameters()} == {torch.float32}
    assert lens(torch.randn(2, model.cfg.d_model), 0).dtype == torch.bfloat16


def test_a_block_that_is_not_there_is_refused(model: HookedMamba) -> None:
    with pytest.raises(IndexError, match="0 to 3"):
        TunedLens.from_model(model)(torch.randn(1, model.cfg.d_model), 4)


@pytest.mark.parametrize("block", [0, 3])
def test_a_lens_direction_is_the_gradient_of_the_tokens_logit(model: HookedMamba, lens: TunedLens, block: int) -> None:
    h = torch.randn(model.cfg.d_model, requires_grad=True)
    read = h if block == 3 else lens.transform_hidden(h, block + 1)
    (lens.unembed.gain * read @ lens.unembed.weight[7]).backward()
    torch.testing.assert_close(lens.direction(7)(block), h.grad)
    if block == 3:
        torch.testing.assert_close(LogitLens.from_model(model).direction(7)(0), h.grad)


@pytest.mark.parametrize("token", [-1, 10**6])
def test_a_lens_direction_of_no_token_is_refused(model: HookedMamba, token: int) -> None:
    with pytest.raises(ValueError, match=f"token is .*{token}"):
        LogitLens.from_model(model).direction(token)(0)
