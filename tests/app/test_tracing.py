"""Patching and faithfulness on the interventions page: the library's numbers, and the program that makes them again."""

import csv
import io
from urllib.parse import parse_qs

import numpy as np
import pytest
import torch
from streamlit.delta_generator import DeltaGenerator

from app.pages_.interventions.tracing import PatchRequest, chosen_cell, curves_csv, grids_csv, grids_height
from app.shell.carriers import places_of, swap_rows
from app.shell.loading import ChosenModel
from app.shell.prompt_pairs import exchanged
from app.shell.prompts import Prompt
from diffmamba_interp import HookedMamba
from diffmamba_interp.implicit_attention import source_scores
from diffmamba_interp.interventions import attribution_patching, faithfulness, patch_grid
from diffmamba_interp.spans import Spans
from tests.app.conftest import IDS, MODEL, OpenApp, captions, complaint, figures, headline, links, texts
from tests.app.test_interventions import ANSWER, TOKENS

OTHER = torch.tensor([[8 if token == 5 else 5 if token == 8 else token for token in TOKENS[0].tolist()]])
READ = {"answers": [8], "against": [5]}


@pytest.fixture(scope="module")
def model(root) -> HookedMamba:
    return HookedMamba.from_pretrained(root / MODEL).eval()


def programs(app) -> list[str]:
    return [element.value for element in app.code if element.language == "python"]


def test_the_exact_grid_stands_beside_its_estimate_and_both_come_out_of_the_program(
    open_app: OpenApp, model: HookedMamba
) -> None:
    app = open_app("interventions", **ANSWER, patched="mixer_out")
    exact = patch_grid(model, TOKENS, OTHER, **READ, point="mixer_out")
    estimate = attribution_patching(model, TOKENS, OTHER, **READ, point="mixer_out")
    heats = [trace for trace in figures(app)[-1]["data"] if trace["type"] == "heatmap"]
    assert figures(app)[-1]["layout"]["height"] == grids_height(len(exact.blocks))
    for heat, grid in zip(heats, (exact, estimate), strict=True):
        assert np.allclose(np.array(heat["z"], dtype=float), grid.change[0], atol=1e-4)
    assert heats[0]["coloraxis"] == heats[1]["coloraxis"]
    assert any("Rank correlation of estimate and exact" in text for text in captions(app))
    # The links open the cell that brings most back, or the one that was clicked.
    row, column = np.unravel_index(np.nanargmax(exact.recovered[0]), exact.recovered[0].shape)
    opened = [parse_qs(link.query_string) for link in links(app) if link.page == "attention"]
    assert [(one["block"], one["row"]) for one in opened] == [([str(exact.blocks[row])], [str(column)])]
    assert chosen_cell("1-2", exact) == (1, 2)
    assert chosen_cell("99-0", exact) == chosen_cell("x", exact) == (row, column)
    made: dict = {}
    exec(compile(programs(app)[-1], "copied", "exec"), made)
    assert np.allclose(made["exact"].patched, exact.patched, atol=1e-5)
    assert np.allclose(made["estimate"].patched, estimate.patched, atol=1e-4)
    assert len(made["patching_figure"].data) == len(figures(app)[-1]["data"])
    # What the lens reads of both prompts stands before the grids.
    this, other = (np.exp(made[name].target_log_probabilities[0]) for name in ("trajectory", "other_trajectory"))
    assert np.allclose(figures(app)[-2]["data"][0]["z"], this - other, atol=1e-5)
    assert np.array_equal(made["trajectory"].targets, made["other_trajectory"].targets)
    assert "8<br>5" in figures(app)[-2]["layout"]["xaxis"]["ticktext"]


