"""Retrieval page: the shipped accuracies, and a small grid that is run here and can be stopped."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest

from app.pages_.retrieval.grid import ANSWER_TOKENS, GridRequest, cells_csv, cells_npz
from app.shell import loading
from app.shell.choices import needle_sample
from diffmamba_interp.drawing.colours import MODELS
from diffmamba_interp.needle.accuracy_grid import Cell
from tests.app.conftest import OpenApp, charts, complaint, figures, links, run_code, texts

LIVE = {"model": "bundled:diff-mamba2", "results": "run here", "tasks": "qa1", "lengths": "0", "n": "3"}


@pytest.fixture(scope="module")
def cells(project_root: Path) -> list[Cell]:
    file = project_root / "analyses" / "retrieval" / "builtin" / "results.json"
    return [Cell.from_dict(values) for values in json.loads(file.read_text(encoding="utf-8"))["cells"]]


def lines_of(figure: dict) -> list[dict]:
    """The models' curves, without their bands, chance and other training seeds."""
    return [trace for trace in figure["data"] if trace["mode"] == "lines+markers"]


def test_the_shipped_accuracies_and_their_ratio_are_drawn(open_app: OpenApp, cells: list[Cell]) -> None:
    app = open_app("retrieval", results="builtin")
    curves, ratio = figures(app)
    wanted = [cell.models[0].accuracy for cell in cells if cell.task == "qa1"]
    assert lines_of(curves)[0]["y"] == wanted
    assert np.shape(ratio["data"][0]["z"]) == (5, 3)
    assert any("seed 7" in text for text in texts(app.caption))


