"""Allocations are the sums of the contributions that the model really makes, whatever the batch."""

import math
from types import SimpleNamespace

import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba, residual_attribution
from diffmamba_interp.implicit_attention import Spans, extract_attention, logit_direction, summarise_spans
from diffmamba_interp.implicit_attention.allocation import (
    CLASSES,
    DIRECTIONS,
    HEAD_PICTURES,
    PICTURES,
    Allocation,
    PassAllocation,
    allocate,
    allocate_prompts,
    allocation_measures,
    answer_directions,
    class_masks,
    prompt_spans,
)
from diffmamba_interp.models.prompt_batches import padded
from tests.models.tiny import random_tokens, tiny_model

SPANS = Spans(needle=((1, 3),), question=((6, 8),), distractors=((3, 4),), filler=((4, 6),))
NET, MINUEND, SCALED = range(3)


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    """Block 0 differential, block 1 plain."""
    return tiny_model(DifferentialConfig(placement=(0,)))


def span(start: int, end: int) -> SimpleNamespace:
    return SimpleNamespace(token_start=start, token_end=end)


def prompt(n_tokens: int, seed: int, labels: tuple[tuple[int, ...], ...] = ((3,), (4, 1), (5,))) -> SimpleNamespace:
    return SimpleNamespace(
        tokens=random_tokens(1, n_tokens, seed=seed)[0].int().numpy(),
        answer_tokens=labels[0],
        label_tokens=labels,
        fact_spans=(span(1, 3), span(3, 4)),
        supporting=(0,),
        question_span=span(n_tokens - 3, n_tokens - 1),
        filler_spans=(span(4, 6),),
    )


def measured(model: HookedMamba, tokens: torch.Tensor, per_head: bool = False) -> Allocation:
    return allocate(model, tokens, logit_direction(model, 3).expand(len(tokens), 1, -1), SPANS, per_head=per_head)


def test_the_masses_are_those_of_the_residual_attribution(model: HookedMamba) -> None:
    tokens = random_tokens(2, 9)
    made, whole = measured(model, tokens), residual_attribution(model, tokens, 3)
    masks = class_masks(SPANS, torch.tensor([9, 9]), 9).float()
    net = torch.einsum("bis,bcs->bic", whole.difference.abs(), masks)
    torch.testing.assert_close(made.mass[:, 0, :, NET], net)
    minuend = torch.einsum("bs,bcs->bc", whole.minuend[:, 0].abs(), masks)
    torch.testing.assert_close(made.mass[:, 0, 0, MINUEND], minuend)
    smaller = torch.minimum(whole.minuend.abs(), (whole.lambda_[..., None] * whole.subtrahend).abs())
    torch.testing.assert_close(made.smaller[:, 0, 0], torch.einsum("bs,bcs->bc", smaller[:, 0], masks))


def test_snr_and_cosine_are_those_of_the_span_summary(model: HookedMamba) -> None:
    tokens = random_tokens(2, 9)
    made = measured(model, tokens)
    record = extract_attention(model, tokens, 0, "contribution", rows=[-1], direction=logit_direction(model, 3))
    summary = summarise_spans(record, SPANS)
    for number, name in enumerate(("difference", "minuend", "lambda_subtrahend")):
        torch.testing.assert_close(made.snr_db[:, 0, 0, number], summary.snr_db[name])
    torch.testing.assert_close(made.cosine[:, 0, 0], summary.cosine)


def test_what_a_plain_block_does_not_have_is_nan(model: HookedMamba) -> None:
    made = measured(model, random_tokens(2, 9))
    assert made.mass[:, :, 1, NET].isfinite().all()
    for missing in (made.mass[:, :, 1, MINUEND:], made.snr_db[:, :, 1, MINUEND:], made.smaller[:, :, 1]):
        assert missing.isnan().all()


def test_every_token_belongs_to_exactly_one_class() -> None:
    masks = class_masks(SPANS, torch.tensor([9, 7]), 9)
    assert masks.sum(dim=1).tolist() == [[1] * 9, [1] * 7 + [0] * 2]
    assert dict(zip(CLASSES, masks[1].sum(dim=-1).tolist(), strict=True)) == {
        "needle": 2,
        "question": 1,
        "distractors": 1,
        "filler": 2,
        "other": 1,
    }


def test_strangers_are_the_mean_over_all_other_partners(model: HookedMamba) -> None:
    tokens = random_tokens(1, 9)
    direction = logit_direction(model, 3)
    made = measured(model, tokens, per_head=True)
    record = extract_attention(model, tokens, 0, "contribution", rows=[-1], direction=direction, per_head=True)
    first, second = record.minuend[0, :, 0], record.lambda_ * record.subtrahend[0, :, 0]
    n_heads = len(first)
    assert n_heads > 1
    scale = (model.run_with_cache(tokens, "ln_final.hook_scale")[1]["ln_final.hook_scale"])[0, -1]
    needle = [[(first[h] - second[g])[1:3].abs().sum() / scale for g in range(n_heads)] for h in range(n_heads)]
    at = HEAD_PICTURES.index("strangers")
    for h in range(n_heads):
        others = torch.stack([needle[h][g] for g in range(n_heads) if g != h]).mean()
        torch.testing.assert_close(made.head_mass[0, 0, 0, h, at, 0], others)
        torch.testing.assert_close(made.head_mass[0, 0, 0, h, NET, 0], needle[h][h][0])
    assert made.head_mass[0, 0, 1, :, 1:].isnan().all()