def test_patching_tells_how_far_it_is_and_of_how_many_prompts_it_speaks(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    monkeypatch.setattr(DeltaGenerator, "progress", lambda self, value, words="": told.append(value) or self)
    app = open_app("interventions", **ANSWER, patched="mixer_out", patch_columns="spans")
    assert told[0] == 0
    assert told[-1] == 1
    assert any("of one prompt (n = 1)" in text for text in captions(app))
    assert {link.page for link in links(app)} >= {"needle", "retrieval"}


def test_a_link_to_a_patching_opens_it_first_and_says_what_it_set_aside(open_app: OpenApp) -> None:
    set_before = {"lambda_factor": "0.5", "heads_off_0_minuend": "0 1", "heads_off_1": "2"}
    app = open_app("interventions", **ANSWER, **set_before)
    app.switch_page("pages_/evidence/evidence.py").run()
    app.query_params.clear()
    asked = {"asked_interventions": "yes", "asked_patching": "yes"}
    app.query_params.update({"model": MODEL, **ANSWER, "patched": "mixer_out", "patch_columns": "spans", **asked})
    app.switch_page("pages_/interventions/interventions.py").run()
    assert "brings back" in headline(app)
    panels = [panel.label for panel in app.expander if panel.proto.expanded]
    assert [label for label in panels if not label.startswith("Take it away")] == ["Sweep, patch, take tokens out"]
    (told,) = texts(app.info)
    assert r"heads off in block 0, minuend\: 0, 1; heads off in block 1\: 2; λ of all blocks times 0\.5" in told
    app.button(key="take_up").click().run()
    assert app.slider(key="lambda_factor").value == 0.5
    assert "The change" in headline(app)
    assert not app.info


def test_what_was_patched_and_changed_together_comes_back_by_undo_and_by_the_button(open_app: OpenApp) -> None:
    for button in ("undo", "take_up"):
        app = open_app("interventions", **ANSWER)
        app.multiselect(key="heads_off_0_minuend").set_value(["0"]).run()
        app.selectbox(key="patched").set_value("mixer_out").run()
        app.selectbox(key="patch_columns").set_value("spans").run()
        app.query_params.clear()
        app.switch_page("pages_/evidence/evidence.py").run()
        app.query_params.update({"model": MODEL, **ANSWER, "knock_positions": "3"})
        app.switch_page("pages_/interventions/interventions.py").run()
        assert app.selectbox(key="patched").value == "nothing"
        assert r"patched\: what each block writes" in app.info[0].value
        app.button(key=button).click().run()
        assert app.multiselect(key="heads_off_0_minuend").value == ["0"], button
        assert (app.selectbox(key="patched").value, app.selectbox(key="patch_columns").value) == ("mixer_out", "spans")
        assert app.text_input(key="knock_positions").value == ("" if button == "undo" else "3")


def test_a_prompt_of_another_length_is_refused_in_words(open_app: OpenApp) -> None:
    app = open_app("interventions", **ANSWER, patched="resid_pre", other_prompt=f"{IDS} 7")
    assert "has 12 tokens and the prompt 11" in complaint(app)


def test_curves_follow_the_accounts_and_come_out_of_the_program(open_app: OpenApp, model: HookedMamba) -> None:
    app = open_app("interventions", **ANSWER, faithful="True")
    scores = {str(name): values for name, values in source_scores(model, TOKENS, 8).items()}
    record = faithfulness(model, TOKENS, scores, answers=[8], labels=[8, 5, 60], reading="label_probability")
    lines = [trace for trace in figures(app)[-1]["data"] if trace.get("mode") == "lines+markers"]
    assert [line["name"] for line in lines[:2]] == ["hidden attention", "contribution"]
    drawn = np.array([line["y"] for line in lines], dtype=float)
    assert np.allclose(drawn, np.concatenate([record.deletion[0], record.insertion[0]]), atol=1e-4)
    made: dict = {}
    exec(compile(programs(app)[-1], "copied", "exec"), made)
    assert np.allclose(made["faithful"].deletion, record.deletion, atol=1e-5)
    rows = list(csv.DictReader(io.StringIO(curves_csv(record))))
    assert len(rows) == len(record.rankings) * len(record.fractions)
    assert float(rows[0]["label_probability, taken out"]) == pytest.approx(record.deletion[0, 0, 0], rel=1e-4)


def test_nothing_is_patched_until_it_is_asked_for(open_app: OpenApp) -> None:
    app = open_app("interventions", **ANSWER)
    assert len(figures(app)) == 3
    assert len(programs(app)) == 1


def test_what_is_advised_is_not_chosen_already() -> None:
    shorter = {
        (point, columns): PatchRequest(point=point, columns=columns, other=Prompt(tokens=(), strings=())).shorter
        for point in ("gated", "mixer_out")
        for columns in ("tokens", "spans")
    }
    assert "whole spans" in shorter["gated", "tokens"]
    assert shorter["gated", "spans"] == "Shorten the prompt, or patch what each block writes"
    assert shorter["mixer_out", "spans"] == "Shorten the prompt"


def test_rows_columns_and_files_are_those_of_the_grid(model: HookedMamba, root) -> None:
    chosen = ChosenModel.__new__(ChosenModel)
    object.__setattr__(chosen, "cfg", model.cfg)
    prompt = Prompt(tokens=(5, 8, 3, 9), strings=("a", "b", "c", "d"), spans=Spans(needle=((1, 3),)))
    assert places_of(prompt, "spans") == {"needle": (1, 2), "the rest": (0, 3)}
    assert list(places_of(prompt, "tokens")) == ["0 a", "1 b", "2 c", "3 d"]
    for point in ("resid_pre", "branch_out", "gated"):
        grid = patch_grid(model, TOKENS, OTHER, **READ, point=point, positions=[3, (1, 2)])
        assert swap_rows(chosen, point) == list(grid.blocks)
    # The bundled pair's heads, of twelve blocks and two branches.
    assert grids_height(288) - grids_height(188) == 100 * 8
    assert grids_height(24) == grids_height(12)
    rows = list(csv.DictReader(io.StringIO(grids_csv({"exact": grid, "estimate": grid}, ["x", "y"]))))
    assert (rows[0]["block"], rows[1]["position"]) == (grid.row_names[0], "y")
    assert float(rows[1]["change"]) == pytest.approx(grid.change[0, 0, 1], rel=1e-4)


def test_labels_are_exchanged_both_ways() -> None:
    assert exchanged((8, 5, 60, 8), 8, 5) == (5, 8, 60, 5)
    assert exchanged((8, 5), 8, None) == (8, 5)
