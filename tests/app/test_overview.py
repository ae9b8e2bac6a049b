"""Overview page: the chosen model, block by block."""

import csv
import io
import re
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest

from app.pages_.overview.request import block_csv, block_npz
from app.shell.change_headlines import subtraction_headline
from diffmamba_interp.models.inspection import inspect_checkpoint
from tests.app.conftest import (
    IDS,
    MODEL,
    OpenApp,
    block_tables,
    captions,
    charts,
    complaint,
    drawn,
    headline,
    links,
    run_code,
    tables,
    texts,
)


def test_the_block_table_says_what_inspect_checkpoint_says(open_app: OpenApp, root: Path) -> None:
    app = open_app()
    table = block_tables(app)[0]
    report = inspect_checkpoint(root / MODEL)
    assert list(table["kind"]) == [block.kind for block in report.blocks]
    assert list(table["parameters"]) == [f"{block.n_parameters:,}" for block in report.blocks]
    assert float(table["λ"][2]) == pytest.approx(report.blocks[2].lambda_, abs=1e-4)
    assert float(table["λ_init"][2]) == pytest.approx(report.blocks[2].lambda_init, abs=1e-4)
    assert table["sigmoid"][0] == {True: "saturated", False: "open"}[report.blocks[0].saturated]
    assert [value == "" for value in table["λ"]] == [False, True, False, True]


def test_parameters_device_and_scan_are_shown(open_app: OpenApp, root: Path) -> None:
    app = open_app()
    facts = " ".join(texts(app.markdown))
    for words in ("**0.131 M**", "**4**", "**2**", "**cpu, float32**"):
        assert words in facts
    shown = texts(app.text)
    assert shown[0] == MODEL
    assert inspect_checkpoint(root / MODEL, device="cpu").scan in shown[1]
    # A browser loads 1.6 MB of script for code, which is there for whoever opens what is taken away.
    assert [element.language for element in app.code] == ["python"]


def test_lambda_is_drawn_by_depth(open_app: OpenApp, root: Path) -> None:
    report = inspect_checkpoint(root / MODEL)
    line, _ = drawn(open_app())["data"]
    assert line["x"] == [0, 2]
    assert line["y"] == [report.blocks[0].lambda_, report.blocks[2].lambda_]


def test_two_models_can_stand_side_by_side(open_app: OpenApp) -> None:
    app = open_app()
    app.selectbox(key="beside").select("models/all").run()
    assert [len({*table["kind"]}) for table in block_tables(app)] == [2, 1]
    assert [line["name"] for line in drawn(app)["data"]] == [MODEL, "models/all", "λ_init"]
    app.selectbox(key="model").select("models/all").run()
    assert len(block_tables(app)) == 1


def test_of_a_plain_model_nothing_about_lambda_is_shown(open_app: OpenApp) -> None:
    app = open_app(model="bundled:mamba2", beside="none")
    assert not charts(app)
    (table,) = block_tables(app)
    assert list(table) == ["block", "kind", "parameters"]
    said = captions(app)
    assert any("nothing is subtracted here" in text for text in said)
    assert not any("subtrahend" in text for text in said)
    assert [button.label for button in app.get("download_button")] == ["CSV", "NPZ"]
    assert "figure" not in run_code(app)


def test_another_model_can_be_chosen(open_app: OpenApp) -> None:
    app = open_app()
    app.selectbox(key="model").select("models/all").run()
    assert set(block_tables(app)[0]["kind"]) == {"differential"}


def test_the_models_to_choose_from_lie_below_the_root_or_come_with_the_package(open_app: OpenApp) -> None:
    offered = open_app().selectbox(key="model").options
    assert {name for name in offered if not name.startswith("bundled:")} - {"worded"} == {"models/all", MODEL}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../secret", "leads outside of the root"),
        ("models", "config.json"),
        ("<script>alert(1)</script>", "there is no folder"),
    ],
)
def test_a_folder_that_cannot_be_opened_is_an_error_box(open_app: OpenApp, name: str, words: str) -> None:
    app = open_app(model=name)
    assert re.search(words, complaint(app))
    app.selectbox(key="model").select(MODEL).run()
    assert len(block_tables(app)) == 1
    assert not app.error


def test_a_root_without_models_says_how_to_name_another(open_app: OpenApp, tmp_path: Path) -> None:
    assert "`-- --root FOLDER`" in complaint(open_app(at_root=tmp_path, model=""))


