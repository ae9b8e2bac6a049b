"""Headlines: what records say in sentences, with their n and what speaks against them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from app.shell.change_headlines import (
    faithfulness_headline,
    intervention_headline,
    patching_headline,
    subtraction_headline,
    sweep_headline,
)
from app.shell.headlines import (
    Headline,
    attention_headline,
    headline_html,
    heads_headline,
    lens_headline,
    models_headline,
    needle_headline,
    retrieval_headline,
)
from app.shell.needle_runs import SHIPPED, shipped_results
from diffmamba_interp.files.json_files import read_json_object
from diffmamba_interp.implicit_attention import HeadScores
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.interventions import FaithfulnessRecord, InterventionRecord, PatchGrid, SweepRecord
from diffmamba_interp.lens import LensTrajectory
from diffmamba_interp.models.inspection import BlockReport, CheckpointReport
from diffmamba_interp.needle import NeedleTrajectory
from diffmamba_interp.needle.accuracy_grid import Cell, ModelAccuracy
from diffmamba_interp.needle.records import ReadSample
from diffmamba_interp.spans import Spans
from diffmamba_interp.stages import stage_names
from diffmamba_interp.statistics import PairedDifference

N_BLOCKS = 6


def trajectory(model: str, first: int, n: int = 20, *, output_db: float = 20.0, n_blocks: int = N_BLOCKS):
    """A model whose answer comes in at stage `first`, with 10 dB in the odd prompts and 14 dB in the even ones."""
    db = np.zeros((1, n, n_blocks + 1))
    db[..., first:] = 10.0
    db[:, ::2, first:] += 4.0
    db[..., -1] = output_db if first <= n_blocks else 0.0
    answer = np.log(0.1) + np.zeros_like(db)
    samples = tuple(
        ReadSample(
            id=str(k), task="qa1", length=0, depth=0.5, needle_depth=0.5, seed=0, n_tokens=1028 if k == 3 else 9,
            labels=("hall", "garden"), answer="hall", n_label_tokens=(1, 1),
        )
        for k in range(n)
    )  # fmt: skip
    return NeedleTrajectory(
        model=model, lenses=("tuned",), stages=stage_names(n_blocks), samples=samples,
        log_probs=np.stack([answer, answer - db * np.log(10) / 10], axis=-1).astype(np.float32),
        token_ranks=np.ones((*db.shape, 2), np.float32), entropy_nats=np.ones(db.shape, np.float32),
        kl_to_final_nats=np.zeros(db.shape, np.float32),
    )  # fmt: skip


def words(headline: Headline) -> str:
    return " ".join(headline.says)


def objections(headline: Headline) -> str:
    return " ".join(headline.against)


def test_an_earlier_answer_is_told_with_its_block_its_n_and_that_it_is_no_cleaner() -> None:
    early, late = trajectory("bundled:diff-mamba2", 2), trajectory("bundled:mamba2", 5, output_db=30.0)
    told = needle_headline([early, late])
    assert told.says[0].startswith("The answer comes in after block 1 in diff-mamba2 (mamba2: after block 4)")
    assert told.says[0].endswith("tuned lens; n = 20 prompts of 9 to 1,028 tokens).")
    assert told.says[1].startswith("On top of the labels, by however little, it is after block 1; Overview and Lens")
    assert "earlier than in mamba2: −3.0 [−3.0, −3.0] blocks (median)" in words(told)
    assert "mamba2 is ahead there" in objections(told)


def test_a_model_that_loses_is_said_to_lose() -> None:
    late, early = trajectory("diff", 5), trajectory("plain", 2)
    told = needle_headline([late, early])
    assert "later than in plain: +3.0" in objections(told)
    assert "earlier" not in words(told)


def test_too_few_prompts_decide_nothing_and_that_is_said() -> None:
    told = needle_headline([trajectory("diff", 2, 8), trajectory("plain", 5, 8)])
    assert "not told apart from plain: −3.0 [−3.0, −3.0] blocks (median), n = 8 prompts, of which 10" in objections(
        told
    )
    assert len(told.says) == 2


def test_where_it_comes_in_is_a_median_with_its_interval() -> None:
    spread = NeedleTrajectory.join([trajectory("one", first, 7) for first in (2, 4, 5)])
    told = needle_headline([spread])
    assert told.says[0].startswith("The answer comes in after block 3 [1 to 4] in one")
    assert "median over prompts and its interval" in told.says[0]


def test_an_answer_that_never_comes_in_is_nowhere() -> None:
    told = needle_headline([trajectory("one", N_BLOCKS + 1)])
    assert told.says[0].startswith("The answer comes in nowhere in one")
    assert "In 20 of 20 prompts one never gets there." in told.against


def test_models_of_other_sizes_are_each_told_alone() -> None:
    told = needle_headline([trajectory("one", 2), trajectory("two", 2, n_blocks=4)])
    assert "other numbers of blocks" in objections(told)
    assert "(two: after block 1)" in words(told)


def test_the_calibrated_gap_is_read_from_the_shipped_results() -> None:
    read = trajectory("bundled:diff-mamba2", 2), trajectory("bundled:mamba2", 5)
    gap = {"measure": "calibrated_bits", "place": "output", "lens": "tuned", "group": {"length": "0", "task": "qa1"}}
    for difference, verdict in (
        ([0.1, 0.05, 0.2], "a gap is left"),
        ([0.0, -0.1, 0.1], "no gap is left"),
        ([-0.3, -0.4, -0.2], "the baseline is ahead"),
    ):
        told = needle_headline(read, {"measure_means": [gap | {"n": 500, "difference": difference}]})
        assert f"{difference[0]:+.2f}".replace("-", "−") in told.against[-1]
        assert told.against[-1].endswith(f"bits at 0k (n = 500): {verdict}.")
    longer = gap | {"group": {"length": "1024", "task": "qa1"}, "n": 300, "difference": [-1.0, -2.0, -0.5]}
    both = {"measure_means": [gap | {"n": 500, "difference": [0.1, 0.05, 0.2]}, longer]}
    of_its_length = needle_headline(read, both).against[-1]
    assert "bits at 0k" in of_its_length
    assert "1k" not in of_its_length
    at_512 = [replace(one, samples=tuple(replace(s, length=512) for s in one.samples)) for one in read]
    told = needle_headline(at_512, both).against[-1]
    assert "on more prompts; not at 512 tokens, as here): in qa1 alone +0.10" in told
    assert "bits at 0k (n = 500)" in told
    assert "bits at 1k (n = 300): the baseline is ahead" in told
    other = gap | {"group": {"length": "0", "task": "qa2"}, "n": 500, "difference": [1, 1, 1]}
    assert "calibrated" not in objections(needle_headline(read, {"measure_means": [other]}))


def test_shipped_results_are_told_of_the_bundled_pair_alone() -> None:
    assert shipped_results(["bundled:diff-mamba2", "bundled:mamba2"]) == read_json_object(SHIPPED)
    assert shipped_results(["bundled:diff-mamba2"]) is None
    assert shipped_results(["models/x", "bundled:mamba2"]) is None


def lens_read(top: list[int]) -> LensTrajectory:
    shape = (1, len(top), 1)
    return LensTrajectory(
        stages=stage_names(len(top) - 1), tokens=np.zeros((1, 1), np.int64),
        top_tokens=np.array(top, np.int64).reshape(*shape, 1), top_probabilities=np.full((*shape, 1), 0.5, np.float32),
        entropy_nats=np.zeros(shape, np.float32), kl_to_final_nats=np.zeros(shape, np.float32),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("top", "since"),
    [([1, 2, 2, 1, 2], "at the output"), ([2, 2, 2], "in the embedding"), ([1, 2, 1, 3, 3], "after block 2")],
)
def test_the_lens_is_told_from_where_the_last_token_stays(top: list[int], since: str) -> None:
    told = lens_headline({"bundled:mamba2": lens_read(top)}, lambda token: f" w{token}", lens="tuned")
    assert told.says == (f"mamba2 says “w{top[-1]}” (p 0.50), which is on top {since} (p 0.50 then) and stays there.",)
    (against,) = told.against
    assert against.startswith("One position of one prompt, read by the tuned lens. On top is likelier than any other")
    assert "Needle asks of many prompts from where on it is 7 dB above" in against


def test_a_token_that_is_not_the_known_answer_is_told_with_the_answer() -> None:
    reads = {"one": lens_read([1, 1]), "two": lens_read([1, 2])}
    told = lens_headline(reads, lambda token: f" w{token}", answer=2)
    assert words(told).startswith("one says “w1” (p 0.50; the answer is “w2”), which")
    assert "; two says “w2” (p 0.50), which" in words(told)


def test_models_that_say_other_tokens_are_not_taken_for_one() -> None:
    told = lens_headline({"one": lens_read([1, 1]), "two": lens_read([1, 2])}, str)
    assert "different tokens" in objections(told)
    assert lens_headline({}, str) == Headline(says=())


def attention(minuend: list[float], subtrahend: list[float] | None = None) -> AttentionRecord:
    """One row, of the last of four positions; lambda 1."""
    parts = [torch.tensor([[row]]) for row in (minuend, subtrahend) if row is not None]
    return AttentionRecord(
        kind="hidden", block=3, normalisation="post" if subtrahend else None,
        tokens=torch.zeros(1, 4, dtype=torch.long), lengths=torch.tensor([4]), rows=torch.tensor([[3]]),
        parts=tuple(parts), weight=torch.tensor(1.0) if subtrahend else None, heads=(1,), per_head=False,
    )  # fmt: skip


NEEDLE = Spans(needle=((1, 2),))


def test_what_the_subtraction_does_to_the_needles_share_is_told_either_way() -> None:
    raised = attention_headline(attention([1.0, 1.0, 1.0, 1.0], [0.5, 0.0, 0.5, 1.0]), NEEDLE)
    assert "block 3, head 1" in words(raised)
    assert "raises the needle's share from 25% to 50%" in words(raised)
    assert "all 4 tokens alike would give the needle 25%" in objections(raised)
    lowered = attention_headline(attention([1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]), NEEDLE)
    assert "lowers the needle's share from 25% to 0%" in words(lowered)
    assert "takes more from the needle" in objections(lowered)
    assert "no tie to the head of that number in the subtrahend" in objections(lowered)
    left = attention_headline(attention([1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]), NEEDLE)
    assert "leaves the needle's share at 25%" in words(left)


def test_a_plain_block_and_a_prompt_without_needle_have_sentences_of_their_own() -> None:
    plain = attention([0.0, 3.0, 1.0, 0.0])
    assert "75% lies on the needle; nothing is subtracted" in words(attention_headline(plain, NEEDLE))
    without = attention_headline(replace(plain, token_strings=(("a", "<b>", "c", "d"),)), Spans())
    assert "reads most from position 1 (“<b>”), with a positive value (+3): 75% of the magnitudes in" in words(without)
    negative = attention_headline(attention([0.0, 1.0, -3.0, 0.0]), Spans())
    assert "reads most from position 2, with a negative value (−3): 75%" in words(negative)
    assert "mark one" in objections(without)
    assert "Nothing is read" in words(attention_headline(attention([0.0] * 4), Spans()))


def scores(values: list[float], uniform: float) -> HeadScores:
    return HeadScores(
        rows=((0, "minuend"), (1, None)), n_heads=(2, 2), values={"aggregate": np.array(values).reshape(1, 2, 2)},
        uniform={"aggregate": np.array([uniform])},
    )  # fmt: skip


def test_the_largest_head_is_named_beside_what_is_usual() -> None:
    told = heads_headline(scores([0.1, 0.8, 0.2, 0.2], 0.15), "aggregate")
    assert "block 0, minuend, head 1: 0.80; half of the 4 heads have 0.20 or less" in words(told)
    assert "no head stands out" in objections(heads_headline(scores([0.1, 0.1, 0.1, 0.1], 0.15), "aggregate"))
    assert "No head has" in words(heads_headline(scores([np.nan] * 4, 0.15), "aggregate"))


def changed(before: float, after: float, changes: tuple = ({"kind": "SetLambda"},)) -> InterventionRecord:
    readings = [
        {"answer_probability": np.array([p]), "snr_db": np.array([d])} for p, d in ((before, 30.0), (after, 3.0))
    ]
    return InterventionRecord(clean=readings[0], intervened=readings[1], interventions=changes)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (changed(1.0, 0.002), "lowers the answer's probability from 1.00 to 0.002 (n = 1 prompt), and its ratio"),
        (changed(0.1, 0.9), "raises the answer's probability from 0.10 to 0.90"),
        (changed(0.5, 0.5002), "leaves the answer's probability at 0.50"),
        (changed(0.5, 0.5, ()), "Nothing is changed: the answer has the probability 0.50"),
        (changed(1e-5, 1e-8), "from 1 in 100,000 to 1 in 100,000,000"),
    ],
)
def test_a_change_is_told_by_what_it_does_to_the_answer(record: InterventionRecord, told: str) -> None:
    assert told in words(intervention_headline(record))


def test_a_change_is_named_and_what_it_does_not_show_is_said() -> None:
    scaled = {"kind": "ScaleLambda", "factor": 0.0, "blocks": [0, 1, 2, 3]}
    told = intervention_headline(changed(1.0, 0.002, (scaled,)))
    assert words(told).startswith("The change (λ times 0 in blocks 0–3) lowers the answer's probability")
    assert "does not show that the subtraction cancels noise" in objections(told)
    out = {"kind": "KnockOut", "positions": [3, 5], "level": "write", "blocks": [1], "branch": None}
    told = intervention_headline(changed(1.0, 0.002, (scaled, out)))
    assert "(λ times 0 in blocks 0–3; positions 3, 5 taken out in block 1, as what the state takes in)" in words(told)
    assert "cancels noise" not in objections(intervention_headline(changed(1.0, 0.002, (out,))))


def without_subtraction(clean: float, all_blocks: float, *alone: float) -> SweepRecord:
    values = np.array([all_blocks, *alone]).reshape(-1, 1, 1)
    readings = {"answer_probability": values, "answer_log_probability": np.log(values)}
    return SweepRecord(
        dose="λ", doses=(0.0,), groups=(None, *((block,) for block in range(len(alone)))), intervened=readings,
        clean={"answer_probability": np.array([clean]), "answer_log_probability": np.log([clean])},
    )  # fmt: skip


def test_the_block_that_carries_most_of_the_subtractions_effect_is_named() -> None:
    told = subtraction_headline(without_subtraction(1.0, 0.01, 0.1, 0.9), "bundled:diff-mamba2")
    assert "in diff-mamba2 from 1.00 to 0.01; one block, 0, alone to 0.10, 50% of that in log-probability" in words(
        told
    )
    assert "need not sum" in objections(told)
    assert "leaves the answer's probability in one at 1.00" in words(
        subtraction_headline(without_subtraction(1.0, 0.9999, 1.0), "one")
    )
    guessed = subtraction_headline(without_subtraction(1.0, 0.01, 0.1), "one", "“red”, the most likely next token")
    assert "takes the probability of “red”, the most likely next token, in one from" in words(guessed)
    assert "likelier" in objections(subtraction_headline(without_subtraction(0.5, 0.9, 0.6), "one"))


def test_a_sweep_names_the_block_that_carries_most_or_the_doses() -> None:
    each = without_subtraction(1.0, 0.008, 0.9, 0.95)
    told = sweep_headline(replace(each, groups=((0,), (3,), (4,))))
    assert words(told) == (
        "The λ of block 0 carries most: λ 0 in it alone takes the answer's probability from 1.00 to 0.008; next is "
        "block 3, which takes it to 0.90 (n = 1 prompt)."
    )
    ratios = {"snr_db": np.array([30.0, 39.0, 60.0]).reshape(-1, 1, 1)}
    with_ratio = replace(
        each, groups=((0,), (3,), (4,)), clean=each.clean | {"snr_db": np.array([55.0])},
        intervened=each.intervened | ratios,
    )  # fmt: skip
    assert "55.0 dB, is lowest with λ 0 in block 0, 30.0 dB, and highest with it in block 4, 60.0 dB." in words(
        sweep_headline(with_ratio)
    )
    none = sweep_headline(replace(without_subtraction(0.5, 0.6, 0.9), groups=((0,), (3,))))
    assert "no block on its own takes anything from the answer's 0.50" in words(none)
    together = without_subtraction(1.0, 0.1)
    values = {name: np.concatenate([of, of * 5], axis=1) for name, of in together.intervened.items()}
    one = replace(together, doses=(0.0, 1.0), intervened=values)
    assert "least likely, 0.10, at 0, and likeliest, 0.50, at 1; unchanged 1.00" in words(sweep_headline(one))
    assert "No dose moves" in words(sweep_headline(without_subtraction(1.0, 1.0)))


def test_the_ranking_that_holds_best_is_named_or_that_none_does() -> None:
    def record(first: float) -> FaithfulnessRecord:
        return FaithfulnessRecord(
            reading="label_probability", unit="probability", rankings=("contribution", "random"), fractions=(0.0, 1.0),
            level="write", n_sources=(4,), deletion=np.zeros((1, 2, 2)),
            insertion=np.array([[[first] * 2, [0.5, 0.5]]]),
        )  # fmt: skip

    told = faithfulness_headline(record(0.9))
    assert "holds best: insertion less deletion area 0.90; random 0.50 (n = 1 prompt)" in words(told)
    assert "No ranking is better than a random order" in objections(faithfulness_headline(record(0.1)))


def grid(clean: float, patched: list[list[float]]) -> PatchGrid:
    return PatchGrid(
        point="blocks.{}.hook_mixer_out", blocks=(0, 1), positions=(0, 1), answers=(1,), against=None,
        clean=np.array([clean]), corrupted=np.array([0.0]), patched=np.array([patched]),
    )  # fmt: skip


def test_the_value_that_brings_most_back_is_named() -> None:
    told = patching_headline(grid(2.0, [[0.0, 0.1], [1.0, 0.2]]), ["3 a", "4 b"])
    assert told.says == ("One value, block 1 at position 3, “a”, brings back 50% of the answer's logit.",)
    pair = replace(grid(2.0, [[0.0, 0.1], [3.0, 0.2]]), against=(5,))
    assert words(patching_headline(pair, ["3 a", "4 b"])).endswith(
        "brings back 150% of the answer's logit less the wrong answer's, more than all of it."
    )
    named = patching_headline(pair, ["3 a", "4 b"], "the logit difference “a” − “b”")
    assert "150% of the logit difference “a” − “b”, more than" in words(named)
    assert "nothing to bring back" in words(patching_headline(grid(0.0, [[0.0, 0.1], [1.0, 0.2]]), ["3 a", "4 b"]))


def cell(length: int, value: float | None, n: int = 100, accuracy: float = 0.5) -> Cell:
    low, high = accuracy - 0.1, accuracy + 0.1
    of = [
        ModelAccuracy(model=name, n_right=1, accuracy=accuracy, low=low, high=high, generated=0.0)
        for name in ("mamba2", "diff-mamba2")
    ]
    difference = None if value is None else PairedDifference(value, value - 0.02, value + 0.02, n, 3, 4)
    models = tuple(of[: 1 if value is None else 2])
    return Cell(task="qa1", length=length, n=n, chance=0.2, chance_mentioned=0.2, models=models, difference=difference)


def test_retrieval_tells_gains_losses_and_what_is_undecided() -> None:
    told = retrieval_headline([cell(0, 0.1), cell(1024, -0.1), cell(2048, 0.01), cell(4096, 0.1, n=5)])
    assert told.says[0].startswith("diff-mamba2 is right more often than mamba2 in 1 of 4 cells, less often in 1 (5 to")
    assert "behind in qa1 at 1k −0.10" in objections(told)
    assert "In 1 the interval holds 0. In 1 there are fewer than 10 prompts" in objections(told)
    lost = retrieval_headline([cell(1024 * k, -0.1) for k in range(7)])
    assert all(f"qa1 at {k}k −0.10" in objections(lost) for k in range(7))
    won = retrieval_headline([cell(1024 * k, 0.1) for k in range(7)])
    assert all(f"qa1 at {k}k +0.10" in words(won) for k in range(7))
    one = retrieval_headline([cell(0, None), cell(1024, None, accuracy=0.2)])
    assert "mamba2 is right in 50% of qa1 at 0k at best" in words(one)
    assert "In 1 of 2 cells that is not told apart from guessing" in objections(one)
    assert retrieval_headline([]) == Headline(says=())
    alike = retrieval_headline([cell(0, 0.01, n=6)])
    assert alike.says[0] == "diff-mamba2 and mamba2 are not told apart in one cell (6 prompts a cell)."
    assert "not told apart in any of 2 cells" in retrieval_headline([cell(0, 0.01), cell(1024, 0.0)]).says[0]


def report(*lambdas: float | None) -> CheckpointReport:
    blocks = tuple(
        BlockReport(index=k, kind="plain" if value is None else "differential", n_parameters=1, lambda_=value,
                    saturated=value == 0.99)
        for k, value in enumerate(lambdas)
    )  # fmt: skip
    return CheckpointReport(
        path="", format="", n_parameters=1, dtypes=(), blocks=blocks, conventions=(), missing_keys=(),
        unexpected_keys=(), misshapen_keys=(), scan="",
    )  # fmt: skip


def test_models_are_told_by_what_they_subtract() -> None:
    told = models_headline({"a": report(0.5, None, 0.99), "bundled:mamba2": report(None, None)})
    assert words(told) == (
        "a subtracts in 2 of 3 blocks, λ from 0.50 to 0.99; mamba2 subtracts nothing in its 2 blocks."
    )
    assert "In 1 blocks of a λ is saturated" in objections(told)
    assert models_headline({}) == Headline(says=())


def test_a_headline_is_drawn_with_what_speaks_against_it_and_nothing_where_there_is_none() -> None:
    drawn = headline_html(Headline(says=("One <i>.", "Two."), against=("But.",)))
    assert '<p class="says">One &lt;i&gt;.</p><p>Two.</p>' in drawn
    assert "<b>Against it:</b> But." in drawn
    assert 'aria-label="Found: One &lt;i&gt;."' in drawn
    assert headline_html(Headline(says=())) == ""
