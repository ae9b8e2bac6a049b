"""The pictures rebuild what the model computed: scan, mixer output and branch outputs, in every kind of block."""

from pathlib import Path

import pytest
import torch

from diffmamba_interp import HookedMamba
from diffmamba_interp.hook_names import BRANCHES, mixer_point
from diffmamba_interp.implicit_attention import (
    BlockActivations,
    capture_block,
    contribution_along,
    contribution_norms,
    effective_attention,
    hidden_attention,
    token_contributions,
)
from diffmamba_interp.ops.reference import hidden_attention_matrix
from tests.models.tiny import (
    DIFF_S6_VARIANTS,
    DIFFERENTIAL_VARIANTS,
    random_tokens,
    relative_error,
    tiny_model,
    variant_id,
)

BAR = 1e-5
LENGTHS = (1, 2, 7, 63, 130, 500)


@pytest.fixture(scope="module", params=["all", "alternate", "quarter"])
def published(request: pytest.FixtureRequest, published_models: Path) -> HookedMamba:
    return HookedMamba.from_pretrained(published_models / request.param)


@pytest.fixture(
    scope="module",
    # Every variant once, with one or two groups in turn.
    params=[(cfg, 1 + index % 2) for index, cfg in enumerate([*DIFFERENTIAL_VARIANTS, *DIFF_S6_VARIANTS])],
    ids=lambda param: f"{variant_id(param[0])}-{param[1]}groups",
)
def variant(request: pytest.FixtureRequest) -> HookedMamba:
    cfg, n_groups = request.param
    # d_model 32 leaves two heads to a branch whose heads were halved; a projection bias is part of the sum.
    return tiny_model(cfg, n_groups=n_groups, d_model=32, proj_bias=True)


@torch.no_grad()
def captured_blocks(model: HookedMamba, n_pos: int, n_batch: int = 1) -> list[BlockActivations]:
    tokens = random_tokens(n_batch, n_pos, d_vocab=model.cfg.d_vocab)
    return [capture_block(model, tokens, block) for block in range(model.cfg.n_layers)]


