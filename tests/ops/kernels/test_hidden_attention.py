import pytest
import torch
from torch import Tensor

from diffmamba_interp.ops.kernels import Tiles, fused_hidden_attention, hidden_attention
from tests.ops.kernels.scan_inputs import (
    doubled,
    hidden_attention_reference,
    make_scan_inputs,
    reduce_reference,
    relative_error,
)

TILES = Tiles(block_t=16, block_s=32, block_n=16)
FORMS = [None, "mean", "abs_mean", "max_abs"]


@pytest.fixture(autouse=True)
def _small_tiles_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden_attention, "BACKWARD_TILES", Tiles(block_t=32, block_s=16, block_n=16))


def expected_for(inputs: dict[str, Tensor], reduce: str | None = None, **choice: object) -> Tensor:
    log_decay = inputs["dt"] * inputs["A"]
    hidden = hidden_attention_reference(inputs["dt"], log_decay, inputs["B"], inputs["C"], **choice)
    return reduce_reference(hidden, reduce)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("reduce", FORMS)
@pytest.mark.parametrize(("length", "n_groups"), [(1, 1), (7, 2), (63, 1), (130, 2)])
def test_values_and_gradients_equal_the_definition(
    length: int, n_groups: int, reduce: str | None, device: torch.device
) -> None:
    inputs = make_scan_inputs(length, n_groups=n_groups, device=device)
    exact = doubled(inputs)
    inputs = {name: value.requires_grad_() for name, value in inputs.items()}
    out = fused_hidden_attention(**inputs, reduce=reduce, tiles=TILES)
    expected = expected_for(exact, reduce)
    assert relative_error(out, expected) < 1e-5
    upstream = torch.randn_like(out)
    gradients = torch.autograd.grad(out, list(inputs.values()), upstream)
    wanted = torch.autograd.grad(expected, list(exact.values()), upstream.double())
    errors = {n: relative_error(g, w) for n, g, w in zip(inputs, gradients, wanted, strict=True)}
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("reduce", FORMS)
def test_every_element_is_written_and_above_the_diagonal_is_exactly_zero(
    reduce: str | None, device: torch.device
) -> None:
    inputs = make_scan_inputs(70, device=device)
    out = fused_hidden_attention(**inputs, reduce=reduce, tiles=TILES)
    assert out.isfinite().all()
    assert (out.triu(1) == 0).all()


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("reduce", FORMS)
def test_chosen_rows_and_heads_equal_a_slice_of_the_whole(reduce: str | None, device: torch.device) -> None:
    rows, heads = torch.tensor([50, 3, 3, 69, 0], device=device), [5, 0, 4]
    inputs = make_scan_inputs(70, n_heads=6, n_groups=3, device=device)
    exact = doubled(inputs)
    inputs = {name: value.requires_grad_() for name, value in inputs.items()}
    out = fused_hidden_attention(**inputs, rows=rows, heads=heads, reduce=reduce, tiles=TILES)
    expected = expected_for(exact, reduce, rows=rows, heads=heads)
    assert relative_error(out, expected) < 1e-5
    upstream = torch.randn_like(out)
    gradients = torch.autograd.grad(out, list(inputs.values()), upstream)
    wanted = torch.autograd.grad(expected, list(exact.values()), upstream.double())
    errors = {n: relative_error(g, w) for n, g, w in zip(inputs, gradients, wanted, strict=True)}
    assert max(errors.values()) < 1e-4, errors


def test_the_split_of_heads_over_programs_changes_nothing(device: torch.device) -> None:
    inputs = make_scan_inputs(40, n_heads=6, n_groups=2, device=device)
    whole = fused_hidden_attention(**inputs, tiles=TILES)
    split = fused_hidden_attention(**inputs, tiles=Tiles(block_t=16, block_s=32, block_n=16, head_splits=2))
    torch.testing.assert_close(split, whole, rtol=0, atol=0)


def test_bfloat16_maps_are_multiplied_exactly(device: torch.device) -> None:
    inputs = make_scan_inputs(40, device=device)
    inputs = {**inputs, "B": inputs["B"].bfloat16(), "C": inputs["C"].bfloat16()}
    out = fused_hidden_attention(**inputs, tiles=TILES)
    assert relative_error(out, expected_for(doubled(inputs))) < 1e-5


def test_log_decay_may_be_given_instead_of_A(device: torch.device) -> None:
    inputs = make_scan_inputs(20, device=device)
    A = inputs.pop("A")
    by_rate = fused_hidden_attention(A=A, **inputs, tiles=TILES)
    by_decay = fused_hidden_attention(A=None, **inputs, log_decay=inputs["dt"] * A, tiles=TILES)
    torch.testing.assert_close(by_decay, by_rate, rtol=0, atol=0)
    with pytest.raises(ValueError, match="one of them"):
        fused_hidden_attention(A=None, **inputs)


def test_decay_stays_exact_far_into_a_long_sequence(device: torch.device) -> None:
    length = 20_000
    inputs = make_scan_inputs(length, n_heads=2, device=device, batch=1)
    rows = torch.tensor([length - 1], device=device)
    out = fused_hidden_attention(**inputs, rows=rows, tiles=Tiles(block_t=16, block_s=4096, block_n=16))[0, :, 0]
    near = slice(length - 30, length)
    exact = {name: value.double() for name, value in inputs.items()}
    tail = {name: value if name == "A" else value[:, near] for name, value in exact.items()}
    expected = expected_for(tail)[0, :, -1]
    # dt * A is rounded to float32 before it is summed: half an ulp of each term.
    assert ((out[:, near] - expected) / expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": torch.tensor([4, 9])}, "rows must be positions"),
        ({"heads": [0, 0]}, "different indices"),
        ({"heads": [4]}, "different indices"),
    ],
)
def test_what_lies_outside_is_refused(change: dict, message: str, device: torch.device) -> None:
    change = {name: value.to(device) if name == "rows" else value for name, value in change.items()}
    with pytest.raises(ValueError, match=message):
        fused_hidden_attention(**make_scan_inputs(9, device=device), **change)
