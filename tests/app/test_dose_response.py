"""Dose and response on the interventions page: every curve passes through what the other widgets give."""

import csv
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app.pages_.interventions import request
from app.pages_.interventions.pictures import doses_csv, doses_npz, marked, zoomed
from app.pages_.interventions.request import FACTORS, SNRS_DB, DoseRequest, swept_record
from app.shell import estimates
from app.shell.readings import at_output
from diffmamba_interp import HookedMamba
from diffmamba_interp.figures.interventions import dose_response_figure
from diffmamba_interp.interventions import (
    AblateHead,
    AddNoise,
    AnswerReading,
    InterventionRecord,
    ScaleLambda,
    SetLambda,
    SwapBranches,
    SweepRecord,
    compare,
    sweep,
)
from diffmamba_interp.interventions.compare import dosed
from diffmamba_interp.interventions.records import PROBABILITY, with_probability
from tests.app.conftest import MODEL, OpenApp, figures, links, texts
from tests.app.test_interventions import ANSWER, TOKENS

READING = AnswerReading(tokens=TOKENS, answers=[8], labels=[8, 5, 60])


@pytest.fixture(scope="module")
def model(root) -> HookedMamba:
    return HookedMamba.from_pretrained(root / MODEL).eval()


def answer_under(model: HookedMamba, *changes: Any) -> tuple[float, float]:
    """Probability and SNR at the output."""
    found = compare(READING, model, list(changes)).intervened
    return float(np.exp(found["answer_log_probability"][0])), float(found["snr_db"][0])


def curves(app: AppTest, place: int) -> list[dict[str, Any]]:
    """The lines of the probability (0) or SNR (1) against the dose."""
    return [trace for trace in figures(app)[place]["data"] if trace["mode"] == "lines+markers"]


def rings(app: AppTest, place: int = 0) -> list[tuple[float, float]]:
    return [(t["x"][0], t["y"][0]) for t in figures(app)[place]["data"] if t["mode"] == "markers"]


def sweep_code(app: AppTest) -> dict[str, Any]:
    """What the first program of the page leaves behind when it is run."""
    code, _ = [element.value for element in app.code if element.language == "python"]
    made: dict[str, Any] = {}
    exec(compile(code, "copied", "exec"), made)
    return made


def test_nothing_is_swept_until_it_is_asked_for(open_app: OpenApp) -> None:
    assert len(figures(open_app("interventions", **ANSWER))) == 3


def test_lambda_is_swept_and_the_present_setting_is_on_the_curve(open_app: OpenApp, model: HookedMamba) -> None:
    app = open_app("interventions", **ANSWER, swept="lambda", lambda_factor="0.6", heads_off_1="3")
    (probability,), (snr,) = curves(app, 0), curves(app, 1)
    assert list(probability["x"]) == sorted({*FACTORS, 0.6})
    wanted = [answer_under(model, AblateHead(block=1, heads=3), ScaleLambda(factor=f)) for f in probability["x"]]
    assert np.allclose(probability["y"], [p for p, _ in wanted], rtol=1e-4)
    assert np.allclose(snr["y"], [s for _, s in wanted], atol=1e-4)
    assert rings(app) == [(0.6, probability["y"][list(probability["x"]).index(0.6)])]
    (line,) = [shape["y0"] for shape in figures(app)[0]["layout"]["shapes"]]
    assert line == pytest.approx(rings(app)[0][1], rel=1e-5)


def test_blocks_are_swept_each_on_its_own_with_the_others_as_they_are_set(
    open_app: OpenApp, model: HookedMamba
) -> None:
    app = open_app("interventions", **ANSWER, swept="lambda", swept_apart="True", lambda_0="0.5", lambda_factor="0.5")
    first, second = curves(app, 0)
    at = [*first["x"]].index(2.0)
    others = {"first": ScaleLambda(factor=0.5, blocks=2), "second": SetLambda(value=0.5, blocks=0)}
    assert first["y"][at] == pytest.approx(
        answer_under(model, others["first"], ScaleLambda(factor=2.0, blocks=0))[0], rel=1e-4
    )
    assert second["y"][at] == pytest.approx(
        answer_under(model, others["second"], ScaleLambda(factor=2.0, blocks=2))[0], rel=1e-4
    )
    now = answer_under(model, ScaleLambda(factor=0.5, blocks=2), SetLambda(value=0.5, blocks=0))[0]
    assert [y for _, y in rings(app)] == pytest.approx([now, now], rel=1e-4)


