"""Numbers of single heads, on scans whose dt, B, C and x are set by hand so that every share is known."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.hook_names import mixer_prefix
from diffmamba_interp.implicit_attention import (
    DEFINITIONS,
    HeadRivals,
    HeadScores,
    capture_block,
    extract_attention,
    gather_and_aggregate,
    gather_prompts,
    head_contribution_norms,
    head_rivals,
    needle_share,
    state_sink,
    token_contributions,
)
from diffmamba_interp.implicit_attention.head_rivals import matrix_measures
from diffmamba_interp.interventions import Head, knock_out_heads, largest_heads, matched_heads
from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.spans import Spans
from diffmamba_interp.text import boundary_tokens
from tests.models import mixers  # noqa: F401 - registers the toy
from tests.models.tiny import DIFF_S6_VARIANTS, random_tokens, relative_error, tiny_model

PLACEMENT = DifferentialConfig(placement=(0,))
STOP = 5
ROWS = [(0, "minuend"), (0, "subtrahend"), (1, None)]


def token_weights(tokens: Tensor, weights: dict[int, float]) -> Tensor:
    """The weight of each token, 1 for all others; [batch, pos]."""
    return torch.stack([torch.tensor([weights.get(int(token), 1.0) for token in row]) for row in tokens])


def transparent(weights: Tensor, heads: Sequence[int] | None = None) -> list[Any]:
    """Hooks that make H[h,t,s] the weight of s in the chosen heads of all scans, 1 in the others: no decay, x all 1."""

    def dt(value: Tensor, name: str) -> Tensor:
        chosen = list(range(value.shape[2]) if heads is None else heads)
        made = torch.ones_like(value)
        made[:, :, chosen] = weights[:, :, None].to(value)
        return made

    def same(value: Tensor, name: str) -> Tensor:
        return torch.full_like(value, value.shape[-1] ** -0.5)

    return [
        ("*hook_dt", dt),
        ("*hook_log_decay", lambda value, name: torch.zeros_like(value)),
        ("*hook_B", same),
        ("*hook_C", same),
        ("*.hook_x", lambda value, name: torch.ones_like(value)),
    ]


def with_hooks(model: HookedMamba, pairs: list[Any]) -> Any:
    names = {pattern: [name for name in model.hook_points if name.endswith(pattern[1:])] for pattern, _ in pairs}
    return model.hooks([(names[pattern], function) for pattern, function in pairs])


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    """Block 0 differential, block 1 plain; without the skip, which would add to what a position reads of itself."""
    made = tiny_model(PLACEMENT)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith(".D"):
                parameter.zero_()
    return made


def test_heads_that_take_longer_steps_at_stops_have_that_ratio_and_that_share(model: HookedMamba) -> None:
    """H[t,s] = 3 at stops and 1 elsewhere in heads 0 and 1, so k[t] = 3 b / (3 b + o) with b, o the tokens seen."""
    tokens = torch.tensor([[1, 2, STOP, 3, 4, STOP, 6, 7], [9, STOP, 9, 9, 0, 0, 0, 0]])
    lengths = torch.tensor([8, 4])
    with with_hooks(model, transparent(token_weights(tokens, {STOP: 3.0}), heads=(0, 1))):
        scores = state_sink(model, tokens, {STOP}, lengths=lengths)
    assert list(scores.rows) == ROWS
    assert scores.values["dt_ratio"].shape == (2, 3, 4)
    long = [3 / 5, 3 / 6, 3 / 7, 6 / 10, 6 / 11, 6 / 12]
    short = [3 / 4, 3 / 5, 3 / 6]
    even = [[1 / 3, 1 / 4, 1 / 5, 2 / 6, 2 / 7, 2 / 8], [1 / 2, 1 / 3, 1 / 4]]
    for row in range(3):
        n = scores.n_heads[row]
        np.testing.assert_allclose(scores.values["dt_ratio"][:, row, :2], 3.0, rtol=1e-5)
        np.testing.assert_allclose(scores.values["dt_ratio"][:, row, 2:n], 1.0, rtol=1e-5)
        for sample, shares in enumerate((long, short)):
            np.testing.assert_allclose(scores.values["sink_share"][sample, row, :2], np.mean(shares), rtol=1e-5)
            np.testing.assert_allclose(scores.values["sink_share"][sample, row, 2:n], np.mean(even[sample]), rtol=1e-5)
    np.testing.assert_allclose(scores.uniform["sink_share"], [np.mean(row) for row in even], rtol=1e-15)
    # What is found is what is knocked out, beside heads of the same scans.
    chosen = largest_heads(scores.by_head("dt_ratio"), 0.5)
    assert set(chosen) == {Head(block, part, head) for block, part in ROWS for head in (0, 1)}
    matches = matched_heads(chosen, scores.by_head("output_norm"))
    assert set(matches) == {Head(block, part, head) for block, part in ROWS for head in (2, 3)}
    assert len(knock_out_heads(chosen, 2)) == 3


def test_a_text_without_boundary_tokens_or_without_others_has_no_sink(model: HookedMamba) -> None:
    scores = state_sink(model, torch.tensor([[1, 2, 3], [STOP, STOP, STOP]]), {STOP})
    assert np.isnan(scores.values["dt_ratio"]).all()
    assert np.isnan(scores.values["sink_share"][0]).all()
    np.testing.assert_allclose(scores.values["sink_share"][1], 1.0, rtol=1e-6)
    assert np.isnan(scores.mean("dt_ratio")).all()
    with pytest.raises(ValueError, match="boundary is empty"):
        state_sink(model, random_tokens(), [])
    with pytest.raises(ValueError, match="the model's mixer has no dt"):
        state_sink(tiny_model(mixer="toy"), random_tokens(), {STOP})


def span(start: int, end: int) -> SimpleNamespace:
    return SimpleNamespace(token_start=start, token_end=end)


def prompt(n_tokens: int, facts: Sequence[tuple[int, int]], supporting: tuple[int, ...]) -> SimpleNamespace:
    return SimpleNamespace(
        tokens=np.arange(n_tokens) % 20,
        answer_tokens=(1,),
        label_tokens=((1,), (2,)),
        fact_spans=tuple(span(*fact) for fact in facts),
        supporting=supporting,
        question_span=span(n_tokens - 2, n_tokens),
        filler_spans=(),
    )


def test_gather_and_aggregate_are_those_of_weights_set_by_hand(model: HookedMamba) -> None:
    """|T[t,s]| goes as the weight of s. Token k of these prompts stands at position k."""
    prompts = [prompt(12, [(1, 4), (5, 9), (9, 10)], (1,)), prompt(8, [(0, 3), (3, 6)], (0, 1))]
    weights = torch.ones(2, 12)
    weights[:, 2], weights[:, 7] = 5.0, 9.0
    with with_hooks(model, transparent(weights)):
        scores = gather_prompts(model, prompts)  # type: ignore[arg-type]
    # The first prompt: fact 1..3 read at 3 (weights 1 1 5 1), fact 5..8 at 8; the fact of one token has no other.
    first = np.mean([6 / 8, (1 + 1 + 9) / (1 + 1 + 5 + 1 + 1 + 1 + 1 + 9 + 1)])
    second = np.mean([2 / 7, 2 / 10])
    needles = [(9 + 1) / 24, (1 + 5 + 1 + 1) / (8 + 4 + 8)]
    for row in range(3):
        n = scores.n_heads[row]
        for sample, expected in enumerate((first, second)):
            np.testing.assert_allclose(scores.values["gather"][sample, row, :n], expected, rtol=1e-5)
            np.testing.assert_allclose(scores.values["aggregate"][sample, row, :n], needles[sample], rtol=1e-5)
    np.testing.assert_allclose(scores.uniform["gather"], [np.mean([2 / 4, 3 / 9]), np.mean([2 / 3, 2 / 6])], rtol=1e-15)
    np.testing.assert_allclose(scores.uniform["aggregate"], [2 / 12, 4 / 8], rtol=1e-15)


def test_the_needle_share_is_that_of_weights_set_by_hand(model: HookedMamba) -> None:
    """|H[t,s]| is the weight of s, in a padded sample too."""
    weights = torch.ones(2, 9)
    weights[0, 2], weights[1, 1] = 5.0, 3.0
    spans = [Spans(needle=((2, 4),), distractors=((5, 8),)), Spans(needle=((0, 2), (4, 5)))]
    with with_hooks(model, transparent(weights)):
        scores = needle_share(model, random_tokens(2, 9), spans, lengths=[9, 6])
    assert scores.rows == tuple(ROWS)
    for row in range(3):
        n = scores.n_heads[row]
        for sample, expected in enumerate(((5 + 1) / 13, (1 + 3 + 1) / 8)):
            np.testing.assert_allclose(scores.values["needle_share"][sample, row, :n], expected, rtol=1e-5)
    # As exactly as Python divides: a page must not round the same share to 17% here and 18% there.
    assert scores.uniform["needle_share"].tolist() == [2 / 9, 3 / 6]


def test_the_needle_share_is_that_of_the_extracted_row_and_nan_without_a_needle(model: HookedMamba) -> None:
    tokens = random_tokens(2, 9)
    scores = needle_share(model, tokens, [Spans(needle=((2, 4),)), Spans()])
    row = extract_attention(model, tokens, 0, rows=[-1]).subtrahend[0, :, 0].abs()
    expected = row[:, 2:4].sum(dim=-1) / row.sum(dim=-1)
    np.testing.assert_allclose(scores.values["needle_share"][0, 1, : len(expected)], expected.detach(), rtol=1e-5)
    assert np.isnan(scores.values["needle_share"][1]).all()
    assert np.isnan(scores.uniform["needle_share"][1])
    with pytest.raises(ValueError, match="reach beyond the end of their sample"):
        needle_share(model, tokens, Spans(needle=((5, 8),)), lengths=[9, 6])


def test_prompts_in_batches_keep_their_order_and_their_numbers(model: HookedMamba) -> None:
    prompts = [prompt(8, [(0, 3)], (0,)), prompt(12, [(1, 4), (5, 9)], (1,)), prompt(7, [(2, 5)], ())]
    done: list[int] = []
    together = gather_prompts(model, prompts)  # type: ignore[arg-type]
    apart = gather_prompts(model, prompts, batch_tokens=1, on_progress=done.append)  # type: ignore[arg-type]
    assert sum(done) == 3
    assert done[0] == 1
    for name, value in together.values.items():
        np.testing.assert_allclose(apart.values[name], value, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(apart.uniform["gather"], together.uniform["gather"])
    assert np.isnan(together.values["aggregate"][2]).all()
    assert not np.isnan(together.values["aggregate"][:2]).any()
    with pytest.raises(ValueError, match="prompts is empty"):
        gather_prompts(model, [])


def test_spans_that_do_not_fit_the_tokens_are_refused(model: HookedMamba) -> None:
    spans = Spans(needle=((0, 4),), distractors=((5, 8),))
    made = gather_and_aggregate(model, random_tokens(2, 9), spans)
    assert not np.isnan(made.values["gather"]).any()
    with pytest.raises(ValueError, match="spans holds 1 Spans for 2 samples"):
        gather_and_aggregate(model, random_tokens(2, 9), [spans])
    with pytest.raises(ValueError, match=r"distractors has the interval \(5, 8\), but there are 6 positions"):
        gather_and_aggregate(model, random_tokens(2, 9), spans, lengths=[9, 6])


@torch.no_grad()
@pytest.mark.parametrize(
    "kind",
    [
        {"differential": PLACEMENT, "n_groups": 2, "d_model": 32},
        {"differential": DifferentialConfig(placement=(0,), normalisation="pre")},
        {"differential": DifferentialConfig(placement=(0,), normalisation="none"), "mixer": "mamba1"},
        {"differential": DIFF_S6_VARIANTS[1], "n_groups": 2},
        {"mixer": "mamba1"},
    ],
)
def test_norms_of_single_heads_are_those_of_their_vectors(kind: dict[str, Any]) -> None:
    model, tokens = tiny_model(**kind), random_tokens(2, 7)
    rows = torch.tensor([[0, 3, 6], [6, 2, 5]])
    activations = capture_block(model, tokens, 0)
    expected = state_sink(model, tokens, {int(tokens[0, 0])}).values["output_norm"]
    for number, branch in enumerate(activations.branches):
        made = head_contribution_norms(branch, rows)
        for head in (0, 3):
            vectors = token_contributions(activations, rows, head, sources="convolved")
            assert relative_error(made[:, head], vectors.parts[number].norm(dim=-1)) < 1e-5
            whole = token_contributions(activations, list(range(7)), head, sources="convolved")
            added = whole.parts[number].sum(dim=2).norm(dim=-1)
            if number:
                lambda_ = activations.lambda_at(None)
                assert lambda_ is not None
                added = added * (lambda_ if lambda_.ndim == 0 else lambda_[..., head]).abs()
            np.testing.assert_allclose(expected[:, number, head], added.mean(dim=1).numpy(), rtol=1e-4)


def test_matrices_set_by_hand_have_the_negative_mass_and_the_redundancy_they_should() -> None:
    """Heads 0 and 1 alike, head 2 their opposite, head 3 orthogonal to them and with a quarter of its mass below 0."""
    one, other = torch.zeros(4, 4), torch.zeros(4, 4)
    one[3, :2] = torch.tensor([2.0, 1.0])
    other[3, 2:] = torch.tensor([3.0, -1.0])
    made = matrix_measures(torch.stack([one, 4 * one, -one, other])[None])
    assert torch.allclose(made["negative_mass"], torch.tensor([[0.0, 0.0, 1.0, 0.25]]))
    assert torch.allclose(made["redundancy"], torch.tensor([[0.0, 0.0, -2 / 3, 0.0]]), atol=1e-6)
    assert matrix_measures(torch.ones(1, 1, 2, 2))["redundancy"].isnan().all()


@torch.no_grad()
def test_branches_that_are_alike_leave_the_matrices_of_either() -> None:
    """H - lambda H has the signs of H for lambda below 1, and none of them left beyond it."""
    model = tiny_model(PLACEMENT)
    mixer: Any = model.blocks[0].mixer
    mixer.subtrahend.load_state_dict(mixer.minuend.state_dict())
    tokens, lengths = random_tokens(2, 9), torch.tensor([9, 6])
    for lambda_, sign in ((0.25, 1), (3.0, -1)):
        with model.hooks([("blocks.0.mixer.hook_lambda", lambda value, name, to=lambda_: torch.full_like(value, to))]):
            made = head_rivals(model, tokens, lengths=lengths)
        assert list(made.rows) == [(0, "minuend"), (0, "subtrahend"), (0, "difference"), (1, None)]
        negative, redundancy = made.values["negative_mass"], made.values["redundancy"]
        np.testing.assert_allclose(negative[:, 1], negative[:, 0], rtol=1e-5)
        left = negative[:, 0] if sign == 1 else 1 - negative[:, 0]
        np.testing.assert_allclose(negative[:, 2], left, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(redundancy[:, 2], redundancy[:, 0], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(made.branch_cosine, [[1.0, np.nan]] * 2, rtol=1e-5)
    alone = head_rivals(model, tokens[1:, :6])
    np.testing.assert_allclose(made.values["negative_mass"][1, 0], alone.values["negative_mass"][0, 0], rtol=1e-5)
    assert set(made.by_head("redundancy")) == set(ROWS)


def test_scores_go_to_json_and_back_and_join(model: HookedMamba) -> None:
    tokens = random_tokens()
    sink, rivals = state_sink(model, tokens, {STOP, 1, 2, 3}), head_rivals(model, tokens)
    assert set(sink.values) | set(rivals.values) < set(DEFINITIONS)
    again = HeadScores.from_dict(json.loads(json.dumps(sink.to_dict())))
    assert again.rows == sink.rows
    np.testing.assert_array_equal(again.values["dt_ratio"], sink.values["dt_ratio"])
    both = HeadRivals.from_dict(json.loads(json.dumps(rivals.to_dict())))
    np.testing.assert_array_equal(both.branch_cosine, rivals.branch_cosine)
    prompts = [prompt(9, [(0, 3)], (0,))] * 2
    joined = sink.joined(gather_prompts(model, prompts))  # type: ignore[arg-type]
    assert set(joined.values) == {"dt_ratio", "sink_share", "gather", "aggregate", "output_norm"}
    with pytest.raises(ValueError, match="the scores are of other scans or samples"):
        sink.joined(rivals)
    with pytest.raises(KeyError, match="no measure 'gather'"):
        sink.mean("gather")


def test_boundary_tokens_are_full_stops_line_breaks_and_the_beginning() -> None:
    tokenizer = load_demo_tokenizer()
    texts = {tokenizer.decode([token], skip_special_tokens=False) for token in boundary_tokens(tokenizer)}
    assert {".", " .", "\n", "\n\n", " \n", "\r\n", tokenizer.bos_token} <= texts
    assert not {" ", "...", ".</", ",", "?", "    ", "\t"} & texts


@torch.no_grad()
def test_what_is_read_at_boundary_tokens_alone_is_a_share_of_one() -> None:
    """All of the writes elsewhere gone: whatever the other scores, the sink share is 1 in every head."""
    model, tokens = tiny_model(), torch.tensor([[1, STOP, 3, 4, STOP, 7]])
    prefix = mixer_prefix(0, None)
    only = (tokens == STOP)[..., None]
    with model.hooks([(f"{prefix}.hook_dt", lambda value, name: value * only)]):
        scores = state_sink(model, tokens, {STOP})
    np.testing.assert_allclose(scores.values["sink_share"][0, 0], 1.0, rtol=1e-6)
    assert (scores.values["sink_share"][0, 1] < 0.99).all()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [{"differential": PLACEMENT}, {"differential": PLACEMENT, "mixer": "mamba1"}])
def test_scores_on_the_gpu_path_are_those_of_the_reference(kind: dict[str, Any]) -> None:
    model = tiny_model(**{**kind, "d_state": 16}).to("cuda")
    tokens, lengths = random_tokens(2, 40).cuda(), torch.tensor([40, 25]).cuda()
    spans = Spans(needle=((3, 9),), distractors=((12, 20),))
    read: dict[str, list[HeadScores]] = {}
    for impl in ("reference", "fused"):
        model.impl = impl  # type: ignore[assignment]
        read[impl] = [
            state_sink(model, tokens, {STOP, 1, 2}, lengths=lengths),
            gather_and_aggregate(model, tokens, spans, lengths=lengths),
            head_rivals(model, tokens, lengths=lengths),
        ]
    for given, expected in zip(read["fused"], read["reference"], strict=True):
        for name, value in expected.values.items():
            np.testing.assert_allclose(given.values[name], value, rtol=1e-2, atol=2e-3, err_msg=name)
