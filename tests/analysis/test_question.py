"""A question is asked in steps, goes on where it was stopped, and has one writer."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffmamba_interp.analysis.page import RECORDS, RESULTS, Page
from diffmamba_interp.analysis.question import (
    MEASURED,
    Asked,
    Options,
    Question,
    device_of,
    in_processes,
    joined,
    run_command,
)
from diffmamba_interp.analysis.results import read_records, read_results
from diffmamba_interp.files.locks import LockedError, folder_lock


@dataclass(frozen=True, kw_only=True)
class Recipe:
    n: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class SizeOptions(Options):
    n: int | None = None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a question with one recipe."""
    folder = tmp_path / "question"
    folder.mkdir()
    (folder / "recipe.toml").write_text("[builtin]\nn = 3\nseed = 7\n", encoding="utf-8")
    marks = "".join(f"<!-- {name}: written by run.py -->\n<!-- end of {name} -->\n" for name in ("findings", "results"))
    (folder / "README.md").write_text(f"# Why?\n\n{marks}", encoding="utf-8")
    return folder


@pytest.fixture
def calls() -> list[str]:
    """The units that were measured."""
    return []


@pytest.fixture
def question(folder: Path, calls: list[str]) -> Question:
    def measure(asked: Asked, name: str) -> dict[str, Any]:
        calls.append(name)
        return {"model": [name] * asked.recipe.n, "value": np.arange(asked.recipe.n) + len(name) / 3}

    def summarise(folder: Path, results: dict[str, Any]) -> dict[str, Any]:
        return {"mean": float(read_records(folder / RECORDS)["value"].mean()), "apart": results["apart"]}

    page = Page(
        folder=folder,
        summarise=summarise,
        figures=lambda results, title: {},
        finding=lambda results, title: [f"{title}: {results['mean']}"],
        section=lambda results: [f"apart: {results['apart']}"],
    )
    return Question(
        recipe=Recipe,
        options=SizeOptions,
        measure=measure,
        aside=lambda parts: {"apart": len(parts)},
        page=page,
    )


def options(**given: Any) -> SizeOptions:
    return SizeOptions(device="cpu", jobs=1, **given)


def test_a_question_leaves_records_results_and_a_page_between_the_markers(question: Question, folder: Path) -> None:
    question.ask(options())
    records, results = read_records(folder / "builtin" / RECORDS), read_results(folder / "builtin" / RESULTS)
    assert records["model"].tolist() == ["diff-mamba2"] * 3 + ["mamba2"] * 3
    assert results["mean"] == pytest.approx(records["value"].mean(), rel=1e-3)
    assert results["provenance"]["recipe"] == {"name": "builtin", "n": 3, "seed": 7}
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert page.startswith("# Why?\n\n<!-- findings: written by run.py -->\nGenerated stories in generated text: 3.")
    assert "(recipe `builtin`)\n\napart: 2\n<!-- end of results -->" in page
    assert not (folder / "builtin" / MEASURED).exists()


def test_a_question_that_was_stopped_goes_on_with_what_is_missing(
    question: Question, folder: Path, calls: list[str]
) -> None:
    def stopped(asked: Asked, name: str) -> dict[str, Any]:
        if name == "mamba2":
            raise KeyboardInterrupt
        return question.measure(asked, name)

    with pytest.raises(KeyboardInterrupt):
        replace(question, measure=stopped).ask(options())
    assert calls == ["diff-mamba2"]
    assert not (folder / "builtin" / RECORDS).exists()
    question.ask(options())
    assert calls == ["diff-mamba2", "mamba2"]
    once = (folder / "builtin" / RECORDS).read_bytes()
    question.ask(options())
    assert (folder / "builtin" / RECORDS).read_bytes() == once


def test_units_of_another_recipe_are_measured_again(question: Question, calls: list[str], folder: Path) -> None:
    def stopped(asked: Asked, name: str) -> dict[str, Any]:
        if name == "mamba2":
            raise KeyboardInterrupt
        return question.measure(asked, name)

    with pytest.raises(KeyboardInterrupt):
        replace(question, measure=stopped).ask(options(n=2))
    question.ask(options())
    assert calls == ["diff-mamba2", "diff-mamba2", "mamba2"]
    assert len(read_records(folder / "builtin" / RECORDS)["model"]) == 6


def test_records_of_another_machine_are_completed_here(question: Question, folder: Path, tmp_path: Path) -> None:
    question.ask(options(out=tmp_path / "there", records_only=True))
    assert "mean" not in read_results(tmp_path / "there" / "builtin" / RESULTS)
    assert not (tmp_path / "there" / "README.md").exists()
    question.ask(options(out=tmp_path / "here", from_records=tmp_path / "there" / "builtin"))
    assert read_results(tmp_path / "here" / "builtin" / RESULTS)["apart"] == 2
    assert "apart: 2" in (tmp_path / "here" / "README.md").read_text(encoding="utf-8")
    assert "apart" not in (folder / "README.md").read_text(encoding="utf-8")


def test_a_folder_has_one_writer(question: Question, folder: Path, calls: list[str]) -> None:
    with folder_lock(folder), pytest.raises(LockedError, match="another process writes into"):
        question.ask(options())
    assert calls == []


def test_the_command_says_in_a_line_what_can_be_mended(question: Question, capsys: pytest.CaptureFixture[str]) -> None:
    assert question.main(["--recipe", "long"]) == 2
    assert "choose one of builtin" in capsys.readouterr().err
    assert question.main(["--prepare-to", "file"]) == 2
    assert "leave --prepare-to out" in capsys.readouterr().err
    logging.getLogger("diffmamba_interp.analysis").setLevel(logging.NOTSET)


def test_a_script_without_a_recipe_is_a_command_too(capsys: pytest.CaptureFixture[str]) -> None:
    def main(n: int = 1) -> None:
        if n < 0:
            raise ValueError(f"n is {n}: it must not be negative.")

    assert run_command(main, ["--n", "2"]) == 0
    assert run_command(main, ["--n", "-2"]) == 2
    assert "error: n is -2" in capsys.readouterr().err


def test_options_of_a_recipes_fields_override_them(question: Question) -> None:
    assert question.recipe_of(options()).n == 3
    assert question.recipe_of(options(n=0)).n == 0


def test_processes_give_results_with_the_places_of_their_calls() -> None:
    lengths = [(place, length) for place, length in in_processes(len, [("abc",), ("",), ("ab",)], jobs=2)]
    assert sorted(lengths) == [(0, 3), (1, 0), (2, 2)]


def test_lines_are_sorted_by_the_first_column_named_and_units_keep_their_order_otherwise() -> None:
    parts = {(place,): {"records": {"a": np.array([1, 0]), "b": np.array([place, place])}} for place in (1, 0)}
    assert joined(parts)["b"].tolist() == [1, 1, 0, 0]
    by_a = joined(parts, order=("a", "b"))
    assert (by_a["a"].tolist(), by_a["b"].tolist()) == ([0, 0, 1, 1], [0, 1, 0, 1])


def test_several_gpus_share_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of("cuda", place) for place in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [device_of(device, 1) for device in ("cuda:1", "cpu")] == ["cuda:1", "cpu"]
