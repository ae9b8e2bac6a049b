import logging

import pytest
import torch
from torch import Tensor, nn

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.models.block import Block
from diffmamba_interp.models.token_checks import check_tokens
from tests.models.tiny import N_TOKENS, random_tokens, relative_error, tiny_model


@pytest.fixture(scope="module", params=["plain", "differential"])
def model(request: pytest.FixtureRequest) -> HookedMamba:
    differential = None if request.param == "plain" else DifferentialConfig(placement="alternate")
    return tiny_model(differential, n_layers=3)


@pytest.fixture
def block_calls(model: HookedMamba) -> object:
    """The indices of the blocks that run, as they run."""
    calls: list[int] = []
    handles = [
        block.register_forward_pre_hook(lambda module, args, index=index: calls.append(index))
        for index, block in enumerate(model.blocks)
    ]
    yield calls
    for handle in handles:
        handle.remove()


# ------------------------------------------------------------------ the forward pass


@torch.no_grad()
@pytest.mark.parametrize(
    ("positions", "rows"),
    [([-1], [[8], [3]]), ([0, -2], [[0, 7], [0, 2]]), (torch.tensor([[2, 2], [-1, 0]]), [[2, 2], [3, 0]])],
    ids=["last", "several", "per sample"],
)
def test_chosen_positions_have_the_logits_that_they_have_among_all(
    model: HookedMamba, positions: object, rows: list[list[int]]
) -> None:
    tokens, lengths = random_tokens(2, 9), [9, 4]
    read: list[tuple[int, ...]] = []
    everywhere = model(tokens, lengths=lengths)
    with model.hooks([("ln_final.hook_normalized", lambda value, name: read.append(tuple(value.shape)))]):
        some = model(tokens, lengths=lengths, positions=positions)
    expected = torch.stack([logits[row] for logits, row in zip(everywhere, rows, strict=True)])
    torch.testing.assert_close(some, expected, rtol=1e-6, atol=1e-6)
    assert read == [(2, len(rows[0]), 16)]
    cached, cache = model.run_with_cache(tokens, "ln_final.*", lengths=lengths, positions=positions)
    assert torch.equal(cached, some)
    assert cache["ln_final.hook_scale"].shape == (2, len(rows[0]), 1)


@torch.no_grad()
def test_positions_that_cannot_be_unembedded_are_refused(model: HookedMamba) -> None:
    tokens = random_tokens(2, 9)
    with pytest.raises(ValueError, match=r"positions is \[4\]: each must lie in its sample.*the lengths are \[4, 9\]"):
        model(tokens, lengths=[9, 4], positions=[4])
    with pytest.raises(ValueError, match="positions is empty"):
        model(tokens, positions=[])
    with pytest.raises(ValueError, match="positions are those to unembed, but with stop_at_block nothing is"):
        model(tokens, positions=[-1], stop_at_block=1)


@torch.no_grad()
def test_no_position_sees_a_later_token_bit_for_bit(model: HookedMamba) -> None:
    tokens = random_tokens(2, 130)
    clean, cache = model.run_with_cache(tokens)
    for at in (0, 1, 63, 64, 100, 129):
        changed = tokens.clone()
        changed[:, at:] = (changed[:, at:] + 1) % N_TOKENS
        logits = model(changed)
        assert torch.equal(logits[:, :at], clean[:, :at])
        assert not torch.equal(logits[:, at], clean[:, at])
    _, after = model.run_with_cache(changed)
    for name, value in cache.items():
        if value.ndim > 0:
            assert torch.equal(after[name][:, :129], value[:, :129]), name


@torch.no_grad()
def test_the_residual_stream_is_a_sum_exactly(model: HookedMamba) -> None:
    _, cache = model.run_with_cache(random_tokens())
    assert torch.equal(cache["blocks.0.hook_resid_pre"], cache["hook_embed"])
    for block in range(3):
        pre, out, post = (cache[f"blocks.{block}.hook_{leaf}"] for leaf in ("resid_pre", "mixer_out", "resid_post"))
        assert torch.equal(post, pre + out)
        if block < 2:
            assert torch.equal(cache[f"blocks.{block + 1}.hook_resid_pre"], post)