def test_exchanged_branches_see_the_swept_lambda(open_app: OpenApp, model: HookedMamba) -> None:
    app = open_app("interventions", **ANSWER, swept="lambda", swapped="0")
    (drawn,) = curves(app, 0)
    wanted = [answer_under(model, ScaleLambda(factor=factor), SwapBranches(blocks=0))[0] for factor in drawn["x"]]
    assert np.allclose(drawn["y"], wanted, rtol=1e-4)


def test_noise_is_added_at_the_asked_ratio_and_seed(open_app: OpenApp, model: HookedMamba) -> None:
    app = open_app("interventions", **ANSWER, swept="noise", swept_blocks="1", noise_seed="3")
    (drawn,) = curves(app, 0)
    wanted = [answer_under(model, AddNoise(snr_db=dose, blocks=1, seed=3))[0] for dose in SNRS_DB]
    assert np.allclose(drawn["y"], wanted, rtol=1e-3)
    app.number_input(key="noise_seed").set_value(4).run()
    assert not np.allclose(curves(app, 0)[0]["y"], wanted, rtol=1e-3)


@pytest.mark.parametrize(
    "address",
    [
        {
            "swept": "lambda",
            "swept_apart": "True",
            "lambda_factor": "0.3",
            "knock_positions": "1",
            "change_log": "True",
        },
        {"swept": "noise", "noise_seed": "2", "swapped": "2"},
    ],
)
def test_copy_as_python_gives_the_same_curves(open_app: OpenApp, address: dict[str, str]) -> None:
    app = open_app("interventions", **ANSWER, **address)
    made = sweep_code(app)
    for place, name in enumerate(("answer_probability", "snr_db")):
        again = [trace for trace in made[f"{name}_figure"].data if trace.mode == "lines+markers"]
        for line, other in zip(curves(app, place), again, strict=True):
            assert np.allclose(line["y"], other.y, rtol=1e-3, atol=1e-6)


def test_a_plain_model_has_noise_to_sweep_and_no_lambda(open_app: OpenApp) -> None:
    app = open_app("interventions", model="bundled:mamba2", lens="logit lens", swept="noise", swept_blocks="0 3")
    assert app.selectbox(key="swept").options == ["nothing", "noise in the residual stream"]
    assert len(curves(app, 0)) == 1


