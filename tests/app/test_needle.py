"""Needle page: probability and SNR by block of two models, what the subtraction does, and runs that can be stopped."""

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from streamlit.testing.v1 import AppTest

from app.pages_.needle import request
from app.pages_.needle.files import allocation_curves_csv, attention_npz, curves_csv, trajectories_npz
from app.pages_.needle.request import EXAMPLE, SampleRequest, default_n, parse_stories, run_needle, too_few_to_mark
from app.pages_.session.kinds import needle_told
from app.shell import links, loading, viewport
from app.shell.loading import open_model
from app.shell.needle_pictures import MAX_TICKS, name_stages_shortly
from app.shell.needle_runs import OF_ALLOCATION, NeedleReading
from diffmamba_interp.figures.allocation import allocation_by_block, allocation_curves
from diffmamba_interp.implicit_attention.allocation import CLASSES, PICTURES, Allocation
from diffmamba_interp.needle import compare, formation_stages, summarise
from diffmamba_interp.stages import stage_names, stage_words
from tests.app.conftest import OpenApp, charts, complaint, figures, headline, notes, texts
from tests.app.test_session import session_of

TINY = {"model": "bundled:diff-mamba2", "needle_lens": "logit lens", "needle_length": "0", "needle_n": "2"}


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt at a time."""
    monkeypatch.setattr(request, "STEP_TOKENS", 1)


def found_by(app: AppTest) -> list[NeedleReading]:
    return app.session_state["needle_readings"][1]


def codes(app: AppTest) -> Iterator[dict[str, Any]]:
    """What each program of the page leaves behind when it is run."""
    for element in app.code:
        if element.language == "python":
            made: dict[str, Any] = {}
            exec(compile(element.value, "copied", "exec"), made)
            yield made


def test_both_models_are_drawn_with_bands_and_the_python_gives_the_same_numbers(open_app: OpenApp) -> None:
    app = open_app("needle", **TINY)
    probability, snr, difference, snr_difference, attention = figures(app)
    trajectories, allocations = codes(app)
    assert [t["name"] for t in probability["data"] if t.get("name")] == [
        "diff-mamba2, logit lens", "mamba2, logit lens",
    ]  # fmt: skip
    assert [t["name"] for t in difference["data"] if t.get("name")] == ["diff-mamba2 − mamba2, logit lens"]
    looks = {t["name"]: t["line"]["color"] for t in attention["data"] if t.get("showlegend")}
    assert len({looks[f"diff-mamba2: {name}"] for name in ("written", "minuend", "λ · subtrahend")}) == 3
    assert "In no block a difference counts in what diff-mamba2 and mamba2 read" in headline(app, 1)
    legends = {trace["legend"]: trace["xaxis"] for trace in attention["data"] if trace.get("name")}
    assert [attention["layout"][name]["x"] for name in sorted(legends)] == [
        attention["layout"][axis]["domain"][0] for axis in ("xaxis", "xaxis2", "xaxis3")
    ]
    printed = [*trajectories["figures"].values(), *trajectories["difference_figures"].values(), allocations["figure"]]
    drawn = [probability, snr, difference, snr_difference, attention]
    for figure, again in zip(drawn, printed, strict=True):
        for trace, printed_trace in zip(figure["data"], again.data, strict=True):
            assert trace.get("name") == printed_trace.name
            assert np.allclose(trace["y"], printed_trace.y, rtol=1e-3, atol=1e-5), trace.get("name")


def test_what_is_read_takes_no_second_pass_and_is_what_the_printed_step_gives(open_app: OpenApp) -> None:
    (read, _), _ = open_app("needle", **TINY).session_state["needle_readings"][0]
    asked = SampleRequest(task="qa2", length=0, n=3, seed=1)
    model, passes = loading.model(read.key), []
    with model.hooks([("hook_embed", lambda value, _: passes.append(len(value)))]):
        *_, (share, (reading,)) = run_needle([read], asked)
    assert (share, sum(passes)) == (1, 3)
    again = read.allocation_step().run({"model": model, "samples": asked.samples(read.key)})
    assert_allocations_equal(reading.allocation, again)


def test_prompts_that_are_read_in_pieces_have_a_pass_of_their_own(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "PIECE_TOKENS", 10)
    (read, _), _ = open_app("needle", **TINY).session_state["needle_readings"][0]
    asked = SampleRequest(task="qa2", length=0, n=1, seed=2)
    *_, (_, (reading,)) = run_needle([read], asked)
    again = read.allocation_step().run({"model": loading.model(read.key), "samples": asked.samples(read.key)})
    assert_allocations_equal(reading.allocation, again)


def assert_allocations_equal(one: Allocation | None, other: Allocation) -> None:
    assert one is not None
    for name in OF_ALLOCATION:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), equal_nan=True)


def test_the_scale_and_the_measure_can_be_chosen_without_another_run(open_app: OpenApp) -> None:
    app = open_app("needle", **TINY, needle_attention="False")
    before = app.session_state["needle_readings"]
    app.toggle(key="needle_log").set_value(True).run()
    probability, snr, *_ = figures(app)
    assert probability["layout"]["yaxis"]["type"] == "log"
    assert "dB" in snr["layout"]["yaxis"]["title"]["text"]
    app.selectbox(key="needle_measure").select("label_rank").run()
    rank = found_by(app)[0].trajectory.measure("label_rank")[0].mean(axis=0)
    assert np.allclose(figures(app)[0]["data"][1]["y"], rank)
    assert app.session_state["needle_readings"] is before


def test_when_the_answers_form_stands_in_a_table_that_the_python_makes_too(open_app: OpenApp) -> None:
    app = open_app("needle", **TINY, needle_attention="False", needle_measure="calibrated_bits")
    assert figures(app)[0]["layout"]["yaxis"]["title"]["text"] == "calibrated bits about the answer"
    (table,) = [words for words in texts(app.markdown) if "comes in (median)" in words]
    (made,) = codes(app)
    assert table.replace("−", "-").splitlines() == [line.replace("−", "-") for line in made["table"]]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in made["table"][2:]]
    models = ("diff-mamba2", "mamba2", "diff-mamba2 − mamba2")
    assert [(row[4], row[5]) for row in rows] == [(by, model) for by in ("7 dB", "on top") for model in models]
    assert {(row[0], row[1]) for row in rows} == {("qa1", "0")}
    stages = [formation_stages(found.trajectory)[0] for found in found_by(app)]
    for row, own in zip(rows, stages, strict=False):
        assert row[6].startswith(stage_words(int(np.ceil(np.median(own))), 13))
    assert float(rows[2][6].split(" ")[0]) == pytest.approx(np.median(stages[0] - stages[1]), abs=0.05)
    # The first place is counted nowhere: the words, the axis and the table call the same one the same.
    assert not any(re.search(r"stage \d", text) for text in [*texts(app.markdown), *notes(app)])


def test_the_words_and_the_table_give_one_interval_for_one_quantity(open_app: OpenApp) -> None:
    app = open_app("needle", **TINY | {"needle_n": "10"}, needle_attention="False")
    told = headline(app)
    (table,) = [words for words in texts(app.markdown) if "comes in (median)" in words]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    (difference,) = [row for row in rows if row[4:6] == ["7 dB", "diff-mamba2 − mamba2"]]
    assert f"{difference[6]} (median)" in told
    assert "-" not in difference[6]


def test_the_default_number_of_prompts_lets_a_difference_be_marked_and_fewer_are_told(open_app: OpenApp) -> None:
    app = open_app("needle", **TINY, needle_attention="False")
    assert texts(app.info) == [
        "2 prompts are too few for a mark, whatever they show: corrected for 13 stages, p cannot fall below 1, and a "
        "mark needs 0.05. From 10 prompts on it can."
    ]
    differences = compare(*(reading.trajectory for reading in found_by(app)), measures=("snr_db",), by=())
    assert too_few_to_mark(differences, 9)
    assert too_few_to_mark(differences, 10) == ""
    models = [open_model(name, "float32", "cpu") for name in ("bundled:mamba2", "bundled:diff-mamba2")]
    assert default_n(models) == 10


def test_probes_are_fitted_when_asked_for_and_the_python_gives_the_same_numbers(open_app: OpenApp) -> None:
    app = open_app("needle", **TINY | {"needle_n": "12", "needle_attention": "False", "beside": "none"})
    assert len(figures(app)) == 2
    app.button(key="run_probes").click().run()
    probes = figures(app)[-1]
    (name,) = [found.trajectory.model for found in found_by(app)]
    assert [t["name"] for t in probes["data"] if t.get("name")] == [
        "diff-mamba2, probe", "diff-mamba2, shuffled answers",
    ]  # fmt: skip
    *_, made = codes(app)
    assert made["probes"].model == name
    printed = [trace for trace in made["probe_figure"].data if trace.name]
    drawn = [trace for trace in probes["data"] if trace.get("name")]
    for trace, again in zip(drawn, printed, strict=True):
        assert np.allclose(trace["y"], again.y)
    assert drawn[0]["y"] == pytest.approx(made["probes"].is_right.mean(axis=0))


def test_probes_of_too_few_prompts_are_refused_and_the_rest_of_the_page_stays(open_app: OpenApp) -> None:
    app = open_app("needle", **TINY | {"needle_attention": "False", "beside": "none"})
    app.button(key="run_probes").click().run()
    assert "samples hold 2 stories" in complaint(app)
    assert len(charts(app)) == 2


def test_pasted_samples_are_read_and_their_python_gives_the_same_numbers(open_app: OpenApp) -> None:
    app = open_app("needle", **{**TINY, "needle_source": "pasted", "beside": "none"}, needle_attention="False")
    probability, _ = figures(app)
    (made,) = codes(app)
    assert [sample.answer for sample in made["samples"]] == ["hallway", "office"]
    assert np.allclose(probability["data"][1]["y"], made["figures"]["probability"].data[1].y, rtol=1e-3)


def test_on_a_telephone_the_table_is_a_list(open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> None:
    table = next(text for text in texts(open_app("needle", **TINY).markdown) if text.startswith("| task"))
    monkeypatch.setattr(viewport, "content_width", lambda: 358)
    app = open_app("needle", **TINY)
    said = next(text for text in texts(app.markdown) if "criterion 7 dB" in text)
    assert "|" not in said
    assert said.count("- **diff-mamba2**: comes in (median) ") == 2
    assert said.count("; never forms ") == said.count("; SNR there, dB ") == len(table.splitlines()) - 2


def test_of_pasted_prompts_nothing_is_told_that_was_measured_of_a_task(open_app: OpenApp) -> None:
    query = {"model": TINY["model"], "needle_length": "0", "needle_n": "2", "needle_attention": "False"}
    assert "calibrated" in headline(open_app("needle", **query))
    pasted = open_app("needle", **query, needle_source="pasted")
    (kept,) = pasted.session_state["kept_records"].values()
    for told in (headline(pasted), str(needle_told(kept))):
        assert "stands out by" in told
        assert "calibrated" not in told


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"needle": "Nobody was there."}, "does not occur"),
        ({"distractors": ["hallway"]}, "among the distractors"),
        ({"distractors": []}, "at least one"),
        ({"answer": 3}, "must be a text"),
        ({"extra": "x"}, "and no other"),
    ],
)
def test_a_pasted_sample_that_is_none_is_refused_by_name(changes: dict[str, object], words: str) -> None:
    samples = json.loads(EXAMPLE)
    with pytest.raises(ValueError, match=f"sample 1.*{words}"):
        parse_stories(json.dumps([samples[0], samples[0] | changes]))


@pytest.mark.parametrize("pasted", ["", "{}", "[]", "[1]", "[" * 100_000, "x" * 500_000, f"{EXAMPLE[:-1]},1]"])
def test_what_is_no_list_of_samples_is_an_error_box_and_the_app_lives_on(open_app: OpenApp, pasted: str) -> None:
    app = open_app("needle", **TINY, needle_source="pasted", needle_attention="False", beside="none")
    app.text_area(key="needle_pasted").set_value(pasted).run()
    assert "Reading the needle failed" in complaint(app)
    app.text_area(key="needle_pasted").set_value(EXAMPLE).run()
    assert len(figures(app)) == 2


def test_a_sample_given_twice_is_refused() -> None:
    samples = json.loads(EXAMPLE)
    with pytest.raises(ValueError, match="given twice"):
        parse_stories(json.dumps([samples[0], samples[0]]))


def test_a_run_that_was_stopped_shows_what_was_read_and_goes_on(open_app: OpenApp, small_steps: None) -> None:
    app = open_app("needle", **TINY, needle_attention="False")
    what, _, share = app.session_state["needle_readings"]
    assert share == 1
    first = next(found for _, found in run_needle(*what) if found)
    app.session_state["needle_readings"] = (what, first, 0.5)
    del app.session_state["needle_asked"]
    app.run()
    assert any("Stopped after 1 prompt, 50%" in text for text in texts(app.warning))
    assert len(figures(app)) == 4
    (made,) = codes(app)
    assert np.allclose(made["figures"]["probability"].data[1].y, figures(app)[0]["data"][1]["y"], rtol=1e-3)
    app.button(key="run_needle").click().run()
    assert not app.warning
    assert len(found_by(app)[0].trajectory.samples) == 2


def test_a_change_of_what_is_read_asks_for_run_and_the_way_back_does_not(open_app: OpenApp) -> None:
    app = open_app("needle", **TINY, needle_attention="False")
    app.number_input(key="needle_n").set_value(3).run()
    assert not charts(app)
    (told,) = texts(app.info)
    assert told.startswith("What stood here was of other settings, and is gone until they are back. Run reads 3")
    app.run()
    assert not charts(app)
    app.number_input(key="needle_n").set_value(2).run()
    assert len(figures(app)) == 4
    app.number_input(key="needle_n").set_value(3).run()
    app.button(key="run_needle").click().run()
    assert len(found_by(app)[0].trajectory.samples) == 3


def test_a_link_says_what_was_run_and_opens_as_that_and_undo_passes_it_by(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "forward_seconds", lambda *_: 20.0)
    app = open_app("needle", **TINY, needle_attention="False")
    assert links.RAN not in app.session_state["view_address"].written
    app.button(key="run_needle").click().run()
    said = {"model": TINY["model"]} | app.session_state["view_address"].written
    assert said[links.RAN] == app.session_state["view_values"][links.RAN]
    assert app.button(key="undo").disabled
    assert len(figures(open_app("needle", **said))) == 4
    # Of other prompts nobody said that they were run, though a link says so of these.
    assert not charts(open_app("needle", **said | {"needle_n": "3"}))
    app.number_input(key="needle_n").set_value(3).run()
    assert links.RAN not in app.session_state["view_address"].written
    app.button(key="undo").click().run()
    assert len(figures(app)) == 4
    assert app.button(key="undo").disabled
    assert app.session_state["view_address"].written[links.RAN] == said[links.RAN]
    monkeypatch.setattr(request, "forward_seconds", lambda *_: 100.0)
    (told,) = texts(open_app("needle", **said).info)
    assert told.startswith("This was read where the link or session was made; here it takes more than 90 s")


def test_a_session_that_holds_a_run_opens_with_it(open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "forward_seconds", lambda *_: 20.0)
    app = open_app("needle", **TINY, needle_attention="False")
    app.button(key="run_needle").click().run()
    content = session_of(app)
    opened = open_app("session")
    opened.file_uploader(key="session_upload").upload("session.zip", content, "application/zip").run()
    next(button for button in opened.button if button.label.endswith("go to Needle")).click().run()
    assert len(figures(opened)) == 4


def test_a_long_run_waits_for_a_press_and_one_that_is_far_too_long_is_refused(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "forward_seconds", lambda *_: 20.0)
    app = open_app("needle", **TINY)
    (told,) = texts(app.info)
    assert told.startswith("Nothing is read yet. Run reads 2 prompts block by block, in diff-mamba2 and mamba2")
    assert not charts(app)
    # Two models, 20 s each, and 0.2 of that for the attention.
    assert any("about 49 s here (lens 40 s, what is read 8 s" in text for text in texts(app.caption))
    # A question of the start page is a press: what it asks is read at once, and the choices stand back.
    asked = open_app("needle", **TINY, asked_needle="yes")
    assert len(figures(asked)) == 5
    assert [box.label for box in asked.expander][0] == "Prompts, lens and what is shown"
    assert headline(asked)
    app.button(key="run_needle").click().run()
    assert len(figures(app)) == 5
    monkeypatch.setattr(request, "forward_seconds", lambda *_: 1e5)
    app.run()
    assert "Choose fewer or shorter prompts" in complaint(app)


def test_a_run_that_needs_more_memory_than_there_is_is_refused_with_what_to_reduce(open_app: OpenApp) -> None:
    words = complaint(open_app("needle", **TINY | {"needle_length": "4096"}, memory_gib=0.1))
    assert "more than the budget of 0.10 GiB" in words
    assert "Choose shorter prompts, one model, or bfloat16" in words


def test_the_stages_of_a_deep_model_are_named_where_there_is_room() -> None:
    for n_layers in (3, 12, 15, 48, 64):
        stages, figure = stage_names(n_layers), go.Figure()
        name_stages_shortly(figure, stages)
        named, short = figure.layout.xaxis.tickvals, figure.layout.xaxis.ticktext
        assert (short[0], short[-1]) == ("embed", "output")
        assert len(named) <= MAX_TICKS + 1
        assert set(named) <= set(stages)
        assert all(f"after block {text}" == stage for stage, text in zip(named[1:-1], short[1:-1], strict=True))


def test_a_model_without_words_cannot_be_asked(open_app: OpenApp) -> None:
    assert "tokenizer" in complaint(open_app("needle"))


def test_a_bundled_lens_of_other_weights_is_replaced_by_the_logit_lens_with_a_note(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.shell import choices

    monkeypatch.setattr(choices, "fits", lambda *_: False)
    app = open_app("needle", **TINY | {"needle_lens": "bundled tuned lens"}, needle_attention="False")
    assert any("made for other weights" in text for text in texts(app.caption))
    assert found_by(app)[0].trajectory.lenses == ("logit",)


def test_the_files_hold_every_number(open_app: OpenApp) -> None:
    app = open_app("needle", **TINY)
    found = found_by(app)
    curves = summarise([one.trajectory for one in found], measures=("probability",), statistics=("mean",), by=())
    lines = list(csv.DictReader(io.StringIO(curves_csv(curves))))
    for column in ("value", "low", "high"):
        written = [float(line[column]) for line in lines if line["model"] == "bundled:mamba2"]
        assert written == list(getattr(curves[1], column))
    (paired,) = compare(*(reading.trajectory for reading in found), measures=("snr_db",), by=())[:1]
    written = csv.DictReader(io.StringIO(curves_csv([paired])))
    assert [float(line["p_corrected"]) for line in written] == list(paired.p_holm)
    with np.load(io.BytesIO(trajectories_npz(found)), allow_pickle=False) as file:
        assert np.array_equal(file["1.log_probs"], found[1].trajectory.log_probs)
        assert json.loads(str(file["about"]))["models"] == ["bundled:diff-mamba2", "bundled:mamba2"]
    with np.load(io.BytesIO(attention_npz(found)), allow_pickle=False) as file:
        assert file["0.cancelled.needle"].shape == (2, 12)
        assert np.isnan(file["1.cancelled.needle"]).all()
    (curve, *_) = allocation_curves({"a": found[0].allocation})
    first, *_ = csv.DictReader(io.StringIO(allocation_curves_csv([curve])))
    assert {name: float(first[name]) for name in ("block", "value", "low", "high")} == {
        "block": curve.blocks[0], "value": curve.value[0], "low": curve.low[0], "high": curve.high[0],
    }  # fmt: skip


def test_over_allocation_and_cancelled_shares_are_those_of_the_masses(open_app: OpenApp) -> None:
    allocation = found_by(open_app("needle", **TINY, beside="none"))[0].allocation
    mass = dict(zip(PICTURES, allocation.mass[:, 0].double().numpy().transpose(2, 0, 1, 3), strict=True))
    got = allocation_by_block(allocation)
    noise = [CLASSES.index("distractors"), CLASSES.index("filler")]
    assert np.allclose(got["over_allocation"]["net"], mass["net"][..., noise].sum(-1) / mass["net"].sum(-1))
    needle = CLASSES.index("needle")
    read = mass["minuend"][..., needle] + mass["lambda_subtrahend"][..., needle]
    kept = (1 - got["cancelled"]["needle"]) * read
    assert np.allclose(kept, mass["net"][..., needle])