def test_results_of_several_training_seeds_are_drawn_and_taken_away_with_the_first_one(
    open_app: OpenApp, project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = json.loads((project_root / "analyses/retrieval/builtin/results.json").read_text(encoding="utf-8"))
    for seed in (1, 2):
        others = json.loads(json.dumps(results["cells"]))
        for cell in others:
            for model in cell["models"]:
                model |= {"model": f"{model['model']} seed {seed}", "accuracy": model["accuracy"] / (1 + seed)}
        results["seeds"].append(others)
        results["provenance"]["other_seeds"].append({"seed": seed, "tokens": 239_000_000, "sha256": {}})
    (tmp_path / "analyses" / "retrieval" / "paper").mkdir(parents=True)
    (tmp_path / "analyses" / "retrieval" / "paper" / "results.json").write_text(json.dumps(results), encoding="utf-8")
    # The page is run as a file, so its folder is where it looks for the results.
    monkeypatch.setattr("app.pages_.retrieval.grid.RESULTS", tmp_path / "analyses" / "retrieval")
    app = open_app("retrieval", results="paper")
    curves, ratio = figures(app)
    faint = [trace["y"] for trace in curves["data"] if trace.get("opacity")]
    first = [cell["models"][0]["accuracy"] for cell in results["cells"] if cell["task"] == "qa1"]
    assert len(faint) == 2 * 2 * 5
    assert faint[0] == [value / 2 for value in first]
    assert np.shape(ratio["data"][0]["z"]) == (5, 3)
    said = texts(app.caption)
    assert any("2 other training seeds" in text for text in said)
    assert any("of the first training seed" in text for text in said)
    cells = [Cell.from_dict(values) for grid in (results["cells"], *results["seeds"]) for values in grid]
    names = [line["model"] for line in csv.DictReader(io.StringIO(cells_csv(cells)))]
    assert names.count("diff-mamba2 seed 2") == len(results["cells"])


@pytest.mark.parametrize("results", ["builtin", "paper"])
def test_the_python_of_measured_results_draws_the_same_figures(
    open_app: OpenApp, project_root: Path, monkeypatch: pytest.MonkeyPatch, results: str
) -> None:
    monkeypatch.chdir(project_root)
    app = open_app("retrieval", results=results)
    curves, ratio = figures(app)
    made = run_code(app)
    assert [list(trace["y"]) for trace in curves["data"]] == [list(trace.y) for trace in made["figure"].data]
    assert np.array_equal(ratio["data"][0]["z"], made["ratio"].data[0].z, equal_nan=True)


def test_both_figures_can_be_taken_away(open_app: OpenApp) -> None:
    app = open_app("retrieval", results="builtin")
    labels = [button.label for button in app.get("download_button")]
    assert labels == ["ACCURACY.HTML", "RATIO.HTML", "CSV", "NPZ"]


def test_the_files_hold_every_cell(cells: list[Cell]) -> None:
    lines = list(csv.DictReader(io.StringIO(cells_csv(cells))))
    assert len(lines) == 2 * len(cells)
    second = cells[0].models[1]
    assert lines[1]["model"] == second.model
    for name in ("n_right", "accuracy", "low", "high", "generated"):
        assert float(lines[1][name]) == getattr(second, name)
    paired = cells[0].difference
    assert lines[0]["minus"] == ""
    assert lines[1]["minus"] == cells[0].models[0].model
    assert [float(lines[1][f"difference{end}"]) for end in ("", "_low", "_high")] == [
        paired.value, paired.low, paired.high
    ]  # fmt: skip
    with np.load(io.BytesIO(cells_npz(cells)), allow_pickle=False) as file:
        assert file["n_right"].tolist() == [model.n_right for cell in cells for model in cell.models]


def test_a_grid_is_run_here_and_its_code_gives_the_same_accuracies(open_app: OpenApp) -> None:
    app = open_app("retrieval", **LIVE)
    assert not charts(app)
    app.button(key="run_grid").click().run()
    curves, _ = figures(app)
    made = run_code(app)
    assert [cell.n for cell in made["cells"]] == [3]
    assert [line["y"] for line in lines_of(curves)] == [[model.accuracy] for model in made["cells"][0].models]
    (kept,) = app.session_state["kept_records"].values()
    assert kept.title == "retrieval, qa1 at 0 tokens, 3 prompts of seed 0"
    assert kept.record.cells[0].models == made["cells"][0].models


def test_a_grid_that_is_run_here_has_the_colours_and_the_direction_of_the_measured_one(open_app: OpenApp) -> None:
    measured = figures(open_app("retrieval", results="builtin"))
    # The plain model first: a ratio is of the differential one to it all the same.
    order = {"model": "bundled:mamba2", "beside": "bundled:diff-mamba2"}
    app = open_app("retrieval", **{**LIVE, **order, "n": "1"})
    app.button(key="run_grid").click().run()
    looks, titles = [], []
    for curves, ratio in (measured, figures(app)):
        looks.append({line["name"]: line["line"]["color"] for line in lines_of(curves)})
        titles.append(ratio["layout"]["coloraxis"]["colorbar"]["title"]["text"])
    assert looks[0] == looks[1] == {name: style.colour for name, style in MODELS.items()}
    assert titles == ["diff-mamba2 /<br>mamba2"] * 2
    assert any("Accuracy of diff-mamba2 over mamba2" in text for text in texts(app.caption))


def test_a_prompt_of_a_grid_opens_the_other_pages_and_the_needle_run_that_holds_it(open_app: OpenApp) -> None:
    app = open_app("retrieval", **LIVE)
    app.button(key="run_grid").click().run()
    app.number_input(key="grid_prompt").set_value(2).run()
    row = app.session_state["retrieval_rows"][2]
    assert any(f"Answer: {row.answer}. mamba2 finds {row.predicted} likeliest" in text for text in texts(app.caption))
    linked = {link.page: {key: value[0] for key, value in parse_qs(link.query_string).items()} for link in links(app)}
    assert set(linked) == {"needle", "attention", "lens", "graph", "interventions"}
    of_prompt = {"source": "needle", "task": "qa1", "length": "0", "seed": "0", "number": "2"}
    assert linked["lens"].items() >= of_prompt.items()
    assert linked["needle"].items() >= {"needle_task": "qa1", "needle_n": "3", "needle_prompt": "2"}.items()
    sample = needle_sample(loading.model_key(LIVE["model"], "float32"), "qa1", 0, 0, 2)
    assert (sample.story_hash[:16], sample.answer) == (row.story, row.answer)


def test_a_grid_that_was_left_shows_the_cells_that_were_done(open_app: OpenApp) -> None:
    app = open_app("retrieval", **{**LIVE, "tasks": "qa1 qa4"})
    app.button(key="run_grid").click().run()
    names, request = app.session_state["retrieval_request"]
    rows = [row for row in app.session_state["retrieval_rows"] if row.task == "qa1"]
    app.session_state["retrieval_rows"] = rows
    app.run()
    assert any("Stopped after 1 of 2 cells" in text for text in texts(app.warning))
    assert len(figures(app)) == 2


def test_the_estimate_grows_with_prompts_tasks_lengths_and_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.pages_.retrieval.grid.forward_seconds", lambda key, n_tokens: float(n_tokens))
    small = GridRequest(tasks=("qa1",), lengths=(0,), n=2, seed=0)
    alone = small.seconds(["one"])
    assert small.seconds(["one", "two"]) == 2 * alone
    assert replace(small, n=6).seconds(["one"]) == 3 * alone
    assert replace(small, lengths=(0, 1024)).seconds(["one"]) - alone == 2 * (1024 + ANSWER_TOKENS)
    assert replace(small, tasks=("qa1", "qa3")).seconds(["one"]) > 2 * alone


def test_a_grid_that_takes_far_too_long_is_refused(open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GridRequest, "seconds", lambda *_: 1e5)
    assert "Choose fewer prompts, tasks or lengths" in complaint(open_app("retrieval", **LIVE))


def test_a_model_without_words_cannot_be_asked(open_app: OpenApp) -> None:
    assert "tokenizer" in complaint(open_app("retrieval", results="run here"))
