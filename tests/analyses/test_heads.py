"""What the heads analysis ablates, and what it says, on scores and records worked by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from analyses.heads import report, run
from diffmamba_interp.analysis.conditions import CLEAN
from diffmamba_interp.analysis.page import ALL
from diffmamba_interp.analysis.question import Asked
from diffmamba_interp.analysis.results import write_records
from diffmamba_interp.implicit_attention import HeadScores
from diffmamba_interp.interventions import AblateHead, AtTokens, Head, KnockOut

MODEL = "diff-mamba2"


@pytest.fixture
def scores() -> HeadScores:
    """Two scans of four heads; head 3 of the minuend steps longest, head 2 of the subtrahend gathers most."""
    values = {
        "dt_ratio": np.array([[[1.0, 1.0, 1.0, 9.0], [1.0, 2.0, 1.0, 1.0]]]),
        "gather": np.array([[[0.1, 0.1, 0.1, 0.2], [0.1, 0.1, 0.8, 0.1]]]),
        "aggregate": np.array([[[0.5, 0.1, 0.1, 0.2], [0.1, 0.1, 0.3, 0.1]]]),
        "output_norm": np.array([[[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0]]]),
    }
    return HeadScores(rows=((0, "minuend"), (0, "subtrahend")), n_heads=(4, 4), values=values)


def recipe(**changes: Any) -> run.Recipe:
    given = run.QUESTION.recipe_of(run.QUESTION.options())
    return run.Recipe(**{**vars(given), "share": 0.125, "n_matched": 2, **changes})


def test_each_score_has_its_heads_and_draws_of_others_of_the_same_scan(scores: HeadScores) -> None:
    made = list(run.conditions(recipe(), scores))
    assert [(one.kind, one.dose) for one in made[1:]] == [(kind, dose) for kind in report.SETS for dose in (0, 1, 2)]
    assert (made[0].kind, made[0].interventions) == (CLEAN, ())
    chosen = {kind: run.head_sets(recipe(), scores, kind)[0] for kind in report.SETS}
    assert chosen == {
        "sink": (Head(0, "minuend", 3),),
        "gather": (Head(0, "subtrahend", 2),),
        "aggregate": (Head(0, "minuend", 0),),
    }
    for kind, heads in chosen.items():
        for matched in run.head_sets(recipe(), scores, kind)[1:]:
            assert {head.scan for head in matched} == {head.scan for head in heads}
            assert not set(matched) & set(heads)


def test_a_sink_loses_what_it_reads_of_boundary_tokens_and_other_heads_all_that_they_write(scores: HeadScores) -> None:
    by_kind = {one.kind: one.interventions for one in run.conditions(recipe(n_matched=0), scores)}
    (sink,), (gather,) = by_kind["sink"], by_kind["gather"]
    assert isinstance(sink, KnockOut)
    assert isinstance(sink.positions, AtTokens)
    assert isinstance(gather, AblateHead)
    assert (gather.branch, gather.heads, gather.at) == ("subtrahend", [2], "gated")


def test_stories_that_chose_the_heads_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = {
        ("qa1", 0): [SimpleNamespace(story_hash=name) for name in "abcd"],
        ("qa2", 0): [SimpleNamespace(story_hash=name) for name in "efgh"],
        ("qa1", 1024): [SimpleNamespace(story_hash=name) for name in "bcad"],
    }
    monkeypatch.setattr(run, "prompts_of", lambda asked, task, length: cells[task, length])
    asked = Asked(recipe=recipe(n_scored=2, tasks=("qa1", "qa2")), options=None)
    assert [sample.story_hash for sample in run.scored_prompts(asked)] == ["a", "b", "e", "f"]
    assert [sample.story_hash for sample in run.measured_prompts(asked, "qa1", 0)] == ["c", "d"]
    assert [sample.story_hash for sample in run.measured_prompts(asked, "qa1", 1024)] == ["c", "d"]


def test_the_excess_is_that_of_chosen_over_the_mean_of_matched_heads_and_a_loss_rises(tmp_path: Path) -> None:
    """Accuracy 1 as it is, 0 without the chosen heads, and 1 and 0 in the two draws; log p falls by 0.5 and 0.1."""
    lines: list[tuple[Any, ...]] = []
    for story in "abcd":
        lines.append((CLEAN, 0.0, "qa1", 0, story, 1, -1.0, 20.0))
        for kind in report.SETS:
            for dose, right, snr in ((0.0, 0, 5.0), (1.0, 1, 20.0), (2.0, 0, 10.0)):
                lines.append((kind, dose, "qa1", 0, story, right, -2.0, snr))
        lines.append((CLEAN, 0.0, "text", 256, story, np.nan, -3.0, np.nan))
        for kind in report.SETS:
            for dose, loss in ((0.0, 3.5), (1.0, 3.1), (2.0, 3.1)):
                lines.append((kind, dose, "text", 256, story, np.nan, -loss, np.nan))
    names = ("kind", "dose", "task", "length", "story", "right", "log_prob", "snr_db")
    columns = {name: list(column) for name, column in zip(names, zip(*lines, strict=True), strict=True)}
    columns |= {"model": [MODEL] * len(lines), "where": [ALL] * len(lines), "n_labels": [6] * len(lines)}
    write_records(tmp_path / "records.parquet", columns)
    made = report.summarise(tmp_path, {"scores": {}, "chosen": {}, "rivals": {}})
    prompts, of_text = made["cells"]
    assert (prompts["task"], prompts["n"], of_text["task"], of_text["n"]) == (ALL, 4, "text", 4)
    sink = prompts["sets"]["sink"]
    assert sink["n_matched"] == 2
    assert [sink[name]["right"].value for name in ("chosen", "matched", "excess")] == [-1.0, -0.5, -0.5]
    assert [sink[name]["snr_db"].value for name in ("chosen", "matched", "excess")] == [-15.0, -5.0, -10.0]
    loss = of_text["sets"]["gather"]
    assert [loss[name]["log_prob"].value for name in ("chosen", "matched", "excess")] == pytest.approx([0.5, 0.1, 0.4])
    assert of_text["clean"]["log_prob"].value == 3.0


def test_what_is_bold_is_what_leaves_zero_out() -> None:
    assert report.marked([0.2, 0.1, 0.3], "right") == "**+0.200 [+0.100, +0.300]**"
    assert report.marked([-0.2, -0.3, -0.1], "snr_db") == "**-0.2 [-0.3, -0.1]**"
    assert report.marked([0.1, 0.0, 0.3], "right") == "+0.100 [+0.000, +0.300]"


def test_the_trained_model_has_an_interval_over_texts_and_untrained_ones_their_means() -> None:
    arrays = {
        "parts": np.array(["minuend", "minuend", "difference"]),
        "negative_mass": np.array([[0.2, 0.4, 0.5], [0.2, 0.4, 0.7]]),
        "redundancy": np.zeros((2, 3)),
        "branch_cosine": np.full((2, 1), np.nan),
        "initial negative_mass": np.array([[0.5, 0.5, 0.5], [0.4, 0.6, 0.3]]),
        "initial redundancy": np.zeros((2, 3)),
        "initial branch_cosine": np.full((2, 1), np.nan),
    }
    kept = report.kept_rivals(arrays)
    minuend, difference = (kept["negative_mass"][part] for part in ("minuend", "difference"))
    assert minuend["trained"].value == pytest.approx(0.3)
    assert [estimate.value for estimate in minuend["by_block"]] == pytest.approx([0.2, 0.4])
    assert minuend["untrained"] == pytest.approx([0.5, 0.5])
    assert (difference["trained"].low, difference["trained"].high) == pytest.approx((0.5, 0.7))
    assert "branch_cosine" not in kept
