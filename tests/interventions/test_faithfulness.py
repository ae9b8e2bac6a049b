"""A model in which one token alone decides has curves that are known; and a right ranking is told from a wrong one."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from diffmamba_interp import DifferentialConfig, HookedMamba, residual_attribution
from diffmamba_interp.implicit_attention import SOURCE_SCORES, extract_attention, source_scores
from diffmamba_interp.interventions import FaithfulnessRecord, KnockOut, faithfulness, intervene
from tests.models.tiny import random_tokens, relative_error, tiny_model

FACT, QUESTION, DULL = 1, 2, 3
ANSWER, OTHER = 5, 6
TOKENS = torch.tensor([[DULL, DULL, FACT, DULL, DULL, DULL, DULL, DULL, DULL, DULL, QUESTION]])
AT, N_SOURCES = 2, 10
FRACTIONS = (0.0, 0.1, 0.5, 1.0)


@pytest.fixture(scope="module", params=[None, DifferentialConfig(placement=(0,))], ids=["plain", "differential"])
def decided(request: pytest.FixtureRequest) -> HookedMamba:
    """Dull tokens embed as 0 and no bias makes anything of them; the convolution reads the token itself alone."""
    model = tiny_model(request.param, n_layers=1).double()
    with torch.no_grad():
        model.embed.weight[DULL] = 0.0
        for name, parameter in model.named_parameters():
            if name.endswith("conv1d.bias") or name.endswith("conv.bias"):
                parameter.zero_()
            elif "conv" in name and name.endswith("weight"):
                parameter[..., :-1] = 0.0
            elif name.endswith("A_log"):
                parameter.fill_(-4.0)  # what the one token writes is still there at the end
            elif name.endswith("dt_bias"):
                parameter.zero_()
    return model.requires_grad_(False)


def scores_of(model: HookedMamba) -> dict[str, Tensor]:
    return {str(name): value for name, value in source_scores(model, TOKENS, ANSWER, versus=OTHER).items()}


def test_every_account_finds_the_one_token_that_decides(decided: HookedMamba) -> None:
    for name, values in scores_of(decided).items():
        sizes = values[0, :-1].abs()
        assert int(sizes.argmax()) == AT, name
        assert sizes[AT] > 1e-6, name
        assert torch.cat([sizes[:AT], sizes[AT + 1 :]]).max() < 1e-12 * sizes[AT], name


def test_curves_step_where_that_token_is_taken_and_areas_follow(decided: HookedMamba) -> None:
    scores = {name: values.abs() for name, values in scores_of(decided).items()}
    scores["last"] = -scores["hidden"]
    record = faithfulness(decided, TOKENS, scores, answers=[ANSWER], fractions=FRACTIONS)
    clean = float(decided(TOKENS)[0, -1, ANSWER])
    with intervene(decided, KnockOut(positions=(AT,))):
        without = float(decided(TOKENS)[0, -1, ANSWER])
    assert abs(clean - without) > 1e-4
    assert record.rankings == (*SOURCE_SCORES, "last", "random", "recency")
    for row in range(len(SOURCE_SCORES)):
        assert np.allclose(record.deletion[0, row], [clean, without, without, without], rtol=0, atol=1e-10)
        assert np.allclose(record.insertion[0, row], [without, clean, clean, clean], rtol=0, atol=1e-10)
    assert np.allclose(record.deletion[0, -3], [clean, clean, clean, without], rtol=0, atol=1e-10)
    # Of ten sources, the latest first, token 2 is the eighth: the half does not hold it.
    assert np.allclose(record.deletion[0, -1], [clean, clean, clean, without], rtol=0, atol=1e-10)
    assert np.allclose(record.insertion[0, -1], [without, without, without, clean], rtol=0, atol=1e-10)
    step = clean - without
    assert np.allclose(record.deletion_area[0, 0], without + 0.05 * step, rtol=0, atol=1e-10)
    assert np.allclose(record.gap[0, [0, -3, -1]], [0.9 * step, -0.5 * step, -0.5 * step], rtol=0, atol=1e-10)


def test_areas_have_intervals_and_stand_against_random(decided: HookedMamba) -> None:
    hidden = {"hidden": scores_of(decided)["hidden"]}
    records = [
        faithfulness(decided, TOKENS, hidden, answers=[ANSWER], fractions=FRACTIONS, seed=seed) for seed in range(12)
    ]
    record = FaithfulnessRecord.joined(records)
    assert record.n_sources == (N_SOURCES,) * 12
    assert len({tuple(row) for row in record.deletion[:, 1].round(6)}) > 1
    areas = record.areas(n_resamples=200)
    assert areas["hidden"].gap.low == pytest.approx(areas["hidden"].gap.high)
    assert areas["random"].gap.low < areas["random"].gap.high
    assert areas["hidden"].over_random.value == pytest.approx(float((record.gap[:, 0] - record.gap[:, 1]).mean()))
    assert (areas["random"].over_random.low, areas["random"].over_random.high) == (0.0, 0.0)
    again = FaithfulnessRecord.from_dict(json.loads(json.dumps(record.to_dict())))
    assert again.to_dict() == record.to_dict()


@torch.no_grad()
@pytest.mark.parametrize("level", ["write", "input"])
def test_each_point_of_a_curve_is_the_model_with_those_tokens_knocked_out(level: str) -> None:
    model, tokens = tiny_model(DifferentialConfig(placement=(0,))), random_tokens(2, 7)
    scores = {"mine": torch.rand(2, 7)}
    given = {"answers": (3, 5), "labels": (3, 5, 8), "reading": "label_probability", "level": level, "blocks": (0,)}
    sources, seen = (1, 2, 4, 5), []
    record = faithfulness(
        model, tokens, scores, **given, sources=sources, fractions=(0, 0.5, 1), rows=3, on_progress=seen.append
    )
    assert sum(seen) <= 2 * (2 * 3 * 3)
    for sample, answer in enumerate((3, 5)):
        first = sorted(sources, key=lambda at: -float(scores["mine"][sample, at]))[:2]
        for taken, curve in ((first, record.deletion), (set(sources) - set(first), record.insertion)):
            with intervene(model, KnockOut(positions=tuple(taken), level=level, blocks=(0,))):
                logits = model(tokens)[sample, -1]
            expected = torch.softmax(logits[[3, 5, 8]], 0)[(3, 5, 8).index(answer)]
            assert curve[sample, 0, 1] == pytest.approx(float(expected), abs=1e-5)
    assert (record.unit, record.level) == ("probability", level)


# ------------------------------------------------------------------ scores


@pytest.mark.parametrize("placement", [(0,), (0, 1)])
def test_scores_are_those_of_the_instruments_that_have_them(placement: tuple[int, ...]) -> None:
    model, tokens = tiny_model(DifferentialConfig(placement=placement)), random_tokens(2, 6)
    scores = source_scores(model, tokens, 4, versus=torch.tensor([2, 9]))
    attribution = residual_attribution(model, tokens, 4, versus=torch.tensor([2, 9]))
    assert relative_error(scores["contribution"], attribution.by_source) < 1e-5
    expected = torch.zeros(2, 6)
    for block in range(2):
        record = extract_attention(model, tokens, block, reduce="abs_mean", rows=[-1])
        sizes = record.minuend + record.lambda_ * record.subtrahend if block in placement else record.weights
        expected = expected + sizes[:, 0]
    assert relative_error(scores["hidden"], expected) < 1e-5


def test_the_gradient_of_writes_is_the_slope_of_knocking_out() -> None:
    model, tokens = tiny_model(DifferentialConfig(placement=(0,))).double(), random_tokens(1, 6)
    for blocks, names in ((None, "blocks.*.hook_B"), (0, "blocks.0.*.hook_B")):
        scores = source_scores(model, tokens, 4, versus=2, blocks=blocks)
        for at in (0, 3, 5):

            def scaled(share: float, at: int = at, names: str = names) -> float:
                def edit(B: Tensor, name: str) -> Tensor:
                    kept = torch.ones_like(B)
                    kept[:, at] = share
                    return B * kept

                logits = model.run_with_hooks(tokens, [(names, edit)])[0, -1].detach()
                return float(logits[4] - logits[2])

            slope = (scaled(1 + 1e-4) - scaled(1 - 1e-4)) / 2e-4
            assert float(scores["gradient_write"][0, at].detach()) == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_blocks_add_up_and_the_embedding_s_gradient_is_the_whole_model_s() -> None:
    model, tokens = tiny_model(DifferentialConfig(placement=(0,))), random_tokens(2, 6)
    whole, *parts = (source_scores(model, tokens, 4, blocks=blocks) for blocks in (None, 0, (1,)))
    for name in SOURCE_SCORES:
        if name == "jacobian":
            assert torch.allclose(parts[0][name], whole[name])
        else:
            assert relative_error(parts[0][name] + parts[1][name], whole[name]) < 1e-5
    with pytest.raises(ValueError, match="blocks is \\[2\\]"):
        source_scores(model, tokens, 4, blocks=2)


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": {}}, "scores is empty"),
        ({"scores": {"random": torch.zeros(2, 6)}}, "scores names 'random'"),
        ({"scores": {"mine": torch.zeros(2, 5)}}, r"scores\['mine'\] has shape \(2, 5\)"),
        ({"scores": {"mine": torch.full((2, 6), torch.nan)}}, "no NaN"),
        ({"answers": (1,)}, "answers holds 1 token ids for 2 prompts"),
        ({"reading": "snr_db"}, "labels is None"),
        ({"labels": (4, 4)}, "two or more different token ids"),
        ({"labels": (4, 5)}, "all answers among them"),
        ({"sources": (5,)}, "give different positions before the last, 0 to 4"),
        ({"sources": (1, 1)}, "give different positions"),
        ({"sources": ()}, "sources is .*at least one"),
        ({"fractions": (0.0, 0.5)}, "rise from 0 to 1"),
        ({"fractions": (0.0, 0.5, 0.5, 1.0)}, "rise from 0 to 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict, message: str) -> None:
    model, tokens = tiny_model(), random_tokens(2, 6)
    given = {"scores": {"mine": torch.zeros(2, 6)}, "answers": (1, 4)} | changes
    with pytest.raises(ValueError, match=message):
        faithfulness(model, tokens, given.pop("scores"), **given)


def test_records_of_other_curves_are_not_joined() -> None:
    model, tokens = tiny_model(), random_tokens(1, 5)
    records = [
        faithfulness(model, tokens, {name: torch.rand(1, 5)}, answers=[1], fractions=(0, 1)) for name in ("a", "b")
    ]
    with pytest.raises(ValueError, match="records differ in rankings"):
        FaithfulnessRecord.joined(records)
    with pytest.raises(ValueError, match="records is empty"):
        FaithfulnessRecord.joined([])
