"""The analysis of unseen novels: pairs of prompts, intervals over stories and texts, and the words of its page."""

import numpy as np
import pytest

from analyses.unseen_novels import report
from diffmamba_interp.models.demo import DEMO_NAMES


def made_up_records(n_stories: int = 12, n_fillers: int = 10, gain: float = 3.0) -> dict[str, np.ndarray]:
    """Diff-Mamba is `gain` above Mamba-2 in every measure, and its lines stand backwards."""
    rng = np.random.default_rng(0)
    story, filler = np.divmod(np.arange(n_stories * n_fillers), n_fillers)
    base = rng.normal(size=(len(story), len(report.MEASURES)))
    tables = []
    for model in DEMO_NAMES:
        order = np.arange(len(story))[:: 1 if model == report.BASELINE else -1]
        values = base + gain * (model == report.MODEL)
        tables.append(
            {
                "model": np.full(len(story), model),
                "task": np.where(story % 2, "qa1", "qa2")[order],
                "story": np.char.mod("s%d", story)[order],
                "filler": np.char.mod("f%d", filler)[order],
                **{name: values[order, place] for place, name in enumerate(report.MEASURES)},
            }
        )
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def test_differences_are_paired_by_prompt_whatever_the_order_of_lines() -> None:
    records = made_up_records()
    whole = report.cell(records, "all")
    assert (whole["n"], whole["n_stories"], whole["n_fillers"]) == (120, 12, 10)
    for measure in report.MEASURES:
        assert whole[measure]["difference"] == pytest.approx([3.0, 3.0, 3.0])
        assert whole[measure]["diff-mamba2"][0] == pytest.approx(whole[measure]["mamba2"][0] + 3)
    assert report.cell(records, "qa1")["n"] == 60
    assert report.verdict(whole, "right") == "higher in `diff-mamba2`"
    for line in report.by_filler(records):
        assert (line["n"], line["snr_inner_db"]) == (12, pytest.approx([3.0] * 3))


def test_few_texts_decide_nothing() -> None:
    whole = report.cell(made_up_records(n_fillers=4), "all")
    assert report.verdict(whole, "snr_inner_db") == "undecided"


def test_texts_that_differ_widen_the_interval() -> None:
    records = made_up_records()
    better = (records["filler"] == "f0") & (records["model"] == report.MODEL)
    records["snr_inner_db"] = records["snr_inner_db"] + 50.0 * better
    _, low, high = report.cell(records, "all")["snr_inner_db"]["difference"]
    # One text of ten may be drawn not at all, or thrice.
    assert low == pytest.approx(3.0)
    assert high > 3.0 + 2 * 50 / 10


def test_models_that_were_asked_different_prompts_are_refused() -> None:
    records = made_up_records()
    records["filler"] = np.where(records["model"] == report.MODEL, "other", records["filler"])
    with pytest.raises(ValueError, match="run both again"):
        report.cell(records, "all")