def some_rows(n_pos: int) -> list[int]:
    return sorted({0, n_pos // 2, n_pos - 1})


@torch.no_grad()
def check_block(activations: BlockActivations, rows: list[int]) -> None:
    direction = torch.randn(activations.mixer_out.shape[2])
    expected = activations.mixer_out @ direction
    for sources in ("convolved", "input"):
        made = contribution_along(activations, direction, sources=sources)
        assert relative_error(made.net.sum(dim=-1) + made.bias, expected) < BAR
        few = contribution_along(activations, direction, rows, sources=sources)
        assert torch.allclose(few.net, made.net[:, rows], atol=BAR * float(made.net.abs().max()))
        vectors = token_contributions(activations, rows, sources=sources)
        assert relative_error(vectors.net.sum(dim=2) + vectors.bias, activations.mixer_out[:, rows]) < BAR
        assert relative_error(vectors.net @ direction, made.net[:, rows]) < BAR


@torch.no_grad()
def check_effective_attention(activations: BlockActivations, rows: list[int]) -> None:
    for branch in activations.branches:
        E, bias = effective_attention(branch, rows)
        inputs = branch.x_in.flatten(2).mT
        gated = torch.einsum("bcts,bcs->btc", E, inputs) + bias.mT
        if branch.out is not None and branch.out.shape != activations.mixer_out.shape:
            assert relative_error(gated, (branch.gate * branch.scan.apply(branch.x)).flatten(2)[:, rows]) < BAR
            continue
        out = gated @ branch.out_weight.mT + (0 if branch.out_bias is None else branch.out_bias)
        expected = activations.mixer_out if branch.out is None else branch.out
        assert relative_error(out, expected[:, rows]) < BAR


@torch.no_grad()
def check_scan(model: HookedMamba, n_pos: int) -> None:
    tokens = random_tokens(1, n_pos, d_vocab=model.cfg.d_vocab)
    _, cache = model.run_with_cache(tokens)
    for block in range(model.cfg.n_layers):
        for branch in BRANCHES if model.cfg.block_kind(block) == "differential" else (None,):
            dt, log_decay, B, C, x, y = (
                cache[mixer_point(block, point, branch)] for point in ("dt", "log_decay", "B", "C", "x", "ssm_y")
            )
            mixer = model.blocks[block].mixer
            D = (mixer if branch is None else getattr(mixer, branch)).D
            H = hidden_attention(dt, None, B, C, log_decay=log_decay)
            assert relative_error(torch.einsum("bhts,bshp->bthp", H, x) + D[:, None] * x, y) < BAR


@pytest.mark.parametrize("n_pos", LENGTHS)
def test_hidden_attention_rebuilds_the_scan_of_published_checkpoints(published: HookedMamba, n_pos: int) -> None:
    check_scan(published, n_pos)


@pytest.mark.parametrize("n_pos", LENGTHS)
def test_contributions_rebuild_the_mixer_output_of_published_checkpoints(published: HookedMamba, n_pos: int) -> None:
    for activations in captured_blocks(published, n_pos):
        rows = some_rows(n_pos)
        check_block(activations, rows)
        check_effective_attention(activations, rows)


@pytest.mark.parametrize("n_pos", [2, 70])
def test_every_kind_of_block_is_rebuilt(variant: HookedMamba, n_pos: int) -> None:
    check_scan(variant, n_pos)
    for activations in captured_blocks(variant, n_pos, n_batch=2):
        rows = some_rows(n_pos)
        check_block(activations, rows)
        check_effective_attention(activations, rows)


def test_a_block_is_rebuilt_at_2048_positions(fixtures_dir: Path) -> None:
    model = HookedMamba.from_pretrained(fixtures_dir / "published_diffmamba2" / "alternate")
    check_scan(model, 2048)
    for activations in captured_blocks(model, 2048)[2:]:
        direction = torch.randn(activations.mixer_out.shape[2])
        made = contribution_along(activations, direction)
        assert relative_error(made.net.sum(dim=-1) + made.bias, activations.mixer_out @ direction) < BAR
        spread = contribution_along(activations, direction, [2047], sources="input")
        assert relative_error(spread.net.sum(dim=-1) + spread.bias, activations.mixer_out[:, [2047]] @ direction) < BAR
        check_effective_attention(activations, [2047])


def test_the_branches_contributions_are_those_of_their_outputs(variant: HookedMamba) -> None:
    activations = captured_blocks(variant, 9)[0]
    vectors = token_contributions(activations, range(9))
    for branch, part, bias in zip(activations.branches, vectors.parts, vectors.bias_parts, strict=True):
        expected = branch.out if branch.out_gain is None else branch.out * branch.out_gain
        if branch.out.shape != activations.mixer_out.shape:
            # A Diff-S6 subtracts before out_proj, and its own norm and gate are factors there.
            gated = (branch.gate * branch.scan.apply(branch.x)).flatten(2)
            expected = gated @ branch.out_weight.mT + (0 if branch.out_bias is None else branch.out_bias)
        assert relative_error(part.sum(dim=2) + bias, expected) < BAR


def test_contributions_of_single_heads_sum_to_those_of_all(variant: HookedMamba) -> None:
    for activations in captured_blocks(variant, 70):
        direction = torch.randn(activations.mixer_out.shape[2])
        for sources in ("convolved", "input"):
            whole = contribution_along(activations, direction, sources=sources)
            by_head = contribution_along(activations, direction, sources=sources, per_head=True)
            assert relative_error(by_head.net.sum(dim=1), whole.net) < BAR
            one = contribution_along(activations, direction, heads=[1], sources=sources)
            assert relative_error(one.net, by_head.net[:, 1]) < BAR


def test_norms_are_those_of_the_vectors(variant: HookedMamba) -> None:
    for activations in captured_blocks(variant, 9):
        vectors = token_contributions(activations, range(9), sources="convolved")
        norms = contribution_norms(activations)
        scaled = [] if vectors.scaled is None else [vectors.scaled]
        net = [vectors.net] if vectors.is_differential else []
        for norm, value in zip(norms, [*vectors.parts, *scaled, *net], strict=True):
            assert relative_error(norm, value.norm(dim=-1)) < BAR


def test_norms_and_vectors_do_not_depend_on_how_sources_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffmamba_interp.implicit_attention import contributions

    (activations, *_) = captured_blocks(tiny_model(DIFFERENTIAL_VARIANTS[0]), 23)
    whole = {sources: token_contributions(activations, [5, 22], sources=sources) for sources in ("convolved", "input")}
    monkeypatch.setattr(contributions, "SOURCE_CHUNK_BYTES", 2000)
    for sources, expected in whole.items():
        chunked = token_contributions(activations, [5, 22], sources=sources)
        assert torch.allclose(chunked.net, expected.net, atol=1e-6)
        assert torch.allclose(chunked.bias, expected.bias, atol=1e-6)


def test_input_sources_are_what_a_change_of_one_input_changes() -> None:
    """The frozen mixer is linear in x_in: a source's part is x_in there times the slope there."""
    (activations, *_) = captured_blocks(tiny_model(), 9)
    (branch,) = activations.branches
    E, _ = effective_attention(branch, [7], channels=[3, 10])
    inputs = branch.x_in.flatten(2)[..., [3, 10]]
    alone = torch.zeros_like(inputs)
    alone[:, 5] = inputs[:, 5]
    expected = torch.einsum("bcts,bsc->btc", E, alone) @ branch.out_weight[:, [3, 10]].mT
    by_channel = (E[:, :, 0, 5] * inputs[:, 5]) @ branch.out_weight[:, [3, 10]].mT
    assert torch.allclose(expected[:, 0], by_channel, atol=1e-6)
    assert E[..., 8].abs().max() == 0


def test_padding_changes_nothing_before_it() -> None:
    model = tiny_model(DIFFERENTIAL_VARIANTS[0])
    tokens = random_tokens(2, 12)
    with torch.no_grad():
        padded = capture_block(model, tokens, 1, lengths=torch.tensor([12, 8]))
        alone = capture_block(model, tokens[1:, :8], 1)
    direction = torch.randn(16)
    rows = torch.tensor([[11], [-1]])
    with_padding = contribution_along(padded, direction, rows)
    assert torch.allclose(with_padding.net[1, :, :8], contribution_along(alone, direction, [-1]).net[0], atol=1e-6)
    assert with_padding.net[1, :, 8:].abs().max() == 0
    with pytest.raises(ValueError, match="lengths are"):
        contribution_along(padded, direction, [9])


@pytest.mark.parametrize("rows", [None, [69, 3]])
def test_gradients_are_those_of_autograd_through_the_formula(rows: list[int] | None) -> None:
    model = tiny_model(DIFFERENTIAL_VARIANTS[0], n_groups=2, d_model=32).double()
    activations, direction = capture_block(model, random_tokens(1, 70), 0), torch.randn(32, dtype=torch.float64)
    naive = []
    for branch in activations.branches:
        H = hidden_attention_matrix(branch.dt, branch.log_decay, branch.B, branch.C)
        H = H + torch.diag_embed(branch.D[:, None].expand(-1, 70))
        v = ((direction * branch.out_gain) @ branch.out_weight).unflatten(-1, (branch.n_heads, -1))
        naive.append((H * torch.einsum("bthp,bshp->bhts", v * branch.gate_at(None), branch.x)).sum(dim=1))
    expected = naive[0] - activations.lambda_ * naive[1]
    expected = expected if rows is None else expected[:, rows]
    made = contribution_along(activations, direction, rows).net
    assert relative_error(made, expected) < 1e-12
    cotangent, parameters = torch.randn_like(made), list(model.blocks[0].mixer.minuend.parameters())
    ours = torch.autograd.grad(made, parameters, cotangent, retain_graph=True)
    theirs = torch.autograd.grad(expected, parameters, cotangent)
    for our_gradient, their_gradient in zip(ours, theirs, strict=True):
        assert relative_error(our_gradient, their_gradient) < 1e-9


def test_gradients_reach_the_parameters_and_equal_those_of_the_model() -> None:
    """Summed over sources, a contribution is <v, mixer_out>; frozen scales change the gradient's path only."""
    model = tiny_model(DIFFERENTIAL_VARIANTS[0]).double()
    tokens, direction = random_tokens(1, 9), torch.randn(16, dtype=torch.float64)
    activations = capture_block(model, tokens, 0)
    parameters = [model.embed.weight, model.blocks[0].mixer.lambda_q1, model.blocks[0].mixer.minuend.A_log]
    made = contribution_along(activations, direction)
    ours = torch.autograd.grad((made.net.sum(dim=-1) + made.bias).sum(), parameters, retain_graph=True)
    theirs = torch.autograd.grad((activations.mixer_out @ direction).sum(), parameters)
    for our_gradient, their_gradient in zip(ours, theirs, strict=True):
        assert relative_error(our_gradient, their_gradient) < 1e-10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: contribution_along(a, torch.zeros(7)), "d_model"),
        (lambda a: contribution_along(a, torch.zeros(16), sources="output"), "sources"),
        (lambda a: contribution_along(a, torch.zeros(16), max_bytes=10), "max_bytes"),
        (lambda a: contribution_along(a, torch.zeros(16), per_head=True, impl="fused"), "no kernel"),
        (lambda a: token_contributions(a, None), "rows"),
        (lambda a: token_contributions(a, [0], max_bytes=10), "contribution_along"),
        (lambda a: effective_attention(a.branches[0], [0], [999]), "channels"),
        (lambda a: effective_attention(a.branches[0], [0], max_bytes=10), "channels="),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(call, message: str) -> None:
    (activations, *_) = captured_blocks(tiny_model(), 9)
    with pytest.raises(Exception, match=message):
        call(activations)
