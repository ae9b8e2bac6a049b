"""The needle and the interventions in a real browser: run, stop, change, and what is drawn then."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from tests.app.browser import NEEDS_CHROMIUM, Watched, open_choice, opened, save_session
from tests.app.conftest import IDS, MODEL

pytestmark = NEEDS_CHROMIUM

BUNDLED = "model=bundled:diff-mamba2"
CURVES = """index => {
    const plot = document.querySelectorAll('.js-plotly-plot')[index];
    return plot._fullData.filter(trace => trace.mode === 'lines+markers').map(trace => Array.from(trace.y));
}"""
PLOTS = ".js-plotly-plot .scatterlayer"


def curves(watched: Watched, index: int = 0) -> list[list[float]]:
    """The lines of a drawn figure, without the bands."""
    return watched.page.evaluate(CURVES, index)


def wait_for_plots(watched: Watched, n: int) -> None:
    watched.page.wait_for_function(f"document.querySelectorAll('{PLOTS}').length >= {n}", timeout=90_000)


def test_the_needle_is_read_by_both_models_and_drawn_with_bands(browser, address: str) -> None:
    query = f"{BUNDLED}&needle_lens=logit lens&needle_length=0&needle_n=3"
    with opened(browser, f"{address}/needle?{query}") as watched:
        wait_for_plots(watched, 5)
        watched.page.get_by_text("What the last position reads").wait_for()
        first, second = curves(watched)
        assert len(first) == len(second) == 13
        assert all(0 <= value <= 1 for value in first + second)
        assert len(curves(watched, 1)) == 2
        # Three pictures twice, the plain model twice, and the classes but the filler, which these prompts lack.
        assert len(curves(watched, 4)) == 4 + 3 + 4
        watched.page.get_by_text("Logarithmic axis").click()
        watched.page.wait_for_function("document.querySelector('.js-plotly-plot')._fullLayout.yaxis.type === 'log'")
        watched.page.wait_for_url(re.compile("needle_log=True"))
        watched.require_clean()


def test_a_needle_run_can_be_cancelled_and_goes_on_later(browser, address: str) -> None:
    query = f"{BUNDLED}&beside=none&needle_lens=logit lens&needle_length=1024&needle_n=12&needle_attention=False"
    with opened(browser, f"{address}/needle?{query}") as watched:
        run = watched.page.get_by_role("button", name="Run", exact=True)
        cancel = watched.page.get_by_role("button", name="Cancel")
        run.wait_for()
        watched.page.get_by_text("tokens for each of").wait_for()
        if not cancel.is_visible():
            run.click()
        watched.page.get_by_text(re.compile(r"^(8|17|25|33)% of the prompts")).wait_for(timeout=60_000)
        cancel.click()
        watched.page.get_by_text(re.compile("Stopped after")).wait_for()
        wait_for_plots(watched, 2)
        assert not cancel.is_visible()
        run.click()
        watched.page.get_by_text(re.compile("12 prompts; bands")).wait_for(timeout=90_000)
        watched.require_clean()


def test_a_long_needle_run_of_one_user_does_not_freeze_another_and_can_be_cancelled(browser, address: str) -> None:
    run = f"{BUNDLED}&beside=none&needle_lens=logit lens&needle_length=1024&needle_n=100&needle_attention=False"
    with (
        opened(browser, f"{address}/needle?{run}") as watched,
        opened(browser, f"{address}/interventions?{BUNDLED}&lens=logit lens") as other,
    ):
        wait_for_plots(other, 2)
        watched.page.get_by_role("button", name="Run", exact=True).click()
        cancel = watched.page.get_by_role("button", name="Cancel")
        watched.page.get_by_text(re.compile("^[1-9][0-9]?% of the prompts")).wait_for(timeout=60_000)
        before, _ = curves(other)
        other.page.get_by_role("slider", name="λ of all differential blocks, times").press("Home")
        other.page.get_by_text("ScaleLambda: factor 0").wait_for()
        other.page.wait_for_function(f"before => ({CURVES})(0)[1].at(-1) !== before", arg=before[-1])
        other.page.get_by_role("link", name="Lens").click()
        other.figure()
        assert cancel.is_visible()
        cancel.click()
        watched.page.get_by_text(re.compile("Stopped after [0-9]+ prompts")).wait_for()
        cancel.wait_for(state="hidden")
        watched.require_clean()
        other.require_clean()


def test_a_change_of_lambda_moves_the_answer_at_once(browser, address: str) -> None:
    with opened(browser, f"{address}/interventions?model={MODEL}&ids={IDS}&answer=8&wrong=5;60") as watched:
        wait_for_plots(watched, 2)
        before, after = curves(watched)
        assert before == after
        slider = watched.page.get_by_role("slider", name="λ of all differential blocks, times")
        slider.press("Home")
        watched.page.get_by_text("ScaleLambda: factor 0").wait_for()
        watched.page.wait_for_function(f"before => ({CURVES})(0)[1].at(-1) !== before", arg=before[-1])
        assert curves(watched)[0] == before
        watched.page.wait_for_url(re.compile("lambda_factor=0"))
        watched.page.get_by_role("tab", name="Tokens").click()
        watched.page.get_by_role("textbox", name="And the positions").fill("3 5-6")
        watched.page.get_by_role("textbox", name="And the positions").press("Enter")
        watched.page.get_by_text("KnockOut: positions 3, 5, 6").wait_for()
        watched.page.get_by_role("button", name="Change nothing").click()
        watched.page.get_by_text("nothing is changed").wait_for()
        watched.require_clean()


def test_a_sweep_of_lambda_is_drawn_with_the_present_setting_on_its_curve(browser, address: str) -> None:
    with opened(browser, f"{address}/interventions?{BUNDLED}&lens=logit lens&lambda_factor=0.6") as watched:
        wait_for_plots(watched, 2)
        open_choice(watched, "Swept", "λ, times 0 to 2").click()
        watched.page.get_by_text("ring: where λ stands there").wait_for()
        wait_for_plots(watched, 4)
        n_plots = watched.page.locator(".js-plotly-plot").count()
        (probability,), (_, after) = curves(watched, n_plots - 2), curves(watched)
        # Nine factors, and the present one between 0.5 and 0.75.
        assert len(probability) == 10
        assert abs(probability[3] - after[-1]) < 1e-5
        watched.page.wait_for_url(re.compile("swept=lambda"))
        watched.require_clean()


def test_a_needle_run_goes_out_in_a_session_file_and_is_drawn_again(browser, address: str, tmp_path: Path) -> None:
    query = f"{BUNDLED}&needle_lens=logit lens&needle_length=0&needle_n=2&needle_attention=False"
    with opened(browser, f"{address}/needle?{query}") as watched:
        wait_for_plots(watched, 4)
        before = curves(watched)
        save_session(watched, tmp_path / "session.zip")
    with opened(browser, f"{address}/session") as watched:
        watched.page.locator("input[type=file]").set_input_files(tmp_path / "session.zip")
        wait_for_plots(watched, 4)
        assert curves(watched) == before
        watched.require_clean()
