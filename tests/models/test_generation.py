import numpy as np
import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba
from tests.models.tiny import N_TOKENS, random_tokens, tiny_model


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,)))


@torch.no_grad()
def test_generation_by_steps_takes_the_argmax_of_the_full_forward(model: HookedMamba) -> None:
    prompt = random_tokens(2, 5)
    out = model.generate(prompt, 12)
    expected = prompt
    for _ in range(12):
        expected = torch.cat([expected, model(expected)[:, -1:].argmax(dim=-1)], dim=1)
    assert torch.equal(out, expected)
    assert len(set(out[:, 5:].flatten().tolist())) > 1


@torch.no_grad()
def test_each_step_reads_one_token(model: HookedMamba) -> None:
    lengths: list[int] = []
    with model.hooks([("hook_embed", lambda value, name: lengths.append(value.shape[1]))]):
        model.generate(random_tokens(2, 5), 4)
    assert lengths == [5, 1, 1, 1]


@torch.no_grad()
def test_right_padded_prompts_are_continued_after_their_own_last_token(model: HookedMamba) -> None:
    prompts, lengths = random_tokens(3, 6), torch.tensor([6, 1, 3])
    out = model.generate(prompts, 4, lengths=lengths)
    assert out.shape == (3, 10)
    for row, length in enumerate(lengths.tolist()):
        alone = model.generate(prompts[row : row + 1, :length], 4)[0]
        assert torch.equal(out[row, : length + 4], alone)
        assert bool((out[row, length + 4 :] == alone[-1]).all())


@torch.no_grad()
def test_a_stop_token_ends_a_sample_and_all_of_them_the_generation(model: HookedMamba) -> None:
    prompt = random_tokens(1, 5)
    free = model.generate(prompt, 8)[0, 5:].tolist()
    stop = free[3]
    first = free.index(stop)
    assert model.generate(prompt, 8, stop_token=stop)[0, 5:].tolist() == free[: first + 1]
    both = torch.cat([prompt, random_tokens(1, 5, seed=9)])
    out = model.generate(both, 8, stop_token=stop)
    row = out[0, 5:].tolist()
    assert row[: first + 1] == free[: first + 1]
    assert set(row[first:]) == {stop}


@torch.no_grad()
def test_sampling_repeats_with_the_generators_seed_and_follows_the_probabilities(model: HookedMamba) -> None:
    prompt = random_tokens(1, 5)

    def sample(seed: int, **options: object) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return model.generate(prompt, 20, generator=generator, **options)

    assert torch.equal(sample(0, temperature=2.0), sample(0, temperature=2.0))
    assert not torch.equal(sample(0, temperature=2.0), sample(1, temperature=2.0))
    greedy = model.generate(prompt, 20)
    assert torch.equal(sample(0, temperature=5.0, top_k=1), greedy)
    assert torch.equal(sample(0, temperature=1e-3), greedy)
    many = prompt.expand(4000, -1)
    drawn = model.generate(many, 1, temperature=1.5, generator=torch.Generator().manual_seed(0))[:, -1]
    expected = torch.softmax(model(prompt)[0, -1] / 1.5, dim=-1)
    assert torch.allclose(drawn.bincount(minlength=N_TOKENS) / 4000, expected, atol=0.03)
    top = model.generate(many, 1, temperature=5.0, top_k=3, generator=torch.Generator().manual_seed(0))[:, -1]
    assert set(top.tolist()) == set(model(prompt)[0, -1].topk(3).indices.tolist())


@torch.no_grad()
def test_padding_rows_of_the_vocabulary_are_never_chosen() -> None:
    model = tiny_model(d_vocab_padding=20)
    assert int(model(random_tokens(8, 3)).argmax(dim=-1).max()) > 2
    for temperature in (0.0, 10.0):
        out = model.generate(random_tokens(8, 3), 6, temperature=temperature)
        assert int(out[:, 3:].max()) <= 2


@torch.no_grad()
def test_nothing_new_is_the_prompt_itself(model: HookedMamba) -> None:
    prompt = random_tokens()
    assert torch.equal(model.generate(prompt, 0), prompt)


@torch.no_grad()
def test_a_hook_in_force_acts_on_the_prompt_and_on_every_step(model: HookedMamba) -> None:
    prompt = random_tokens(2, 5)
    with model.hooks([("blocks.0.mixer.hook_lambda", lambda value, name: 0 * value)]):
        out = model.generate(prompt, 6)
        expected = prompt
        for _ in range(6):
            expected = torch.cat([expected, model(expected)[:, -1:].argmax(dim=-1)], dim=1)
    assert torch.equal(out, expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_new_tokens", -1), ("max_new_tokens", 1.5), ("temperature", -0.5), ("temperature", float("nan"))),
        *(("top_k", 0), ("stop_token", -1), ("stop_token", N_TOKENS)),
    ],
)
def test_options_that_make_no_sense_are_refused(model: HookedMamba, name: str, value: float) -> None:
    with pytest.raises((ValueError, TypeError), match=f"{name} is"):
        model.generate(random_tokens(), **{name: value})


@torch.no_grad()
def test_a_mask_and_padding_outside_the_vocabulary_continue_as_lengths_do(model: HookedMamba) -> None:
    prompts, lengths = random_tokens(2, 6), [6, 3]
    padded = prompts.clone()
    padded[1, 3:] = torch.tensor([-100, N_TOKENS, 10**9])
    mask = [[1] * 6, [1, 1, 1, 0, 0, 0]]
    expected = model.generate(prompts, 3, lengths=torch.tensor(lengths))
    for options in ({"lengths": lengths}, {"attention_mask": mask}, {"attention_mask": torch.tensor(mask).bool()}):
        assert torch.equal(model.generate(padded, np.int64(3), **options), expected)