def test_heads_apart_leave_the_sums_over_heads_as_they_are(model: HookedMamba) -> None:
    tokens = random_tokens(2, 9)
    apart, together = measured(model, tokens, per_head=True), measured(model, tokens)
    for name in ("mass", "smaller", "snr_db", "cosine"):
        torch.testing.assert_close(getattr(apart, name), getattr(together, name), equal_nan=True)


def test_signed_sums_of_all_classes_add_up_to_what_the_block_writes(model: HookedMamba) -> None:
    tokens = random_tokens(2, 9)
    sums = measured(model, tokens, per_head=True).head_sum[:, 0]  # batch block head branch span_class
    names = [f"blocks.{block}.hook_mixer_out" for block in (0, 1)]
    _, cache = model.run_with_cache(tokens, [*names, "ln_final.hook_scale"])
    for block, name in enumerate(names):
        written = cache[name][:, -1] @ logit_direction(model, 3) / cache["ln_final.hook_scale"][:, -1, 0]
        minuend, scaled = sums[:, block].sum(dim=(1, 3)).unbind(-1)
        torch.testing.assert_close(minuend if block else minuend - scaled, written)
    assert sums[:, 1, :, 1].isnan().all()


def test_a_subtrahend_that_equals_the_minuend_writes_lambda_times_as_much() -> None:
    model = tiny_model(DifferentialConfig(placement=(0,)))
    mixer = model.blocks[0].mixer
    mixer.subtrahend.load_state_dict(mixer.minuend.state_dict())
    hooks = [("blocks.0.mixer.hook_lambda", lambda value, name: torch.full_like(value, 0.5))]
    with model.hooks(hooks):
        sums = measured(model, random_tokens(2, 9), per_head=True).head_sum[:, 0, 0]
    torch.testing.assert_close(0.5 * sums[:, :, 0], sums[:, :, 1])


def test_prompts_measure_the_same_alone_and_in_any_batch(model: HookedMamba) -> None:
    prompts = [prompt(9, 1), prompt(14, 2), prompt(11, 3)]
    done: list[int] = []
    together = allocate_prompts(model, prompts, per_head=True, on_progress=done.append)
    assert done == [3]
    apart = [allocate_prompts(model, [one], per_head=True, batch_tokens=1) for one in prompts]
    for name in ("mass", "smaller", "snr_db", "cosine", "n_sources", "head_mass", "head_sum"):
        expected = torch.cat([getattr(one, name) for one in apart])
        torch.testing.assert_close(getattr(together, name), expected, equal_nan=True)
    assert together.mass.shape == (3, len(DIRECTIONS), 2, len(PICTURES), len(CLASSES))


def test_small_batches_keep_the_prompts_order(model: HookedMamba) -> None:
    prompts = [prompt(9, 1), prompt(14, 2), prompt(11, 3)]
    small, large = allocate_prompts(model, prompts, batch_tokens=14), allocate_prompts(model, prompts)
    torch.testing.assert_close(small.mass, large.mass, equal_nan=True)


def test_a_pass_that_is_made_anyway_gives_the_same_allocation(model: HookedMamba) -> None:
    prompts = [prompt(9, 1), prompt(14, 2), prompt(11, 3)]
    reading = PassAllocation(model, prompts)
    for indices in ([2, 0], [1]):
        chosen = [prompts[index].tokens for index in indices]
        with reading.around(indices), torch.no_grad():
            model.forward_with_state(padded(chosen), lengths=torch.tensor(list(map(len, chosen))), last_only=True)
    expected = allocate_prompts(model, prompts)
    for name in ("mass", "smaller", "snr_db", "cosine", "n_sources"):
        torch.testing.assert_close(getattr(reading.allocation, name), getattr(expected, name), equal_nan=True)
    assert not any(point.is_hooked for point in model.hook_points.values())


def test_hooks_that_were_there_before_are_seen_in_a_pass_that_is_made_anyway(model: HookedMamba) -> None:
    prompts = [prompt(9, 1)]
    reading = PassAllocation(model, prompts)
    weight = ("blocks.0.mixer.hook_lambda", lambda value, _: torch.full_like(value, 0.5))
    last = ("blocks.1.hook_resid_post", lambda value, _: 2 * value)
    with model.hooks([weight, last]):
        with reading.around([0]):
            model(padded([prompts[0].tokens]))
        expected = allocate_prompts(model, prompts)
    torch.testing.assert_close(reading.allocation.mass, expected.mass, equal_nan=True)
    assert not torch.allclose(expected.mass[:, :, 0], allocate_prompts(model, prompts).mass[:, :, 0])


