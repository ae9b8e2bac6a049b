"""What the over-allocation analysis keeps and says."""

import numpy as np
import pytest

from analyses.overallocation import report
from diffmamba_interp.analysis.page import RECORDS
from diffmamba_interp.analysis.results import read_records


@pytest.mark.parametrize("name", report.PAGE.titles)
def test_pictures_are_of_the_same_prompts_and_shares_are_shares(name: str) -> None:
    records = read_records(report.PAGE.folder / name / RECORDS)
    stories = [records["story"][records["picture"] == picture].tolist() for picture in report.PICTURES]
    assert all(same == stories[0] for same in stories)
    total = sum(records[column] for column in ("needle", "question", "distractors", "filler"))
    assert np.all((total >= 0) & (total <= 1.003))
    assert np.all(records["filler"][records["length"] == 0] == 0)


@pytest.mark.parametrize(
    ("signs", "words"),
    [
        ((-1, -1), "hypothesis holds**"),
        ((1, 1), "opposite holds**"),
        ((0, 0), "undecided"),
        ((-1, 0), "hypothesis holds where"),
        ((1, 0), "opposite holds where"),
        ((-1, 1), "mixed"),
    ],
)
def test_the_verdict_follows_the_signs(signs: tuple[int, ...], words: str) -> None:
    cells = [{"n": 50, "differences": {"difference - plain": {"noise": BY_SIGN[sign]}}} for sign in signs]
    assert words in report.verdict(cells)


BY_SIGN = {-1: [-0.2, -0.3, -0.1], 0: [0.0, -0.1, 0.1], 1: [0.2, 0.1, 0.3]}


def test_the_ratio_is_of_prompts_that_have_one_in_both_models() -> None:
    place = report.MEASURES.index("snr_db")
    values = np.zeros((4, len(report.PICTURES), len(report.MEASURES)))
    values[1, report.PICTURES.index("plain"), place] = -np.inf
    values[2, report.PICTURES.index("difference"), place] = np.inf
    values[3, report.PICTURES.index("minuend"), place] = np.inf
    assert report.keep_snr_of_both(values) == 2
    assert np.isnan(values[1:3, :, place]).all()
    assert not np.isnan(values[[0, 3]]).any()