@torch.no_grad()
def test_logits_are_the_unembedded_final_norm_of_the_stream(model: HookedMamba) -> None:
    logits, cache = model.run_with_cache(random_tokens())
    assert torch.equal(logits, model.unembed(model.ln_final(cache["blocks.2.hook_resid_post"])))


@torch.no_grad()
def test_samples_of_a_batch_do_not_see_each_other(model: HookedMamba) -> None:
    tokens = random_tokens(3, 11)
    for sample, logits in enumerate(model(tokens)):
        assert relative_error(logits, model(tokens[sample : sample + 1])[0]) < 2e-6


@torch.no_grad()
def test_a_single_token_is_a_prompt(model: HookedMamba) -> None:
    tokens = random_tokens(2, 1)
    logits, cache = model.run_with_cache(tokens, lambda name: True)
    assert logits.shape == (2, 1, N_TOKENS)
    assert all(bool(value.isfinite().all()) for value in cache.values())
    assert relative_error(logits, model(torch.cat([tokens, tokens], dim=1))[:, :1]) < 2e-6


@torch.no_grad()
def test_int32_tokens_serve_as_int64_ones_do(model: HookedMamba) -> None:
    tokens = random_tokens()
    assert torch.equal(model(tokens.int()), model(tokens))


# ------------------------------------------------------------------ stopping


@torch.no_grad()
@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_stopping_before_a_block_runs_only_the_blocks_before_it(
    model: HookedMamba, block_calls: list[int], stop: int
) -> None:
    tokens = random_tokens()
    _, cache = model.run_with_cache(tokens)
    block_calls.clear()
    resid, stopped = model.run_with_cache(tokens, stop_at_block=stop)
    assert block_calls == list(range(stop))
    expected = "hook_embed" if stop == 0 else f"blocks.{stop - 1}.hook_resid_post"
    assert torch.equal(resid, cache[expected])
    assert all(torch.equal(value, cache[name]) for name, value in stopped.items())
    assert {name.split(".")[1] for name in stopped if name.startswith("blocks")} == {str(i) for i in range(stop)}


@pytest.mark.parametrize("name", ["blocks.1.hook_resid_pre", "blocks.2.mixer.*", "ln_final.hook_scale"])
def test_a_hook_behind_the_stop_is_refused(model: HookedMamba, block_calls: list[int], name: str) -> None:
    for run in (
        lambda: model.run_with_cache(random_tokens(), name, stop_at_block=1),
        lambda: model.run_with_hooks(random_tokens(), [(name, lambda value, name: None)], stop_at_block=1),
    ):
        with pytest.raises(ValueError, match="stop_at_block=1 ends the run before"):
            run()
    assert block_calls == []


@pytest.mark.parametrize("stop", [-1, 4])
def test_a_stop_outside_the_model_is_refused(model: HookedMamba, stop: int) -> None:
    with pytest.raises(ValueError, match="it must lie in 0 to 3"):
        model(random_tokens(), stop_at_block=stop)


# ------------------------------------------------------------------ hooks on the model


@torch.no_grad()
def test_a_names_filter_is_a_name_a_list_a_glob_or_a_predicate(model: HookedMamba) -> None:
    tokens = random_tokens()
    resid = [f"blocks.{block}.hook_resid_post" for block in range(3)]
    for names in (resid, "blocks.*.hook_resid_post", lambda name: name.endswith("hook_resid_post")):
        assert list(model.run_with_cache(tokens, names)[1]) == resid
    assert list(model.run_with_cache(tokens, "hook_embed")[1]) == ["hook_embed"]
    assert list(model.run_with_cache(tokens, [])[1]) == []
    cached = set(model.run_with_cache(tokens)[1])
    assert {name.rpartition(".")[2] for name in set(model.hook_points) - cached} == {
        "hook_write",
        "hook_state",
        "hook_hidden_attention",
    }