def test_a_pass_of_a_piece_and_prompts_that_were_in_no_pass_are_refused(model: HookedMamba) -> None:
    reading = PassAllocation(model, [prompt(9, 1), prompt(9, 2)])
    tokens = padded([prompt(9, 1).tokens])
    with pytest.raises(ValueError, match="in one pass, not in pieces"), reading.around([0]):
        model(tokens[:, :4])
    with pytest.raises(ValueError, match="expected block 2"), reading.around([0]):
        [model(tokens) for _ in range(2)]
    with reading.around([0]):
        model(tokens)
    with pytest.raises(ValueError, match="1 of 2 prompts were read"):
        _ = reading.allocation


def test_directions_are_the_answer_and_the_answer_less_the_other_labels(model: HookedMamba) -> None:
    rows = [logit_direction(model, token) for token in (3, 4, 5)]
    answer, contrast = answer_directions(model, prompt(9, 1))
    torch.testing.assert_close(answer, rows[0])
    torch.testing.assert_close(contrast, rows[0] - (rows[1] + rows[2]) / 2)
    # A label that begins like the answer cannot be told from it by the first token.
    _, contrast = answer_directions(model, prompt(9, 1, labels=((3,), (3, 1), (5,))))
    torch.testing.assert_close(contrast, rows[0] - rows[2])


def test_supporting_facts_are_the_needle_and_the_others_distract() -> None:
    spans = prompt_spans(prompt(9, 1))
    assert (spans.needle, spans.distractors) == (((1, 3),), ((3, 4),))


def test_a_token_on_the_border_of_two_spans_belongs_to_the_first_class() -> None:
    bordering = prompt(9, 1)
    bordering.filler_spans = (span(3, 6), span(8, 8))
    spans = prompt_spans(bordering)
    assert (spans.distractors, spans.filler) == (((3, 4),), ((4, 6),))


def test_labels_that_all_begin_alike_are_refused(model: HookedMamba) -> None:
    with pytest.raises(ValueError, match="nothing to tell apart"):
        answer_directions(model, prompt(9, 1, labels=((3,), (3, 1))))


def test_no_prompts_are_refused(model: HookedMamba) -> None:
    with pytest.raises(ValueError, match="at least one"):
        allocate_prompts(model, [])


MISSING = float("nan")


@pytest.fixture
def allocation() -> Allocation:
    """One prompt, two directions, a differential block and a plain one."""
    #        needle question distractors filler other
    net = [2.0, 1.0, 1.0, 2.0, 4.0]
    minuend = [3.0, 1.0, 2.0, 2.0, 2.0]
    scaled = [1.0, 1.0, 3.0, 2.0, 3.0]
    missing = [MISSING] * len(CLASSES)
    mass = torch.tensor([[[[net, minuend, scaled], [net, missing, missing]]]])
    snr = torch.tensor([[[[3.0, 4.0, 5.0], [6.0, MISSING, MISSING]]]])
    return Allocation(
        mass=torch.cat([mass, 2 * mass], dim=1),
        smaller=torch.zeros(1, 2, 2, len(CLASSES)),
        snr_db=torch.cat([snr, snr + 1], dim=1),
        cosine=torch.zeros(1, 2, 2),
        n_sources=torch.ones(1, len(CLASSES), dtype=torch.long),
    )


def test_over_allocation_is_the_share_on_distractors_and_filler(allocation: Allocation) -> None:
    found = allocation_measures(allocation).over_allocation
    assert tuple(found) == PICTURES
    assert [found[name][0, 0].item() for name in PICTURES] == pytest.approx([0.3, 0.4, 0.5])


def test_what_is_cancelled_is_what_the_branches_had_and_the_difference_has_not(allocation: Allocation) -> None:
    found = allocation_measures(allocation).cancelled
    shares = [found[name][0, 0].item() for name in CLASSES]
    assert shares == pytest.approx([1 - 2 / 4, 1 - 1 / 2, 1 - 1 / 5, 1 - 2 / 4, 1 - 4 / 5])


def test_a_plain_block_has_no_numbers_of_branches(allocation: Allocation) -> None:
    found = allocation_measures(allocation)
    assert math.isfinite(found.over_allocation["net"][0, 1])
    assert all(math.isnan(value[0, 1]) for value in found.cancelled.values())
    assert math.isnan(found.snr_db["minuend"][0, 1])


def test_the_direction_is_chosen_and_must_be_there(allocation: Allocation) -> None:
    assert allocation_measures(allocation).snr_db["net"].tolist() == [[3.0, 6.0]]
    assert allocation_measures(allocation, 1).snr_db["net"].tolist() == [[4.0, 7.0]]
    with pytest.raises(IndexError, match="directions 0 to 1"):
        allocation_measures(allocation, 2)
