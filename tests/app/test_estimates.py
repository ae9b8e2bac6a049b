"""Before a long run the page says what it will take; a run that is far too long is refused."""

from dataclasses import replace

import pytest

from app.pages_.attention.request import MAX_NORM_POSITIONS, AttentionRequest
from app.shell import estimates
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
    from app.shell import loading

    open_app()
    key = loading.model_key("models/all", "float32")
    short, long, read = (estimates.forward_seconds(key, n, r) for n, r in ((10, 0), (1000, 0), (1000, 500)))
    assert 0 < short < long < read


def test_contribution_norms_take_half_a_block_for_each_row_and_the_other_kinds_one_pass() -> None:
    norms = AttentionRequest(block=3, kind="contribution_norm", window=(0, 99))
    assert norms.passes(100, 12) == 1 + 100 * 0.5 / 12
    assert replace(norms, window=(90, 99)).passes(100, 12) == 1 + 10 * 0.5 / 12
    assert norms.passes(5000, 12) == norms.passes(100, 12)
    assert replace(norms, window=(0, 4999)).passes(5000, 12) == 1 + MAX_NORM_POSITIONS * 0.5 / 12
    assert replace(norms, kind="hidden").passes(100, 12) == 1
