"""The closed form of a write's effect on a logit, against the logit that a model with edited writes really gives."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba, load_demo
from diffmamba_interp.hook_names import FINAL_SCALE, block_point, mixer_prefix
from diffmamba_interp.implicit_attention import WriteLogitShift, contribution_along, write_logit_shift
from diffmamba_interp.implicit_attention.activations import capture_block
from diffmamba_interp.models.read_out import final_scale, logit_direction
from tests.models import mixers  # noqa: F401 - registers the toy
from tests.models.tiny import DIFF_S6_VARIANTS, random_tokens, relative_error, tiny_model

BAR = 1e-4
"""In logits, in float32."""
TOKEN = 3
MIXERS: dict[str, dict[str, Any]] = {
    "mamba2": {"n_groups": 2, "d_model": 32, "proj_bias": True},
    "mamba1": {"mixer": "mamba1"},
    "falcon": {"mixer": "mamba1", "scan_norm_eps": 1e-3},
}
KINDS: dict[str, DifferentialConfig | None] = {
    "plain": None,
    "post": DifferentialConfig(placement=(0,)),
    "pre": DifferentialConfig(placement=(0,), normalisation="pre"),
    "none": DifferentialConfig(placement=(0,), normalisation="none"),
    "token gate": DifferentialConfig(placement=(0,), lambda_form="token_gate"),
    "diff-s6": DIFF_S6_VARIANTS[0],
    "head gate": DIFF_S6_VARIANTS[1],
}
CASES = {
    f"{kind} {name}": (mixer, differential)
    for name, mixer in MIXERS.items()
    for kind, differential in KINDS.items()
    if name != "falcon" or kind == "post"
}


def frozen_hooks(model: HookedMamba, tokens: Tensor, **options: Any) -> list[Any]:
    """All norm scales and gates, and what later blocks write, held at what they are in a clean run."""
    names = [name for name in model.hook_points if name.startswith("blocks.0.") and name.endswith("hook_scale")]
    names += [name for name in model.hook_points if name.startswith("blocks.0.") and name.endswith("hook_z")]
    names += [block_point(block, "mixer_out") for block in range(1, model.cfg.n_layers)] + [FINAL_SCALE]
    _, clean = model.run_with_cache(tokens, names, **options)
    return [(name, lambda value, name, kept=clean: kept[name]) for name in names]


def measured_shift(
    model: HookedMamba, tokens: Tensor, point: str, change: Tensor, position: int = -1, **options: Any
) -> Tensor:
    """Logits with the writes edited, less those without, at a position of every sample."""
    frozen = frozen_hooks(model, tokens, **options)
    clean = model.run_with_hooks(tokens, frozen, **options)
    edited = model.run_with_hooks(tokens, [*frozen, (point, lambda value, name: value + change)], **options)
    return (edited - clean)[:, position, TOKEN]


@torch.no_grad()
@pytest.mark.parametrize(("mixer", "differential"), CASES.values(), ids=CASES)
def test_the_closed_form_is_the_measured_shift_of_an_edited_write(
    mixer: dict[str, Any], differential: DifferentialConfig | None
) -> None:
    model, tokens = tiny_model(differential, **mixer), random_tokens(2, 9)
    for branch in ("minuend", "subtrahend") if differential else (None,):
        point = f"{mixer_prefix(0, branch)}.hook_write"
        _, cache = model.run_with_cache(tokens, point)
        shift = write_logit_shift(model, tokens, 0, TOKEN, 6, branch=branch)
        change = torch.randn_like(cache[point])
        measured = measured_shift(model, tokens, point, change, 6)
        assert (shift.of(change) - measured).abs().max() < BAR
        assert measured.abs().min() > 10 * BAR
        # Later writes do nothing, and a write that is taken away takes with it what `logits` says.
        assert shift.logits[..., 7:].abs().max() == shift.reads[:, 7:].abs().max() == 0
        change = torch.zeros_like(change)
        change[:, 3] = -cache[point][:, 3]
        assert torch.allclose(shift.of(change), -shift.logits[..., 3].sum(dim=1), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mamba2", "diff-mamba2"])
def test_the_shift_of_the_bundled_models_is_the_measured_one(name: Any) -> None:
    """Of a source far back, by all heads, and of one that is near, by a single head."""
    model, _ = load_demo(name)
    tokens = random_tokens(1, 70, d_vocab=model.cfg.d_vocab)
    branch: Any = "subtrahend" if name == "diff-mamba2" else None
    point = f"{mixer_prefix(0, branch)}.hook_write"
    _, cache = model.run_with_cache(tokens, point)
    shift = write_logit_shift(model, tokens, 0, TOKEN, branch=branch)
    change = torch.zeros_like(cache[point])
    change[:, 40] = -cache[point][:, 40]
    change[:, 68, 5] = 3 * cache[point][:, 68, 5]
    assert (shift.of(change) - measured_shift(model, tokens, point, change)).abs().max() < BAR
    assert float(shift.of(-cache[point])) == pytest.approx(-float(shift.logits.sum()), abs=BAR)
    assert shift.logits.abs().max() > 10 * BAR


@torch.no_grad()
def test_the_shift_is_measured_right_on_padding_and_of_a_logit_difference() -> None:
    model, tokens = tiny_model(KINDS["post"]), random_tokens(2, 12)
    lengths = torch.tensor([12, 8])
    padded = write_logit_shift(model, tokens, 0, TOKEN, branch="minuend", lengths=lengths)
    alone = write_logit_shift(model, tokens[1:, :8], 0, TOKEN, branch="minuend")
    assert padded.position.tolist() == [11, 7]
    assert torch.allclose(padded.logits[1:, :, :8], alone.logits, atol=1e-6)
    assert padded.logits[1, :, 8:].abs().max() == padded.reads[1, 8:].abs().max() == 0
    other = write_logit_shift(model, tokens, 0, torch.tensor([5, 5]), branch="minuend", lengths=lengths)
    both = write_logit_shift(model, tokens, 0, TOKEN, branch="minuend", versus=5, lengths=lengths)
    assert torch.allclose(both.logits, padded.logits - other.logits, atol=1e-6)


@torch.no_grad()
def test_the_shifts_are_the_contributions_without_the_skip() -> None:
    """K[t,s] = (H + D [t=s]) <v~, x[s]>, and a write knows nothing of D."""
    model, tokens = tiny_model(KINDS["pre"]), random_tokens(2, 9)
    scale = final_scale(model, model(tokens, stop_at_block=2))[:, -1:]
    activations = capture_block(model, tokens, 0)
    made = contribution_along(activations, logit_direction(model, TOKEN) / scale, [-1], per_head=True)
    shift = write_logit_shift(model, tokens, 0, TOKEN, branch="subtrahend")
    expected = -made.lambda_ * made.subtrahend[:, :, 0]
    assert relative_error(shift.logits[..., :-1], expected[..., :-1]) < 1e-5
    assert relative_error(shift.logits[..., -1], expected[..., -1]) > 1e-3


@torch.no_grad()
def test_a_shift_goes_to_json_and_back() -> None:
    shift = write_logit_shift(tiny_model(), random_tokens(), 1, TOKEN, versus=4)
    again = WriteLogitShift.from_dict(json.loads(json.dumps(shift.to_dict())))
    assert (again.block, again.branch) == (1, None)
    assert torch.equal(again.logits, shift.logits)
    assert torch.equal(again.versus, shift.versus)


def test_what_has_no_shift_is_refused() -> None:
    model, tokens = tiny_model(KINDS["post"]), random_tokens()
    with pytest.raises(ValueError, match="block 0 is differential: say whose writes"):
        write_logit_shift(model, tokens, 0, TOKEN)
    with pytest.raises(ValueError, match="branch is 'minuend', and block 1 is plain"):
        write_logit_shift(model, tokens, 1, TOKEN, branch="minuend")
    with pytest.raises(ValueError, match="position is .*each must lie in its sample"):
        write_logit_shift(model, tokens, 1, TOKEN, 9)
    with pytest.raises(ValueError, match="it has no state that a write enters"):
        write_logit_shift(tiny_model(mixer="toy"), tokens, 0, TOKEN)
    shift = write_logit_shift(model, tokens, 1, TOKEN)
    with pytest.raises(ValueError, match=r"change has shape \(2, 9, 4, 8\): give that of the scan's hook_write"):
        shift.of(torch.zeros(2, 9, 4, 8))
    with (
        model.hooks([("blocks.1.mixer.hook_write", lambda value, name: 2 * value)]),
        pytest.raises(ValueError, match="a hook is attached to blocks.1.mixer.hook_write"),
    ):
        write_logit_shift(model, tokens, 1, TOKEN)


@pytest.mark.gpu
@torch.no_grad()
@pytest.mark.parametrize("differential", [None, KINDS["post"]])
@pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS)
def test_the_kernels_give_the_shift_of_the_reference(
    mixer: dict[str, Any], differential: DifferentialConfig | None
) -> None:
    model = tiny_model(differential, **{**mixer, "d_state": 16}).to("cuda")
    tokens = random_tokens(2, 40).cuda()
    branch: Any = "subtrahend" if differential else None
    point = f"{mixer_prefix(0, branch)}.hook_write"
    shifts, measured = [], []
    for impl in ("reference", "fused"):
        model.impl = impl  # type: ignore[assignment]
        _, cache = model.run_with_cache(tokens, point)
        change = torch.zeros_like(cache[point])
        change[:, 20] = -cache[point][:, 20]
        shifts.append(write_logit_shift(model, tokens, 0, TOKEN, branch=branch).of(change))
        measured.append(measured_shift(model, tokens, point, change))
    assert relative_error(shifts[1], shifts[0]) < 2e-3
    assert relative_error(measured[1], measured[0]) < 1e-2
    assert (shifts[0] - measured[0]).abs().max() < BAR