def test_a_root_that_is_no_folder_is_an_error_box(open_app: OpenApp, tmp_path: Path) -> None:
    assert "is no folder" in complaint(open_app(at_root=tmp_path / "none"))


def test_a_corrupt_checkpoint_is_an_error_box(open_app: OpenApp, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("{", encoding="utf-8")
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"no tensors")
    app = open_app(at_root=tmp_path, model="bad")
    assert "bad" in complaint(app)
    assert texts(app.error) == ["Opening the model failed."]


def test_copy_as_python_gives_the_same_lambdas(open_app: OpenApp) -> None:
    app = open_app(beside="models/all")
    made = run_code(app)
    for trace, again in zip(drawn(app)["data"], made["figure"].data, strict=True):
        assert list(trace["y"]) == list(again.y)
    # No answer is known: what the model says is asked for, and so it is called.
    guess = made["trajectory"].top_tokens[0, -1, 0, 0]
    guessed = f"“{guess}”, the most likely next token"
    assert subtraction_headline(made["record"], MODEL, guessed).says[0] in headline(app)
    top = made["second_trajectory"].top_tokens[0, -1, 0, 0]
    assert f"models/all says “{top}”" in headline(app)


def test_the_files_hold_every_block(open_app: OpenApp, root: Path) -> None:
    reports = {name: inspect_checkpoint(root / name) for name in (MODEL, "models/all")}
    lines = list(csv.DictReader(io.StringIO(block_csv(reports))))
    assert [line["model"] for line in lines] == [MODEL] * 4 + ["models/all"] * 4
    assert float(lines[2]["lambda_"]) == reports[MODEL].blocks[2].lambda_
    with np.load(io.BytesIO(block_npz(reports)), allow_pickle=False) as file:
        assert np.isnan(file["lambda_"]).sum() == 2
    assert [button.label for button in open_app().get("download_button")] == ["HTML", "CSV", "NPZ"]


def test_what_each_model_would_say_next_is_shown_and_where_it_comes_from_is_told(open_app: OpenApp) -> None:
    app = open_app(model="bundled:diff-mamba2", beside="bundled:mamba2")
    assert [table["next token"][0] for table in tables(app, "next token")] == ["' hallway'"] * 2
    (held,) = [text.value for text in app.text if text.value.startswith("In memory")]
    assert " diff-mamba2 (float32" in held
    assert " mamba2 (float32" in held
    told = headline(app)
    assert re.search(r"2 says “hallway” \(p > 0\.999\), which is on top after block \d+ .*; mamba2 says", told)
    assert re.search(
        r"λ 0 in every block takes the answer's probability in diff-mamba2 from > 0\.999 to 0\.\d+; one", told
    )
    assert "mamba2 subtracts nothing in its 12 blocks" in told
    assert "Against it: One position of one prompt" in told


def test_a_token_that_is_not_the_marked_answer_is_told_with_it(open_app: OpenApp) -> None:
    told = headline(open_app(model="bundled:diff-mamba2", beside="none", answer="garden"))
    assert re.search(r"2 says “hallway” \(p > 0\.999; the answer is “garden”\), which", told)


def test_the_first_model_beside_itself_is_shown_once_and_the_page_says_so(open_app: OpenApp) -> None:
    app = open_app(beside=MODEL)
    assert len(block_tables(app)) == 1
    assert "This is the first model: name another one, or none." in texts(app.warning)


def test_a_plain_model_is_asked_nothing_about_a_subtraction(open_app: OpenApp) -> None:
    app = open_app(model="bundled:mamba2", beside="none")
    assert "Does the subtraction help?" not in [link.label for link in links(app)]
    assert len(links(app)) == 3
    assert "λ 0" not in headline(app)


def test_each_question_opens_its_page_in_the_state_that_answers_it(open_app: OpenApp) -> None:
    app = open_app(ids=IDS)
    asked = {link.label: parse_qs(link.query_string) for link in links(app)}
    assert len(asked) == 4
    shared = {"model": [MODEL], "ids": [IDS]}
    assert asked["Does the subtraction help?"] == shared | {"lambda_factor": ["0.0"], "asked_interventions": ["yes"]}
    state = {key: values[0] for key, values in asked["Does the subtraction help?"].items()}
    opened = open_app("interventions", **state)
    assert opened.slider(key="lambda_factor").value == 0
    assert "The change" in headline(opened)


def test_a_story_that_would_take_long_is_left_out_and_the_blocks_are_listed(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.shell.estimates.LONG_S", 0.0)
    app = open_app()
    assert texts(app.error) == []
    assert block_tables(app)
