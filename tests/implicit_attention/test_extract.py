"""`extract_attention`: what a record says, which run it shows, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.hook_names import FINAL_SCALE, block_point, differential_point, mixer_point
from diffmamba_interp.implicit_attention import (
    AttentionRecord,
    MemoryLimitError,
    capture_block,
    extract_attention,
    hidden_attention,
    logit_direction,
    residual_attribution,
)
from tests.models.tiny import N_TOKENS, random_tokens, tiny_model

LAMBDA = differential_point(0, "lambda")


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    """Block 0 differential, block 1 plain."""
    return tiny_model(DifferentialConfig(placement=(0,)))


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return random_tokens(2, 9)


def test_the_difference_contains_lambda_and_the_subtrahend_does_not(model: HookedMamba, tokens: torch.Tensor) -> None:
    record = extract_attention(model, tokens, 0)
    branches = capture_block(model, tokens, 0).branches
    H1, H2 = (hidden_attention(b.dt, None, b.B, b.C, log_decay=b.log_decay) for b in branches)
    assert torch.equal(record.minuend, H1.detach())
    assert torch.equal(record.subtrahend, H2.detach())
    assert float(record.lambda_) == pytest.approx(float(model.blocks[0].mixer.lambda_().detach()))
    assert torch.equal(record.difference, H1.detach() - record.lambda_ * H2.detach())
    assert "H1 − λ H2" in record.difference_means


def test_a_block_speaks_its_own_language(model: HookedMamba, tokens: torch.Tensor) -> None:
    differential, plain = extract_attention(model, tokens)
    for name in ("minuend", "subtrahend", "difference", "lambda_"):
        with pytest.raises(AttributeError, match="plain and has no"):
            getattr(plain, name)
    with pytest.raises(AttributeError, match="differential and has no `weights`"):
        _ = differential.weights
    assert torch.equal(plain.net, plain.weights)
    assert torch.equal(differential.net, differential.difference)
    assert list(plain.pictures) == ["weights"]


def test_all_blocks_come_one_by_one_and_equal_single_ones(model: HookedMamba, tokens: torch.Tensor) -> None:
    records = extract_attention(model, tokens, block=None, reduce="mean")
    assert isinstance(records, Iterator)
    for record in records:
        alone = extract_attention(model, tokens, record.block, reduce="mean")
        assert torch.equal(record.net, alone.net)
    assert [record.block for record in extract_attention(model, tokens, [-1])] == [1]


def test_all_blocks_cost_one_forward_pass(model: HookedMamba, tokens: torch.Tensor) -> None:
    calls = []
    with model.hooks([("blocks.*.hook_resid_pre", lambda value, name: calls.append(name))]):
        list(extract_attention(model, tokens))
    assert len(calls) == model.cfg.n_layers


@pytest.mark.parametrize("kind", ["hidden", "contribution", "contribution_norm"])
def test_chosen_rows_are_rows_of_the_whole(model: HookedMamba, tokens: torch.Tensor, kind: str) -> None:
    options = {"direction": 3} if kind == "contribution" else {}
    for block in (0, 1):
        whole = extract_attention(model, tokens, block, kind, **options)
        few = extract_attention(model, tokens, block, kind, rows=[4, -1], **options)
        assert few.rows.tolist() == [[4, 8], [4, 8]]
        assert torch.allclose(few.net, whole.net.index_select(whole.row_axis, torch.tensor([4, 8])), atol=1e-5)


@pytest.mark.parametrize("reduce", ["mean", "abs_mean", "max_abs"])
def test_a_reduction_takes_the_branches_apart_before_subtracting(
    model: HookedMamba, tokens: torch.Tensor, reduce: str
) -> None:
    record, whole = extract_attention(model, tokens, 0, reduce=reduce), extract_attention(model, tokens, 0)
    by_hand = {
        "mean": lambda H: H.mean(1),
        "abs_mean": lambda H: H.abs().mean(1),
        "max_abs": lambda H: H.abs().amax(1),
    }[reduce]
    expected = by_hand(whole.minuend) - whole.lambda_ * by_hand(whole.subtrahend)
    assert torch.allclose(record.difference, expected, atol=1e-6)
    assert reduce in record.difference_means


def test_heads_choose(model: HookedMamba, tokens: torch.Tensor) -> None:
    whole, one = extract_attention(model, tokens, 1), extract_attention(model, tokens, 1, heads=[1])
    assert torch.equal(one.weights, whole.weights[:, [1]])
    assert one.heads == (1,)


def test_contributions_of_a_token_are_parts_of_its_logit(model: HookedMamba, tokens: torch.Tensor) -> None:
    answers = torch.tensor([3, 7])
    attribution = residual_attribution(model, tokens, answers)
    for record in extract_attention(model, tokens, None, "contribution", rows=[-1], direction=answers):
        assert torch.allclose(record.net[:, 0], attribution.difference[:, record.block], atol=1e-5)
        assert record.remainder.abs().max() < 1e-5


def test_a_direction_may_be_a_vector_or_a_function_of_the_block(model: HookedMamba, tokens: torch.Tensor) -> None:
    v = logit_direction(model, 3).detach()
    fixed = extract_attention(model, tokens, 1, "contribution", direction=v)
    asked = extract_attention(model, tokens, 1, "contribution", direction=lambda block: block * v)
    assert torch.equal(fixed.net, asked.net)
    per_sample = extract_attention(model, tokens, 1, "contribution", direction=torch.stack([v, 2 * v]))
    assert torch.allclose(per_sample.net[1], 2 * fixed.net[1], atol=1e-5)


def test_input_sources_and_heads_apart_change_the_picture_and_not_the_sum(
    model: HookedMamba, tokens: torch.Tensor
) -> None:
    base = extract_attention(model, tokens, 0, "contribution", direction=3)
    spread = extract_attention(model, tokens, 0, "contribution", direction=3, sources="input")
    apart = extract_attention(model, tokens, 0, "contribution", direction=3, per_head=True)
    assert not torch.allclose(spread.net, base.net, atol=1e-3)
    assert torch.allclose(apart.net.sum(dim=1), base.net, atol=1e-5)
    for record in (base, spread, apart):
        assert record.remainder.abs().max() < 1e-5


def test_the_norm_of_the_difference_is_no_difference_of_norms(model: HookedMamba, tokens: torch.Tensor) -> None:
    record = extract_attention(model, tokens, 0, "contribution_norm")
    naive = record.minuend - record.lambda_ * record.subtrahend
    assert (record.difference >= 0).all()
    assert (record.difference - naive).max() > 1e-3


def test_lambda_patched_by_a_hook_is_the_lambda_of_the_record(model: HookedMamba, tokens: torch.Tensor) -> None:
    direction = logit_direction(model, 3).detach()
    with model.hooks([(LAMBDA, lambda value, name: torch.zeros_like(value))]):
        record = extract_attention(model, tokens, 0, "contribution", direction=direction)
    assert float(record.lambda_) == 0
    assert torch.equal(record.difference, record.minuend)
    assert record.remainder.abs().max() < 1e-5


def test_lambda_may_differ_between_samples(model: HookedMamba, tokens: torch.Tensor) -> None:
    each = torch.tensor([0.0, 1.5]).reshape(2, 1, 1)
    with model.hooks([(LAMBDA, lambda value, name: each)]):
        hidden = extract_attention(model, tokens, 0, rows=[2, 8])
        exact = extract_attention(model, tokens, 0, "contribution", direction=3)
        norms = extract_attention(model, tokens, 0, "contribution_norm")
    assert hidden.lambda_.tolist() == [[0.0, 0.0], [1.5, 1.5]]
    assert torch.equal(hidden.difference[0], hidden.minuend[0])
    assert torch.equal(hidden.difference[1], hidden.minuend[1] - 1.5 * hidden.subtrahend[1])
    assert exact.remainder.abs().max() < 1e-5
    assert torch.allclose(norms.difference[0], norms.minuend[0])


def test_a_patched_step_size_shows_in_the_picture(model: HookedMamba, tokens: torch.Tensor) -> None:
    def knock_out(dt: torch.Tensor, name: str) -> torch.Tensor:
        return dt * (torch.arange(dt.shape[1]) != 4)[:, None]

    with model.hooks([(mixer_point(1, "dt"), knock_out)]):
        record = extract_attention(model, tokens, 1)
    assert record.weights[..., 4].abs().max() == 0


def test_what_a_hook_writes_behind_the_scan_is_left_as_remainder(model: HookedMamba, tokens: torch.Tensor) -> None:
    with model.hooks([("blocks.1.hook_mixer_out", lambda value, name: value + 1)]):
        record = extract_attention(model, tokens, 1, "contribution", direction=torch.ones(16))
    assert torch.allclose(record.remainder, torch.tensor(16.0), atol=1e-4)


def test_a_replaced_scan_is_refused(model: HookedMamba, tokens: torch.Tensor) -> None:
    with (
        model.hooks([(mixer_point(1, "hidden_attention"), lambda value, name: 2 * value)]),
        pytest.raises(ValueError, match="hook_hidden_attention.*Remove the hook"),
    ):
        extract_attention(model, tokens, 1)


def test_records_left_in_the_iterator_after_the_hooks_are_gone_are_refused(
    model: HookedMamba, tokens: torch.Tensor
) -> None:
    with model.hooks([(LAMBDA, lambda value, name: torch.zeros_like(value))]):
        records = extract_attention(model, tokens)
        next(records)
    with pytest.raises(RuntimeError, match="inside the `with"):
        next(records)


def test_right_padding_is_left_blank(model: HookedMamba, tokens: torch.Tensor) -> None:
    record = extract_attention(model, tokens, 0, lengths=torch.tensor([9, 5]))
    alone = extract_attention(model, tokens[1:, :5], 0)
    assert torch.allclose(record.difference[1, :, :5, :5], alone.difference[0], atol=1e-6)
    assert record.difference[1, :, 5:].abs().max() == 0
    last = extract_attention(model, tokens, 0, rows=[-1], lengths=torch.tensor([9, 5]))
    assert last.rows.tolist() == [[8], [4]]


def test_gradients_are_kept_only_when_asked_for(model: HookedMamba, tokens: torch.Tensor) -> None:
    assert not extract_attention(model, tokens, 0).difference.requires_grad
    record = extract_attention(model, tokens, 0, grad=True)
    (gradient,) = torch.autograd.grad(record.difference.sum(), model.blocks[0].mixer.lambda_q1)
    assert gradient.abs().max() > 0


def test_an_inference_mode_model_is_read_too(model: HookedMamba, tokens: torch.Tensor) -> None:
    with torch.inference_mode():
        assert [record.block for record in extract_attention(model, tokens)] == [0, 1]


def test_a_float64_model_is_read_in_float64(tokens: torch.Tensor) -> None:
    double = tiny_model(DifferentialConfig(placement=(0,))).double()
    for block in (0, 1):
        record = extract_attention(double, tokens, block, "contribution", direction=3)
        assert record.net.dtype == torch.float64
        assert record.remainder.abs().max() < 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 2}, "0 to 1"),
        ({"block": []}, "0 to 1"),
        ({"kind": "contribution"}, "needs a direction"),
        ({"direction": 3}, "direction is given"),
        ({"kind": "contribution", "direction": 3, "reduce": "mean"}, "exact sums over heads"),
        ({"per_head": True}, "per_head"),
        ({"rows": [9]}, "lengths are"),
        ({"heads": [9]}, "0 to "),
        ({"token_strings": ["a"]}, "one string per token"),
        ({"max_bytes": 100}, "rows=.*heads=.*reduce="),
    ],
)
def test_what_does_not_fit_is_refused_before_the_model_runs(
    model: HookedMamba, tokens: torch.Tensor, options: dict, message: str
) -> None:
    ran = []
    with (
        model.hooks([("hook_embed", lambda value, name: ran.append(name))]),
        pytest.raises((ValueError, MemoryLimitError), match=message),
    ):
        extract_attention(model, tokens, **options)
    assert ran == []


@pytest.mark.parametrize("options", [{"reduce": "mean"}, {"kind": "contribution", "direction": 3}])
def test_with_an_earlier_run_no_block_before_is_run_again(
    model: HookedMamba, tokens: torch.Tensor, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cache = model.run_with_cache(tokens, [block_point(1, "resid_pre"), FINAL_SCALE])
    again = extract_attention(model, tokens, 1, **options)
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: pytest.fail("the model was run again"))
    kept = extract_attention(model, tokens, 1, cache=cache, **options)
    assert torch.equal(kept.weights, again.weights)


def test_an_earlier_run_that_lacks_the_block_is_made_up_for(model: HookedMamba, tokens: torch.Tensor) -> None:
    _, cache = model.run_with_cache(tokens, block_point(1, "resid_pre"))
    first = extract_attention(model, tokens, 0, cache=cache)
    assert torch.equal(first.minuend, extract_attention(model, tokens, 0).minuend)


def test_a_run_of_other_tokens_is_refused(model: HookedMamba, tokens: torch.Tensor) -> None:
    _, cache = model.run_with_cache(tokens[:, :5], block_point(1, "resid_pre"))
    with pytest.raises(ValueError, match="a run of these tokens"):
        extract_attention(model, tokens, 1, cache=cache)


def test_norms_of_all_rows_of_a_long_prompt_are_refused(model: HookedMamba) -> None:
    with pytest.raises(ValueError, match=r"rows=\[-1\]"):
        extract_attention(model, random_tokens(1, 257), 0, "contribution_norm")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduce": "mean", "token_strings": [["<b>", "é", "\n"] * 3] * 2},
        {"kind": "contribution", "direction": 3, "rows": [2, -1]},
        {"kind": "contribution_norm"},
    ],
)
@pytest.mark.parametrize("block", [0, 1])
def test_a_record_survives_the_disk(
    model: HookedMamba, tokens: torch.Tensor, tmp_path: Path, options: dict, block: int
) -> None:
    record = extract_attention(model, tokens, block, **options)
    path = record.save(tmp_path / "deep" / "record")
    assert [file.name for file in path.parent.iterdir()] == ["record.npz"]
    loaded = AttentionRecord.load(path)
    for name in ("kind", "block", "normalisation", "heads", "per_head", "reduce", "sources", "token_strings"):
        assert getattr(loaded, name) == getattr(record, name)
    expected = record.to_numpy()
    assert loaded.to_numpy().keys() == expected.keys()
    assert all((loaded.to_numpy()[name] == value).all() for name, value in expected.items())


def test_a_record_is_printed_on_a_line(model: HookedMamba, tokens: torch.Tensor) -> None:
    record = extract_attention(model, tokens, 0, token_strings=[["word"] * 9] * 2)
    assert "parts=(float32[2, 4, 9, 9], float32[2, 4, 9, 9])" in repr(record)
    assert len(repr(record)) < 500
    assert "branches=(BranchActivations(" in repr(capture_block(model, tokens, 0))


def test_a_file_that_is_no_record_is_refused(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "other.npz", values=np.array('{"format": "something"}'))
    np.savez(tmp_path / "arrays.npz", x=np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("other", "arrays", "text"):
        with pytest.raises(ValueError, match="no attention record"):
            AttentionRecord.load(tmp_path / f"{name}.npz")


# ------------------------------------------------------------------ arguments that used to mean something else


@pytest.mark.parametrize(
    "direction", [-1, N_TOKENS, torch.tensor([3, -1]), torch.tensor([3, 4, 5]), torch.tensor(True)]
)
def test_a_direction_that_is_no_token_is_refused(model: HookedMamba, tokens: torch.Tensor, direction: object) -> None:
    with pytest.raises(ValueError, match="direction"):
        extract_attention(model, tokens, 0, "contribution", direction=direction)  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [{"token": -1}, {"token": 3, "versus": N_TOKENS}])
def test_a_logit_direction_of_no_token_is_refused(model: HookedMamba, ids: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{list(ids)[-1]} is"):
        logit_direction(model, **ids)


@pytest.mark.parametrize("block", [-1, 2])
def test_a_block_that_is_not_there_is_refused_by_its_name(model: HookedMamba, tokens: torch.Tensor, block: int) -> None:
    with pytest.raises(ValueError, match=f"block is {block}: the model has blocks 0 to 1"):
        capture_block(model, tokens, block)


def test_numpy_numbers_and_a_bare_head_mean_what_pythons_do(model: HookedMamba, tokens: torch.Tensor) -> None:
    expected = extract_attention(model, tokens, 0, rows=[3], heads=[1])
    for given in (
        {"block": np.int64(0), "rows": np.array([3]), "heads": np.int32(1)},
        {"block": torch.tensor(0), "rows": [[3], [3]], "heads": 1},
    ):
        assert torch.equal(extract_attention(model, tokens, **given).difference, expected.difference)
    with pytest.raises(TypeError, match="heads"):
        extract_attention(model, tokens, 0, heads=[1.5])  # type: ignore[list-item]


def test_a_cache_of_other_tokens_or_of_another_model_is_refused(model: HookedMamba, tokens: torch.Tensor) -> None:
    _, cache = model.run_with_cache(tokens)
    assert isinstance(extract_attention(model, tokens, 1, cache=cache.to("cpu").detach()), AttentionRecord)
    other = tokens.clone()
    other[1, 4] = (other[1, 4] + 1) % N_TOKENS
    with pytest.raises(ValueError, match=r"run of other tokens \(they differ first at \(1, 4\)"):
        extract_attention(model, other, 1, cache=cache)
    assert isinstance(extract_attention(model, other, 1, lengths=[9, 4], cache=cache), AttentionRecord)
    with pytest.raises(ValueError, match="of shape"):
        extract_attention(model, tokens[:, :5], 1, cache=cache)
    with pytest.raises(ValueError, match="another model"):
        extract_attention(tiny_model(DifferentialConfig(placement=(0,)), seed=1), tokens, 1, cache=cache)


def test_a_cache_of_a_shorter_run_is_refused(model: HookedMamba, tokens: torch.Tensor) -> None:
    _, cache = model.run_with_cache(tokens, lengths=[9, 4])
    with pytest.raises(ValueError, match="they differ in their lengths"):
        extract_attention(model, tokens, 1, cache=cache)
    assert isinstance(extract_attention(model, tokens, 1, lengths=[8, 4], cache=cache), AttentionRecord)


def test_a_cache_keeps_its_tokens_when_the_callers_change(model: HookedMamba, tokens: torch.Tensor) -> None:
    changed = tokens.clone()
    _, cache = model.run_with_cache(changed)
    changed[0, 0] = (changed[0, 0] + 1) % N_TOKENS
    with pytest.raises(ValueError, match="other tokens"):
        extract_attention(model, changed, 1, cache=cache)
