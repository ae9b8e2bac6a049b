"""Before a long run the page says what it will take; a run that is far too long is refused."""

from dataclasses import replace

import pytest

from app.pages_.attention.request import MAX_NORM_POSITIONS, AttentionRequest
from app.shell import estimates, loading
from tests.app.conftest import IDS, OpenApp, charts, complaint, drawn


@pytest.mark.parametrize("page", ["attention", "lens"])
def test_a_long_run_waits_for_a_press_on_the_button(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.setattr(estimates, "LONG_S", 0.0)
    app = open_app(page, ids=IDS)
    assert "about" in app.info[0].value
    assert len(charts(app)) == 0
    app.button(key="run_long").click().run()
    assert drawn(app)
    app.run()
    assert drawn(app)
    app.text_area(key="ids").set_value("1 2 3").run()
    assert len(charts(app)) == 0


def test_a_run_that_is_far_too_long_is_refused_with_what_to_reduce(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "TOO_LONG_S", 0.0)
    words = complaint(open_app("attention", ids=IDS))
    assert "more than the limit" in words
    assert "Shorten the prompt" in words


def test_the_estimate_grows_with_the_prompt_and_with_the_read_outs(open_app: OpenApp) -> None:
    open_app()
    key = loading.model_key("models/all", "float32")
    short, long, read = (estimates.forward_seconds(key, n, r) for n, r in ((10, 0), (1000, 0), (1000, 500)))
    assert 0 < short < long < read


def test_contribution_norms_cost_for_each_row_and_the_other_kinds_one_pass(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_app()
    key = loading.model_key("models/all", "float32")
    monkeypatch.setattr(estimates, "_seconds", lambda run: 3.0)
    norms = AttentionRequest(block=1, kind="contribution_norm", window=(0, 99))
    row = 3.0 / estimates.MEASURED_SOURCES / estimates.block_seconds(key)
    assert norms.passes(key, 100) == pytest.approx(1 + 100 * row)
    assert replace(norms, window=(90, 99)).passes(key, 100) == pytest.approx(1 + 10 * row)
    assert norms.passes(key, 5000) == norms.passes(key, 100)
    assert replace(norms, window=(0, 4999)).passes(key, 5000) == pytest.approx(1 + MAX_NORM_POSITIONS * row)
    assert replace(norms, kind="hidden").passes(key, 100) == 1


def test_what_norms_cost_is_measured_by_making_some_in_a_block_of_the_models_kind(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_app()
    made = []
    monkeypatch.setattr(estimates, "_seconds", lambda run: made.append(run()) or 1.0)
    assert estimates.norm_seconds(loading.model_key("models/all", "float32"), 0) == 1 / estimates.MEASURED_SOURCES
    assert made[0].shape == (1, 1, estimates.MEASURED_SOURCES)
