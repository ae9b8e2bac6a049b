"""README's "What was found" is what the records say: it is rebuilt byte by byte, and follows a record that changes."""

import copy
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses.findings import answer_snr, rows, run, sources
from diffmamba_interp.needle.accuracy_grid import PromptRow
from diffmamba_interp.statistics import Estimate

INTERVAL = re.compile(r"\[-?\d+\.\d+, -?\d+\.\d+\]")
KEPT_RESULTS = sources.results.__wrapped__


@pytest.fixture(scope="module")
def told() -> list[rows.Row]:
    return [one for one in (row() for row in rows.ROWS) if one is not None]


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[Any], None]], None]:
    """Change a copy of the results of one folder, as the rows see them."""

    def change(folder: str, edit: Callable[[Any], None]) -> None:
        found = copy.deepcopy(KEPT_RESULTS(folder))
        edit(found)
        monkeypatch.setattr(answer_snr, "results", lambda name: found if name == folder else KEPT_RESULTS(name))

    return change


def test_the_readme_is_what_the_records_give(told: list[rows.Row], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(rows, "ROWS", tuple(lambda row=row: row for row in told))
    run.main(out=tmp_path)
    assert (tmp_path / "README.md").read_bytes() == (run.ROOT / "README.md").read_bytes()


def test_every_row_says_what_it_holds_for_with_interval_and_n(told: list[rows.Row]) -> None:
    for row in told:
        assert row.holds_for in ("these weights", "six seeds", "five seeds", "four seeds")
        assert INTERVAL.search(row.answer), row.question
        assert re.match(r"\d", row.n), row.question
        assert (sources.ANALYSES / row.page).is_dir()
        assert not {"|", "\n"} & set(f"{row.question}{row.answer}{row.n}")


def test_a_number_that_changes_in_a_record_changes_the_row(changed: Callable) -> None:
    before = answer_snr.output_snr_by_task().answer

    def raised(found: dict) -> None:
        one = sources.cell(found["verdicts"], place="output", lens="tuned", group={"task": "qa1", "length": "0"})
        one["difference_db"] += 0.1

    changed("needle_snr/paper", raised)
    assert answer_snr.output_snr_by_task().answer == before.replace("qa1 +9.4", "qa1 +9.5")


def test_a_record_that_turns_refuses_its_sentence(changed: Callable) -> None:
    def turned(found: dict) -> None:
        found["lengths"]["0"]["difference"][answer_snr.INNER] = [[9.0, 3.0, 15.0]]

    changed("needle_seeds", turned)
    with pytest.raises(sources.OutdatedError, match="not told apart over seeds.*analyses/findings"):
        answer_snr.inner_snr_over_seeds()


def answered(model: str, task: str, right: list[bool], length: int = 0) -> list[PromptRow]:
    about = {"story": "", "n_tokens": 1, "n_mentioned": 1, "labels": ("a", "b"), "generated": "", "log_probs": ()}
    return [
        PromptRow(model=model, task=task, length=length, index=i, answer="a", predicted="a" if ok else "b", **about)
        for i, ok in enumerate(right)
    ]


def test_a_difference_of_accuracy_can_leave_tasks_out() -> None:
    told_rows = answered("x", "qa1", [False] * 10) + answered("x", "qa2", [True] * 10)
    told_rows += answered("y", "qa1", [True] * 10) + answered("y", "qa2", [True] * 10)
    assert sources.accuracy_difference(told_rows, "x", "y", length=0).value == 0.5
    rest = sources.accuracy_difference(told_rows, "x", "y", length=0, without=["qa1"])
    assert (rest.value, rest.low, rest.high) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="same prompts"):
        sources.accuracy_difference(told_rows[:-1], "x", "y", length=0)


def test_a_ratio_of_probabilities_is_that_of_geometric_means(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = np.array([-3.0, -1.0, -2.0])
    kept = {
        "model": np.repeat(["mamba2", "diff-mamba2"], 3),
        "lens": np.full(6, "tuned"),
        "length": np.zeros(6),
        "task": np.full(6, "qa1"),
        "story": np.array(["a", "b", "c", "c", "a", "b"]),  # the models' lines stand in different orders
        "log_p_0": np.concatenate([plain, plain[[2, 0, 1]] + np.log(8.5)]),
    }
    monkeypatch.setattr(sources, "records", lambda folder: kept)
    (ratio,) = sources.probability_ratio("any", "tuned", 0)
    assert [ratio.value, ratio.low, ratio.high] == pytest.approx([8.5] * 3)


def test_a_step_lies_on_the_line_between_two_lines_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "retrieval" / "training" / "mamba2-seed3"
    folder.mkdir(parents=True)
    lines = [
        {"step": step, "answer_accuracy": value} for step, value in ((100, 0.2), (200, 0.4), (300, 0.8), (400, 0.9))
    ]
    lines.append({"step": 400, "bits_per_byte": 1.0})
    with gzip.open(folder / "log.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(sources, "ANALYSES", tmp_path)
    assert sources.step_of_answers(3, "mamba2") == pytest.approx(225.0)
    with pytest.raises(ValueError, match="never pass"):
        sources.step_of_answers(3, "mamba2", 0.95)


def test_a_ratio_over_seeds_is_of_logarithms() -> None:
    ratio = sources.ratio_over_seeds([200.0, 800.0], [100.0, 100.0])
    assert ratio.value == pytest.approx(4.0)
    assert ratio.low * ratio.high == pytest.approx(16.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [([0.1234, -0.05, 0.3], "+0.12 dB [-0.05, 0.30]"), (Estimate(-1.0, -2.0, -0.5), "-1.00 dB [-2.00, -0.50]")],
)
def test_an_estimate_is_told_with_unit_and_bounds(values: Any, words: str) -> None:
    assert sources.told(values, unit="dB") == words


def test_what_is_newest_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "ANALYSES", tmp_path)
    with pytest.raises(ValueError, match="results of none of unseen, builtin"):
        sources.newest("q", "unseen", "builtin")
    for recipe in ("builtin", "unseen"):
        (tmp_path / "q" / recipe).mkdir(parents=True)
        (tmp_path / "q" / recipe / "results.json").write_text("{}")
        assert sources.newest("q", "unseen", "builtin") == f"q/{recipe}"
