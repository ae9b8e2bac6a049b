import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.models.mixer import MixerState
from diffmamba_interp.models.recurrent_state import RecurrentState
from tests.models.tiny import random_tokens, relative_error, tiny_model


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,)), n_groups=2)


@torch.no_grad()
@pytest.mark.parametrize("cuts", [(1,), (1, 2, 3, 4), (64,), (63, 65, 66), (5, 100), tuple(range(1, 12)), (69,)])
def test_reading_a_prompt_in_pieces_is_reading_it_whole(model: HookedMamba, cuts: tuple[int, ...]) -> None:
    tokens = random_tokens(2, 130)
    whole, whole_state = model.forward_with_state(tokens)
    pieces, state = [], None
    for start, stop in zip((0, *cuts), (*cuts, 130), strict=True):
        logits, state = model.forward_with_state(tokens[:, start:stop], state)
        pieces.append(logits)
    assert relative_error(torch.cat(pieces, dim=1), whole) < 2e-6
    assert state is not None
    for given, expected in zip(state.tensors(), whole_state.tensors(), strict=True):
        assert relative_error(given, expected) < 2e-6


@torch.no_grad()
@pytest.mark.parametrize("d_conv", [1, 2, 4])
def test_pieces_of_padded_batches_join_as_well(d_conv: int) -> None:
    """Each sample's second piece follows its own last token, though that is fewer tokens than the kernel is wide."""
    model = tiny_model(DifferentialConfig(placement=(0,)), d_conv=d_conv)
    first, second = random_tokens(3, 6, seed=1), random_tokens(3, 5, seed=2)
    lengths = torch.tensor([[6, 1, 2], [2, 5, 1]])
    _, state = model.forward_with_state(first, lengths=lengths[0])
    logits, state = model.forward_with_state(second, state, lengths=lengths[1])
    for sample, (a, b) in enumerate(lengths.T.tolist()):
        joined = torch.cat([first[sample, :a], second[sample, :b]])[None]
        whole, whole_state = model.forward_with_state(joined)
        assert relative_error(logits[sample, :b], whole[0, a:]) < 2e-6
        for given, expected in zip(state.tensors(), whole_state.tensors(), strict=True):
            assert relative_error(given[sample], expected[0]) < 2e-6


@torch.no_grad()
def test_select_and_repeat_continue_samples_independently(model: HookedMamba) -> None:
    prompts, continuations = random_tokens(2, 7), random_tokens(6, 3, seed=4)
    _, state = model.forward_with_state(prompts)
    logits, _ = model.forward_with_state(continuations, state.repeat(3))
    whole = model(torch.cat([prompts.repeat_interleave(3, dim=0), continuations], dim=1))
    assert relative_error(logits, whole[:, 7:]) < 2e-6
    chosen = state.select(torch.tensor([1, 1, 0]))
    assert chosen.batch_size == 3
    logits, _ = model.forward_with_state(continuations[:3], chosen)
    whole = model(torch.cat([prompts[[1, 1, 0]], continuations[:3]], dim=1))
    assert relative_error(logits, whole[:, 7:]) < 2e-6


@torch.no_grad()
def test_a_call_leaves_the_state_it_was_given_as_it_was(model: HookedMamba) -> None:
    _, state = model.forward_with_state(random_tokens())
    before = [tensor.clone() for tensor in state.tensors()]
    model.forward_with_state(random_tokens(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, state.tensors(), strict=True))


@torch.no_grad()
def test_the_state_has_constant_size_and_holds_no_prompt(model: HookedMamba) -> None:
    sizes = set()
    for length in (1, 3, 64, 200):
        _, state = model.forward_with_state(random_tokens(2, length))
        sizes.add(state.n_bytes)
        kept = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in state.tensors()}
        assert sum(kept.values()) <= 2 * state.n_bytes
    assert len(sizes) == 1


@torch.no_grad()
def test_an_edited_state_travels_through_the_recurrence(model: HookedMamba) -> None:
    """A cleared state is a fresh start."""
    _, state = model.forward_with_state(random_tokens(seed=7))
    tokens = random_tokens()
    cleared, _ = model.forward_with_state(tokens, state.map(torch.zeros_like))
    assert relative_error(cleared, model(tokens)) < 2e-6


def test_a_state_has_one_entry_per_block_and_two_in_a_differential_one(model: HookedMamba) -> None:
    _, state = model.forward_with_state(random_tokens())
    assert isinstance(state.blocks[0], tuple)
    assert isinstance(state.blocks[1], MixerState)
    assert len(state.tensors()) == 6
    assert state.batch_size == 2
    assert state.tensors()[1].requires_grad
    assert not any(tensor.requires_grad for tensor in state.detach().tensors())


def test_a_state_of_another_batch_or_model_is_refused(model: HookedMamba) -> None:
    _, state = model.forward_with_state(random_tokens(3, 4))
    with pytest.raises(ValueError, match="state holds 3 samples, but tokens holds 2"):
        model.forward_with_state(random_tokens(2, 4), state)
    shorter = RecurrentState(state.blocks[:1])
    with pytest.raises(ValueError, match=r"another model's: it holds 1 blocks \(1 differential\), the model 2"):
        model.forward_with_state(random_tokens(3, 4), shorter)
    _, plain = tiny_model().forward_with_state(random_tokens(3, 4))
    with pytest.raises(ValueError, match="state is another model's"):
        model.forward_with_state(random_tokens(3, 4), plain)