def test_a_name_that_does_not_exist_lists_those_of_its_block(model: HookedMamba) -> None:
    with pytest.raises(KeyError) as caught:
        model.run_with_cache(random_tokens(), "blocks.1.mixer.hook_lambda_")
    message = str(caught.value)
    assert "block 1 has: blocks.1.hook_resid_pre" in message
    assert "blocks.2" not in message.partition("block 1 has: ")[2]
    with pytest.raises(KeyError, match="the model has: hook_embed"):
        model.run_with_hooks(random_tokens(), [("blocks.3.hook_resid_pre", lambda value, name: None)])


@torch.no_grad()
def test_hooks_given_as_an_iterator_are_all_attached(model: HookedMamba) -> None:
    """Reading it twice would leave nothing to attach."""
    seen: list[str] = []
    pairs = [(name, lambda value, name: seen.append(name)) for name in ("hook_embed", "ln_final.hook_scale")]
    HookedMamba.run_with_hooks.__wrapped__(model, random_tokens(), iter(pairs))  # as outside the type checker
    assert seen == ["hook_embed", "ln_final.hook_scale"]


@torch.no_grad()
def test_nested_contexts_and_a_cached_run_inside_them_add_up(model: HookedMamba) -> None:
    tokens = random_tokens()

    def shift(value: Tensor, name: str) -> Tensor:
        return value + 1

    _, clean = model.run_with_cache(tokens, "hook_embed")
    with model.hooks([("hook_embed", shift)]):
        with model.hooks([("hook_embed", shift)]):
            _, twice = model.run_with_cache(tokens, "hook_embed")
        _, once = model.run_with_cache(tokens, "hook_embed")
    assert torch.equal(once["hook_embed"], clean["hook_embed"] + 1)
    assert torch.equal(twice["hook_embed"], clean["hook_embed"] + 1 + 1)
    assert not model.hook_points["hook_embed"].is_hooked


@torch.no_grad()
def test_hooks_of_one_model_do_not_reach_another() -> None:
    first, second = tiny_model(seed=3), tiny_model(seed=3)
    clean = second(random_tokens())
    with first.hooks([("hook_embed", lambda value, name: 0 * value)]):
        assert torch.equal(second(random_tokens()), clean)
        assert not torch.equal(first(random_tokens()), clean)


# ------------------------------------------------------------------ padding


@torch.no_grad()
def test_right_padding_with_lengths_changes_no_real_position(model: HookedMamba) -> None:
    tokens, lengths = random_tokens(4, 70), torch.tensor([70, 2, 1, 65])
    logits, state = model.forward_with_state(tokens, lengths=lengths)
    last, _ = model.forward_with_state(tokens, lengths=lengths, last_only=True)
    by_mask = model(tokens, attention_mask=torch.arange(70) < lengths[:, None])
    for sample, length in enumerate(lengths.tolist()):
        alone, alone_state = model.forward_with_state(tokens[sample : sample + 1, :length])
        assert relative_error(logits[sample, :length], alone[0]) < 2e-6
        assert relative_error(last[sample, 0], alone[0, -1]) < 2e-6
        assert torch.equal(by_mask[sample, :length], logits[sample, :length])
        chosen = state.select(torch.tensor([sample])).tensors()
        for given, expected in zip(chosen, alone_state.tensors(), strict=True):
            assert relative_error(given, expected) < 2e-6


@torch.no_grad()
def test_what_stands_in_the_padding_does_not_matter(model: HookedMamba) -> None:
    tokens, lengths = random_tokens(2, 9), torch.tensor([9, 4])
    other = tokens.clone()
    other[1, 4:] = 0
    first, first_state = model.forward_with_state(tokens, lengths=lengths)
    second, second_state = model.forward_with_state(other, lengths=lengths)
    assert torch.equal(first[1, :4], second[1, :4])
    assert all(torch.equal(a, b) for a, b in zip(first_state.tensors(), second_state.tensors(), strict=True))


