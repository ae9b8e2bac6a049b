"""Interventions page: what the widgets change is what the model runs with; the answer is shown before and after."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from streamlit.testing.v1 import AppTest

from app.pages_.interventions.choices import parse_positions
from app.pages_.interventions.pictures import readings_csv, readings_npz
from app.pages_.interventions.request import Changes
from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.interventions import (
    AblateBranch,
    AblateHead,
    AnswerReading,
    KnockOut,
    ScaleLambda,
    SetLambda,
    SwapBranches,
    compare,
    intervene,
)
from diffmamba_interp.lens import LogitLens, lens_trajectory
from tests.app.conftest import IDS, MODEL, OpenApp, complaint, figures, run_code, tables, texts
from tests.models.tiny import random_tokens, tiny_model

TOKENS = torch.tensor([[int(part) for part in IDS.split()]])
ANSWER = {"ids": IDS, "answer": "8", "wrong": "5;60"}


@pytest.fixture(scope="module")
def model(root) -> HookedMamba:
    return HookedMamba.from_pretrained(root / MODEL).eval()


def expected(model: HookedMamba, *changes: Any):
    reading = AnswerReading(tokens=TOKENS, answers=[8], labels=[8, 5, 60], lenses={"lens": LogitLens.from_model(model)})
    return compare(reading, model, list(changes))


def curve(app: AppTest, when: str, place: int = 0) -> np.ndarray:
    """Values by stage as they are drawn: probability (0) or signal-to-noise ratio (1)."""
    return next(t["y"] for t in figures(app)[place]["data"] if t.get("name", "").startswith(when))


def is_unchanged(app: AppTest) -> bool:
    """Whether there is nothing but the model as it is."""
    return not any(trace.get("name", "").startswith("after") for trace in figures(app)[0]["data"])


def printed_curve(figure: go.Figure, when: str) -> np.ndarray:
    return next(trace.y for trace in figure.data if (trace.name or "").startswith(when))


def probability(values: dict[str, np.ndarray]) -> np.ndarray:
    return np.exp(np.append(values["lens.answer_log_probability"][0], values["answer_log_probability"][0]))


def test_at_first_nothing_is_changed(open_app: OpenApp, model: HookedMamba) -> None:
    app = open_app("interventions", **ANSWER)
    record = expected(model)
    assert np.allclose(curve(app, "before"), probability(record.clean), rtol=1e-4)
    assert is_unchanged(app)
    assert figures(app)[2]["data"][0]["z"].min() >= 0
    assert any("Change something above" in text for text in texts(app.caption))
    assert len(tables(app)) == 1
    assert any("nothing is changed" in text for text in texts(app.caption))
    assert not any(metric.delta for metric in app.metric)
    assert "Reset" in [button.label for button in app.button]


def test_a_page_opens_on_the_tab_of_what_is_changed_and_stays_there(open_app: OpenApp) -> None:
    def tab(app: AppTest) -> str:
        (holder,) = (part for part in app.main if getattr(part, "type", "") == "tab_container")
        return app.tabs[holder.proto.tab_container.default_tab_index].label

    app = open_app("interventions", **ANSWER, heads_off_1="3")
    assert tab(app) == "Heads"
    app.slider(key="lambda_factor").set_value(0.5).run()
    assert tab(app) == "Heads"
    assert tab(open_app("interventions", **ANSWER, knock_positions="1-2")) == "Tokens"
    assert tab(open_app("interventions", **ANSWER)) == "λ"


@pytest.mark.parametrize(
    ("address", "change"),
    [
        ({"lambda_factor": "0.5"}, ScaleLambda(factor=0.5)),
        ({"lambda_2": "0.25"}, SetLambda(value=0.25, blocks=2)),
        ({"branches_off": "0.subtrahend"}, AblateBranch(branch="subtrahend", blocks=0)),
        ({"swapped": "2"}, SwapBranches(blocks=2)),
        ({"heads_off_1": "3", "head_scan": "1"}, AblateHead(block=1, heads=3)),
        ({"heads_off_2_minuend": "0 1"}, AblateHead(block=2, heads=(0, 1), branch="minuend")),
        ({"knock_positions": "1 3-4"}, KnockOut(positions=(1, 3, 4))),
        ({"knock_positions": "2", "level": "input"}, KnockOut(positions=2, level="input")),
        (
            {"knock_positions": "2", "knock_branch": "minuend", "knock_blocks": "1-3"},
            KnockOut(positions=2, branch="minuend", blocks=2),
        ),
    ],
)
def test_each_widget_makes_its_intervention(
    open_app: OpenApp, model: HookedMamba, address: dict[str, str], change: Any
) -> None:
    app = open_app("interventions", **ANSWER, **address)
    record = expected(model, change)
    assert np.allclose(curve(app, "after"), probability(record.intervened), rtol=1e-4)
    assert np.allclose(curve(app, "before"), probability(record.clean), rtol=1e-4)
    assert not np.allclose(curve(app, "after"), curve(app, "before"), rtol=1e-4)
    assert not app.warning
    assert float(app.metric[3].value.removesuffix(" dB")) == pytest.approx(record.intervened["snr_db"][0], rel=1e-3)


def test_the_slider_of_a_block_wins_over_the_one_of_all(open_app: OpenApp, model: HookedMamba) -> None:
    app = open_app("interventions", **ANSWER)
    app.slider(key="lambda_factor").set_value(0.0).run()
    app.slider(key="lambda_0").set_value(1.5).run()
    record = expected(model, ScaleLambda(factor=0.0, blocks=2), SetLambda(value=1.5, blocks=0))
    assert np.allclose(curve(app, "after"), probability(record.intervened), rtol=1e-4)
    app.button(key="reset_changes").click().run()
    assert app.slider(key="lambda_factor").value == 1.0
    assert is_unchanged(app)


def test_heads_of_several_scans_are_off_together(open_app: OpenApp, model: HookedMamba) -> None:
    app = open_app("interventions", **ANSWER)
    app.multiselect(key="heads_off_0_minuend").select("1").run()
    app.selectbox(key="head_scan").select("1").run()
    app.multiselect(key="heads_off_1").select("2").run()
    record = expected(model, AblateHead(block=0, heads=1, branch="minuend"), AblateHead(block=1, heads=2))
    assert np.allclose(curve(app, "after"), probability(record.intervened), rtol=1e-4)
    assert any("Also off: block 0, minuend: 1" in text for text in texts(app.caption))


@pytest.mark.parametrize("maps", ["difference", "beside"])
def test_copy_as_python_gives_the_same_numbers(open_app: OpenApp, maps: str) -> None:
    changes = {"lambda_factor": "0", "branches_off": "2.minuend", "heads_off_1": "0", "knock_positions": "1-2"}
    app = open_app("interventions", **ANSWER, **changes, maps=maps, map_colour="entropy")
    made = run_code(app)
    for when in ("before", "after"):
        assert np.allclose(curve(app, when), printed_curve(made["probability_figure"], when), rtol=1e-4)
    assert curve(app, "after", 1)[-1] == pytest.approx(made["record"].intervened["snr_db"][0], rel=1e-4)
    maps_drawn = [figure["data"][0] for figure in figures(app)[2:]]
    if maps == "difference":
        before, after = (made[when].entropy_nats[0] for when in ("before", "after"))
        assert np.allclose(maps_drawn[0]["z"], after - before, atol=1e-5)
    wanted = {
        "difference": lambda: [made["map"].data[0].z],
        "beside": lambda: [made["map_before"].data[0].z, made["map_after"].data[0].z],
    }
    for drawn, values in zip(maps_drawn, wanted[maps](), strict=True):
        assert np.allclose(drawn["z"], values, atol=1e-5)


def test_a_difference_of_probabilities_is_of_the_same_token(open_app: OpenApp) -> None:
    app = open_app("interventions", **ANSWER, swapped="0")
    assert "probability of the top token" not in app.selectbox(key="map_colour").options
    made = run_code(app)
    before, after = (np.exp(made[when].target_log_probabilities[0]) for when in ("before", "after"))
    assert np.allclose(figures(app)[-1]["data"][0]["z"], after - before, atol=1e-5)


def test_the_lens_reads_the_changed_stream(open_app: OpenApp, model: HookedMamba) -> None:
    app = open_app("interventions", **ANSWER, swapped="0", maps="beside", map_colour="probability")
    with intervene(model, SwapBranches(blocks=0)):
        found = lens_trajectory(model, LogitLens.from_model(model), TOKENS, positions=slice(5, 11))
    assert np.allclose(figures(app)[3]["data"][0]["z"], found.top_probabilities[0, ..., 0], rtol=1e-4)
    table = tables(app)[1]
    assert list(table["token"]) == [str(token) for token in found.top_tokens[0, -1, -1, :5]]


def test_an_answer_of_several_tokens_is_read_by_its_first_and_labels_that_share_it_are_left_out(
    open_app: OpenApp,
) -> None:
    address = {"model": "bundled:diff-mamba2", "lens": "logit lens", "answer": "hallway of *the* house"}
    app = open_app("interventions", **address, wrong="hallway;garden")
    said = texts(app.caption)
    assert any("first token, “hallway”" in text.replace("\\", "") for text in said)
    assert any("left out" in text for text in said)
    assert len(app.metric) == 4


def test_without_wrong_answers_there_is_no_ratio(open_app: OpenApp) -> None:
    app = open_app("interventions", ids=IDS)
    assert len(app.metric) == 2
    assert len(figures(app)) == 2


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ({"answer": "97"}, "vocabulary is 0 to 96"),
        ({"knock_positions": "11"}, "from 0 to 10"),
        ({"knock_positions": "x"}, "no position"),
        ({"knock_positions": "1", "knock_branch": "minuend", "knock_blocks": "1-1"}, "knock the tokens out of both"),
    ],
)
def test_a_change_that_is_none_is_an_error_box_and_the_app_lives_on(
    open_app: OpenApp, address: dict[str, str], words: str
) -> None:
    app = open_app("interventions", **ANSWER | address)
    assert words in complaint(app)
    app.text_input(key="answer").set_value("8").run()
    app.text_input(key="knock_positions").set_value("").run()
    assert figures(app)


@pytest.mark.parametrize("value", ["nan", "1e9", "x"])
def test_a_lambda_of_the_address_that_is_none_is_told_and_left_out(open_app: OpenApp, value: str) -> None:
    app = open_app("interventions", **ANSWER, lambda_2=value)
    assert any("There is no lambda_2" in text for text in texts(app.warning))
    assert is_unchanged(app)


def test_a_block_whose_heads_have_their_own_lambda_gets_one_number_when_it_is_asked_for(
    open_app: OpenApp, tmp_path: Path
) -> None:
    gated = DifferentialConfig(placement=(1,), subtract_at="scan", lambda_form="token_head_gate", normalisation="none")
    own = tiny_model(gated)
    own.save_pretrained(tmp_path / "gated")
    tokens = random_tokens(1, 6)
    where: dict[str, Any] = {"at_root": tmp_path, "model": "gated", "ids": " ".join(map(str, tokens[0].tolist()))}
    app = open_app("interventions", **where, answer="8", wrong="5")
    assert is_unchanged(app)
    assert not [slider for slider in app.slider if slider.key == "lambda_1"]
    app.toggle(key="lambda_1_set").set_value(True).run()
    reading = AnswerReading(tokens=tokens, answers=[8], labels=[8, 5], lenses={"lens": LogitLens.from_model(own)})
    for value in (0.0, 0.75):
        app.slider(key="lambda_1").set_value(value).run()
        record = compare(reading, own, [SetLambda(value=value, blocks=1)])
        assert np.allclose(curve(app, "after"), probability(record.intervened), rtol=1e-4)
        assert not np.allclose(curve(app, "after"), curve(app, "before"), rtol=1e-4)
    app.button(key="reset_changes").click().run()
    assert not app.toggle(key="lambda_1_set").value
    assert is_unchanged(app)


def test_positions_are_numbers_and_ranges() -> None:
    assert parse_positions("3 5-7, 0;5", 8) == {0, 3, 5, 6, 7}
    for typed in ("7-5", "-1", "1-", "٣", "1--2", "9999999"):
        with pytest.raises(ValueError, match="is no position"):
            parse_positions(typed, 8)


def test_no_changes_make_no_interventions_and_plain_models_have_no_lambda() -> None:
    plain = tiny_model(None).cfg
    assert Changes().interventions(tiny_model(DifferentialConfig(placement=(0,))).cfg) == []
    assert Changes(lambda_factor=0.0).interventions(plain) == []


def test_a_needle_of_a_generated_prompt_can_be_knocked_out(open_app: OpenApp) -> None:
    address = {"model": "bundled:diff-mamba2", "source": "needle", "length": "0", "lens": "logit lens"}
    app = open_app("interventions", **address)
    assert len(app.metric) == 4
    clean = app.metric[0].value
    app.multiselect(key="knock_spans").select("needle").run()
    assert len(figures(app)) == 3
    assert app.metric[0].value != clean
    assert any("taken out in blocks 0–" in text for text in texts(app.caption))


def test_a_plain_model_offers_heads_and_tokens(open_app: OpenApp) -> None:
    app = open_app("interventions", model="bundled:mamba2", lens="logit lens")
    assert [tab.label for tab in app.tabs] == ["Heads", "Tokens"]
    app.multiselect(key="heads_off_0").select("0").run()
    assert figures(app)


def test_the_files_hold_both_readings(model: HookedMamba) -> None:
    record = expected(model, ScaleLambda(factor=0.0))
    found = lens_trajectory(model, LogitLens.from_model(model), TOKENS)
    lines = list(csv.DictReader(io.StringIO(readings_csv(record, found.stages))))
    by_stage = [line for line in lines if line["reading"] == "lens.snr_db"]
    assert [float(line["after"]) for line in by_stage] == record.intervened["lens.snr_db"][0].tolist()
    assert [line["stage"] for line in lines if line["reading"] == "snr_db"] == ["output"]
    content = readings_npz(record, {"before": found, "after": found})
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        assert np.array_equal(file["after.snr_db"], record.intervened["snr_db"])
        assert np.array_equal(file["before.trajectory.top_tokens"], found.top_tokens)
        assert json.loads(str(file["changes"]))[0]["kind"] == "ScaleLambda"
