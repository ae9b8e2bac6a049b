"""The graph of a logit: every depth adds up to it, and what enters a node and what leaves it are one number."""

import json

import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.implicit_attention import ContributionGraph, contribution_graph, residual_attribution
from tests.models.tiny import DIFF_S6_VARIANTS, DIFFERENTIAL_VARIANTS, random_tokens, tiny_model, variant_id

ALL = DifferentialConfig(placement="all")


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0, 2)), n_layers=3)


@pytest.fixture(scope="module")
def graph(model: HookedMamba) -> ContributionGraph:
    return contribution_graph(model, random_tokens(2, 9), 3, 6, versus=torch.tensor([1, 2]))


def require_conserved(graph: ContributionGraph) -> None:
    through = graph.minuend + graph.subtrahend
    size = float(graph.node.abs().max())
    assert size > 0.01
    assert graph.remainder.abs().max() < 2e-5 * size
    leaving = graph.straight + through.sum(dim=2)
    assert torch.allclose(graph.node[:, :-1], leaving, atol=2e-5 * size)
    entering = graph.straight + through.sum(dim=3) + graph.bias
    assert torch.allclose(graph.node[:, 1:], entering, atol=2e-5 * size)


@pytest.mark.parametrize(
    "kind",
    [
        *(
            {"differential": cfg, "n_groups": 2, "d_model": 32}
            for cfg in (*DIFFERENTIAL_VARIANTS[::3], *DIFF_S6_VARIANTS)
        ),
        {"differential": ALL, "mixer": "mamba1"},
        {"mixer": "mamba1"},
        {"conv_bias": False},
    ],
    ids=lambda kind: "-".join(
        map(str, (variant_id(kind["differential"]) if kind.get("differential") else "plain", kind.get("mixer", "")))
    ),
)
def test_every_depth_sums_to_the_logit_and_nothing_is_lost_on_the_way(kind: dict) -> None:
    tiny = tiny_model(**{"n_layers": 3, **kind})
    tokens = random_tokens(2, 9)
    made = contribution_graph(tiny, tokens, 3, lengths=[9, 6])
    logits = tiny(tokens, lengths=[9, 6]).detach()
    assert torch.allclose(made.logit, torch.stack([logits[0, 8, 3], logits[1, 5, 3]]), atol=1e-5)
    require_conserved(made)


def test_of_a_difference_of_logits_at_an_inner_position_nothing_comes_later(graph: ContributionGraph) -> None:
    require_conserved(graph)
    assert graph.node[..., 7:].abs().max() == 0
    assert graph.minuend[..., 7:, :].abs().max() == 0
    assert torch.triu(graph.minuend[0, 0], diagonal=1).abs().max() == 0
    assert graph.subtrahend[:, 1].abs().max() == 0
    assert graph.node[:, -1].count_nonzero() == 2


def test_the_last_blocks_edges_are_its_direct_attribution(model: HookedMamba, graph: ContributionGraph) -> None:
    direct = residual_attribution(model, random_tokens(2, 9), 3, 6, versus=torch.tensor([1, 2]), sources="input")
    assert torch.allclose(graph.minuend[:, 2, 6], direct.minuend[:, 2], atol=1e-6)
    assert torch.allclose(graph.subtrahend[:, 2, 6], -direct.lambda_subtrahend[:, 2], atol=1e-6)
    assert torch.allclose(graph.logit, direct.logit, atol=1e-6)


def test_a_model_whose_later_blocks_write_nothing_has_its_first_blocks_edges_alone() -> None:
    tiny = tiny_model(DifferentialConfig(placement=(0,), normalisation="none"), n_layers=3)
    with torch.no_grad():
        for block in tiny.blocks[1:]:
            block.mixer.out_proj.weight.zero_()
    made = contribution_graph(tiny, random_tokens(1, 7), 3)
    direct = residual_attribution(tiny, random_tokens(1, 7), 3, sources="input")
    assert made.minuend[:, 1:].abs().max() == 0
    assert torch.allclose(made.minuend[:, 0, -1], direct.minuend[:, 0], atol=1e-6)
    # A token's share: what the first block reads of it, and for the last one the stream's own way.
    expected = (made.minuend + made.subtrahend)[0, 0, -1]
    expected[-1] += direct.embedding[0]
    assert torch.allclose(made.node[0, 0], expected, atol=1e-5)
    assert torch.allclose(made.node[0, 1, -1], made.logit[0], atol=1e-5)


def test_the_gradient_with_gates_held_is_told_from_the_whole_one(model: HookedMamba) -> None:
    """A scan whose gates were not held would give other nodes: held and whole gradients differ."""
    tokens = random_tokens(1, 9)
    held = contribution_graph(model, tokens, 3)
    streams: list[torch.Tensor] = []
    with model.hooks([("blocks.0.hook_resid_pre", lambda value, name: streams.append(value))]):
        logit = model(tokens)[0, -1, 3]
    whole = (torch.autograd.grad(logit, streams)[0] * streams[0]).sum(dim=-1).detach()
    assert (whole - held.node[:, 0]).abs().max() > 0.05 * held.node.abs().max()


def test_the_strongest_edges_lead_to_the_logit(graph: ContributionGraph) -> None:
    least = 0.05 * float(graph.logit[0].abs())
    edges = graph.edges_to_logit(least)
    assert edges[0].block == 2
    assert all(abs(edge.logits) >= least for edge in edges)
    reached = {(3, 6)}
    for edge in edges:
        assert (edge.block + 1, edge.dest) in reached
        reached.add((edge.block, edge.src))
    assert {edge.kind for edge in graph.edges_to_logit(1e-9)} == {"straight", "plain", "minuend", "subtrahend"}
    of_logit = [edge for edge in graph.edges_to_logit(1e-9) if edge.block == 2]
    assert sum(edge.logits for edge in of_logit) + float(graph.bias[0, 2, 6]) == pytest.approx(
        float(graph.logit[0]), abs=1e-4
    )
    assert graph.edges_to_logit(1e9) == []


def test_a_graph_goes_to_json_and_back(graph: ContributionGraph) -> None:
    again = ContributionGraph.from_dict(json.loads(json.dumps(graph.to_dict())))
    assert torch.equal(again.minuend, graph.minuend)
    assert again.kinds == graph.kinds


def test_what_cannot_be_is_refused(model: HookedMamba, graph: ContributionGraph) -> None:
    with pytest.raises(ValueError, match="sample is 2"):
        graph.edges_to_logit(1.0, sample=2)
    with pytest.raises(ValueError, match="least is 0"):
        graph.edges_to_logit(0.0)
    with pytest.raises(ValueError, match="in_proj has a bias"):
        contribution_graph(tiny_model(proj_bias=True), random_tokens(1, 5), 3)
    with pytest.raises(MemoryError, match="Give a shorter prompt"):
        contribution_graph(model, random_tokens(1, 9), 3, max_bytes=100)