@pytest.mark.parametrize("mask", [[[0, 1, 1], [1, 1, 1]], [[1, 0, 1], [1, 1, 1]]])
def test_left_padding_is_refused_with_the_way_out(model: HookedMamba, mask: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="pad on the right .* and pass lengths= instead"):
        model(random_tokens(2, 3), attention_mask=torch.tensor(mask))


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(2, 4),
        torch.ones(1, 3, dtype=torch.long),
        torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -1e9]]),
        torch.full((2, 3), 2),
    ],
)
def test_a_mask_of_another_kind_is_refused(model: HookedMamba, mask: Tensor) -> None:
    with pytest.raises(ValueError, match="give such a mask, of the shape of the tokens"):
        model(random_tokens(2, 3), attention_mask=mask)


def test_a_mask_and_lengths_at_once_are_refused(model: HookedMamba) -> None:
    with pytest.raises(ValueError, match="not both"):
        model(random_tokens(2, 3), lengths=torch.tensor([3, 2]), attention_mask=torch.ones(2, 3, dtype=torch.long))


@pytest.mark.parametrize("lengths", [[0, 3], [4, 3], [-1, 1]])
def test_lengths_outside_the_prompt_are_refused(model: HookedMamba, lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="each must lie in 1 to 3"):
        model(random_tokens(2, 3), lengths=torch.tensor(lengths))


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        ([[1, 2]], TypeError, "give a torch tensor"),
        (torch.ones(2, 3), TypeError, "token ids are torch.int64 or torch.int32"),
        (torch.ones(2, 3, dtype=torch.bool), TypeError, "token ids are"),
        (torch.ones(2, 3, dtype=torch.uint8), TypeError, "token ids are"),
        (torch.ones(3, dtype=torch.long), ValueError, r"Add the batch axis: tokens\[None\]"),
        (torch.ones(1, 2, 3, dtype=torch.long), ValueError, r"it must be \[batch, pos\]"),
        (torch.ones(2, 0, dtype=torch.long), ValueError, "at least one token"),
        (torch.ones(0, 2, dtype=torch.long), ValueError, "at least one token"),
        (torch.tensor([[0, -1]]), ValueError, "ids from -1 to 0"),
        (torch.tensor([[0, N_TOKENS]]), ValueError, f"vocabulary is 0 to {N_TOKENS - 1}"),
    ],
)
def test_what_is_not_a_batch_of_token_ids_is_refused(tokens: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_tokens.__wrapped__(tokens, N_TOKENS)  # as outside the type checker


def test_the_model_checks_its_tokens(model: HookedMamba) -> None:
    for tokens in (torch.tensor([[N_TOKENS]]), torch.ones(1, 0, dtype=torch.long)):
        with pytest.raises(ValueError, match="tokens"):
            model(tokens)
        with pytest.raises(ValueError, match="tokens"):
            model.generate(tokens)


def test_the_fused_path_without_kernels_says_what_to_install(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model()
    model.impl = "fused"
    with pytest.raises(RuntimeError, match=r"pip install 'diffmamba-interp\[gpu\]'"):
        model(random_tokens())
    model.impl = "quick"  # type: ignore[assignment]
    with pytest.raises((ValueError, TypeError), match="impl|Literal"):
        model(random_tokens())


def test_auto_on_a_cpu_is_the_reference(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model()
    with torch.no_grad(), caplog.at_level(logging.INFO, logger="diffmamba_interp"):
        auto = model(random_tokens())
        model.impl = "reference"
        assert torch.equal(model(random_tokens()), auto)


# ------------------------------------------------------------------ blocks


def test_a_model_is_embedding_blocks_norm_and_unembedding(model: HookedMamba) -> None:
    assert [type(block) for block in model.blocks] == [Block] * 3
    assert isinstance(model.embed, nn.Embedding)
    assert isinstance(model.unembed, nn.Linear)
    kinds = [block.kind for block in model.blocks]
    assert kinds == [model.cfg.block_kind(block) for block in range(3)]


@torch.no_grad()
def test_a_tied_model_has_one_matrix() -> None:
    model = tiny_model(tie_embeddings=True)
    assert model.unembed.weight is model.embed.weight
    clean = model(random_tokens())
    model.embed.weight.mul_(2)
    assert not torch.equal(model(random_tokens()), clean)
    assert (
        sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in tiny_model().parameters()) - 16 * N_TOKENS
    )
