"""A verdict says which model's answers stand out more, and does not say it where the prompts do not decide."""

from dataclasses import replace

import numpy as np
import pytest

from diffmamba_interp.figures.needle_report import needle_report
from diffmamba_interp.needle import findings
from diffmamba_interp.needle.findings import REPORTED, Verdict, find, findings_table, judge, verdict_table, verdicts
from diffmamba_interp.needle.records import ReadSample
from diffmamba_interp.needle.trajectory_records import NeedleTrajectory

N = 20


def trajectory(name: str, log_ratio: np.ndarray) -> NeedleTrajectory:
    """Prompts of two tasks with one distractor each. log_ratio: of answer to distractor, [sample, stage]."""
    samples = tuple(
        ReadSample(
            id=f"sample{i}",
            task=f"qa{1 + i % 2}",
            length=0,
            depth=None,
            needle_depth=0.5,
            seed=0,
            n_tokens=30,
            labels=("garden", "office"),
            answer="office",
            n_label_tokens=(1, 1),
        )
        for i in range(len(log_ratio))
    )
    log_probs = np.stack([np.full(log_ratio.shape, -5.0), log_ratio - 5.0], axis=-1)[None]
    flat = np.zeros(log_probs.shape[:-1])
    return NeedleTrajectory(
        model=name,
        lenses=("tuned",),
        stages=("embedding", *(f"after block {i}" for i in range(log_ratio.shape[1] - 2)), "output"),
        samples=samples,
        log_probs=log_probs,
        token_ranks=np.ones(log_probs.shape),
        entropy_nats=flat,
        kl_to_final_nats=flat,
    )


@pytest.fixture
def ratios() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, 5))


def test_a_model_that_is_higher_by_so_many_decibels_wins_by_just_these(ratios: np.ndarray) -> None:
    gain = np.array([9.0, 1.0, 2.0, 3.0, -4.0]) * np.log(10) / 10
    found = verdicts(trajectory("plain", ratios), trajectory("differential", ratios + gain), n_resamples=200)
    assert [(dict(one.group).get("task"), one.place, one.n) for one in found] == [
        (None, "inner stages", N),
        (None, "output", N),
        *((f"qa{task}", place, N // 2) for task in (1, 2) for place in ("inner stages", "output")),
    ]
    for one in found:
        # The embedding, which leads by 9 dB, and the output are no inner stages.
        value = 2.0 if one.place == "inner stages" else -4.0
        assert (one.difference_db, one.low, one.high) == pytest.approx((value, value, value))
        assert one.winner == ("differential" if value > 0 else "plain")
        assert one.model_db - one.baseline_db == pytest.approx(value)


def test_equal_models_and_too_few_prompts_are_undecided(ratios: np.ndarray) -> None:
    same, more = trajectory("plain", ratios), trajectory("differential", ratios + 1)
    assert all(one.winner is None and one.p_value == 1 for one in verdicts(same, replace(same, model="other")))
    few = verdicts(same.select(range(9)), more.select(range(9)))
    assert few[0].low > 0
    assert {one.winner for one in few} == {None}


def test_prompts_are_matched_whatever_their_order(ratios: np.ndarray) -> None:
    first, second = trajectory("plain", ratios), trajectory("differential", ratios + 1)
    in_order, reversed_ = (verdicts(first, one) for one in (second, second.select(range(N)[::-1])))
    assert in_order == reversed_


def test_a_verdict_goes_to_plain_values_and_back_and_into_a_table(ratios: np.ndarray) -> None:
    found = verdicts(trajectory("plain", ratios), trajectory("differential", ratios + 1))
    assert [Verdict.from_dict(one.to_dict()) for one in found] == found
    lines = verdict_table(found)
    assert len({len(line) for line in lines}) == 1
    assert "| all " in lines[2]
    assert lines[2].endswith("| differential |")
    with pytest.raises(ValueError, match="no verdicts"):
        verdict_table([])


def test_a_model_without_inner_stages_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="none between embedding and output"):
        judge(np.zeros((12, 2)), np.zeros((12, 2)), names=("a", "b"), lens="tuned", group=())


def test_a_single_model_is_told_with_every_reported_measure_in_the_middle_and_at_the_output(ratios: np.ndarray) -> None:
    head, _, *rows = findings_table(find([trajectory("plain", ratios)]))
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        *("task", "length", "n", "of the answer", "after block 1 [95 % CI]", "at the output"),
    ]
    told = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert [row[0] for row in told] == [task for task in ("all", "qa1", "qa2") for _ in REPORTED]
    mean_db = 10 * np.log10(np.e) * ratios.mean(axis=0)
    assert [row[3] for row in told[:2]] == ["signal-to-noise ratio, dB", "probability"]
    assert [cell.split(" ")[0] for cell in told[0][4:]] == [f"{mean_db[2]:+.2f}", f"{mean_db[-1]:+.2f}"]
    assert told[1][5].split(" ")[0] == f"{np.exp(ratios[:, -1] - 5).mean():.3g}"


def test_a_measure_that_is_reported_has_curves_a_row_and_a_figure_on_the_page(
    ratios: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "REPORTED", (*REPORTED, "label_rank"))
    run = find([trajectory("plain", ratios)])
    assert {curve.measure for curve in run.curves} == {*REPORTED, "label_rank"}
    assert sum("rank of the answer among the labels" in row for row in findings_table(run)) == 3
    page = needle_report(run.curves, [], [], {}, title="a title")
    assert "Mean rank of the answer among the labels" in page