def test_a_long_sweep_waits_for_a_press_of_its_own_button(open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {4: 0.0}
    monkeypatch.setattr(estimates, "forward_seconds", lambda key, n_tokens, *_: seconds.get(n_tokens // 11, 100.0))
    app = open_app("interventions", **ANSWER, swept="lambda")
    assert len(figures(app)) == 3
    assert not any("is gone" in text for text in texts(app.info))
    app.button(key="run_sweep").click().run()
    assert len(figures(app)) == 5
    app.slider(key="lambda_factor").set_value(0.5).run()
    assert rings(app)[0][0] == 1
    assert texts(app.info) == ["Swept before the last change, with nothing else changed."]
    app.button(key="sweep_again").click().run()
    assert rings(app)[0][0] == 0.5
    assert not app.info
    app.selectbox(key="swept").select("noise").run()
    assert any("about 100 s" in text and "of other settings and is gone" in text for text in texts(app.info))
    monkeypatch.setattr(estimates, "forward_seconds", lambda key, n_tokens, *_: seconds.get(n_tokens // 11, 80.0))
    asked = open_app("interventions", **ANSWER, swept="lambda", asked_interventions="yes")
    assert len(figures(asked)) == 5


def test_a_sweep_runs_again_for_its_own_inputs_or_when_asked_and_says_what_else_is_changed(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[object] = []
    monkeypatch.setattr(request, "swept_record", lambda *given: runs.append(given) or swept_record(*given))
    app = open_app("interventions", **ANSWER, swept="lambda", swept_apart="True", heads_off_1="3")
    (told,) = [
        e.proto.body for e in app.get("html") if "λ 0 in it alone" in e.proto.body or "in no block" in e.proto.body
    ]
    assert "With <abbr" in told
    assert "3 off in" in told
    assert len([link for link in links(app) if link.label.startswith("Retrieval")]) == 1
    app.slider(key="lambda_factor").set_value(0.5).run()
    app.toggle(key="change_log").set_value(True).run()
    assert len(runs) == 1
    app.button(key="sweep_again").click().run()
    app.text_input(key="answer").set_value("60").run()
    assert len(runs) == 3
    assert not [button for button in app.button if button.key == "sweep_again"]


def test_an_axis_that_is_cut_is_told(model: HookedMamba) -> None:
    swept = sweep(READING, model, dosed(ScaleLambda, "factor"), doses=(0.0, 1.0), groups=((0,), (2,)))
    record, asked = with_probability(swept), DoseRequest(swept="lambda", groups=((0,),), present=(None,))
    for values, told in (([0.95, 0.97], "shows 0.949 to 0.971"), ([0.0, 1.0], "")):
        known = replace(record, intervened={PROBABILITY: np.array([[[v] for v in values]] * 2)})
        figure = marked(dose_response_figure(record, PROBABILITY), known, asked, PROBABILITY, values[0])
        assert told in zoomed(figure)
        assert bool(told) == bool(zoomed(figure))
        assert figure.layout.legend.tracegroupgap == 0


def test_many_curves_have_room_and_no_markers(model: HookedMamba) -> None:
    record: SweepRecord = sweep(READING, model, dosed(ScaleLambda, "factor"), doses=(0.0, 1.0), groups=((0,), (2,)))
    many = replace(
        record, groups=tuple((block,) for block in range(12)),
        intervened={name: np.concatenate([values] * 6) for name, values in record.intervened.items()},
    )  # fmt: skip
    asked = DoseRequest(swept="lambda", groups=((0,),), present=(None,))
    few, all_ = (marked(dose_response_figure(of, "snr_db"), of, asked, "snr_db", 1.0) for of in (record, many))
    assert {"lines+markers"} == {trace.mode for trace in few.data if trace.name and trace.mode}
    assert "lines+markers" not in {trace.mode for trace in all_.data}
    assert few.layout.height == 320 < all_.layout.height


def test_a_change_too_small_to_matter_is_not_coloured() -> None:
    clean = {"answer_probability": np.array([0.9999]), "answer_logit": np.array([27.42])}
    after = {"answer_probability": np.array([0.9995]), "answer_logit": np.array([20.0])}
    numbers = at_output(InterventionRecord(clean=clean, intervened=after, interventions=({"kind": "SwapBranches"},)))
    assert [number.is_small for number in numbers] == [True, False]


def test_the_files_hold_every_dose(model: HookedMamba) -> None:
    request = DoseRequest(swept="lambda", groups=((0,), (2,)), present=(1.0, None))
    record: SweepRecord = sweep(
        READING,
        model,
        dosed(ScaleLambda, "factor"),
        doses=request.doses,
        groups=request.groups,
        dose="factor",
    )
    lines = list(csv.DictReader(io.StringIO(doses_csv(record))))
    of_snr = [float(line["value"]) for line in lines if line["reading"] == "snr_db" and line["blocks"] == "2"]
    assert of_snr == record.intervened["snr_db"][1, :, 0].tolist()
    with np.load(io.BytesIO(doses_npz(record)), allow_pickle=False) as file:
        assert np.array_equal(file["snr_db"], record.intervened["snr_db"][..., 0])
        assert file["doses"].tolist() == list(FACTORS)
        at_one = [*file["doses"]].index(1.0)
        assert np.allclose(file["snr_db"][:, at_one], file["unchanged.snr_db"], atol=1e-5)
