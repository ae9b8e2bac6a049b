"""The needle and the interventions in a real browser: run, stop, change, and what is drawn then."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from playwright.sync_api import Locator, expect

from tests.app.browser import NEEDS_CHROMIUM, Watched, choose, opened, save_session, served
from tests.app.conftest import IDS, MODEL

pytestmark = NEEDS_CHROMIUM

BUNDLED = "model=bundled:diff-mamba2"
LENS = "needle_lens=logit lens"
LONG_RUN = f"{BUNDLED}&beside=none&{LENS}&needle_length=1024&needle_n=100&needle_attention=False"
# Of 100 prompts as many are read as per cent.
SHARE_ABOVE = """n => document.querySelector('.stMain')?.innerText.match(/(\\d+)% of the prompts/)?.[1] > n"""
STOPPED_AFTER = """before => {
    const state = document.querySelector('[data-testid=stApp]').dataset.testScriptState;
    const n = Number(document.querySelector('.stMain').innerText.match(/Stopped after (\\d+) prompts?/)?.[1]);
    return state === 'notRunning' && n > before && n;
}"""
LAMBDA = "λ of all differential blocks, times"
ANSWER_MOVED = "(figures, before) => figures[0].lines.length > 1 && figures[0].lines[1].at(-1) !== before"
GOES_ON = """() => document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'running'
    && Array.from(document.querySelectorAll('button')).some(button => button.textContent.includes('Cancel'))"""


def test_the_needle_is_read_by_both_models_and_drawn_with_bands(browser, address: str) -> None:
    with opened(browser, f"{address}/needle?{BUNDLED}&{LENS}&needle_length=0&needle_n=3") as watched:
        probability, snr, _, _, reads = watched.figures(5, "What the last position reads")
        first, second = probability["lines"]
        assert len(first) == len(second) == 13
        assert all(0 <= value <= 1 for value in first + second)
        assert len(snr["lines"]) == 2
        # Three pictures twice, the plain model twice, and the classes but the filler, which these prompts lack.
        assert len(reads["lines"]) == 4 + 3 + 4
        watched.page.get_by_text("Logarithmic axis").click()
        watched.figures(5, holds="figures => figures[0].axis === 'log'")
        watched.page.wait_for_url(re.compile("needle_log=True"))
        watched.require_clean()


def test_a_needle_run_outlasts_a_change_of_the_windows_width_can_be_cancelled_and_goes_on_later(
    browser, address: str
) -> None:
    with opened(browser, f"{address}/needle?{LONG_RUN}&needle_seed=1") as watched:
        run = watched.page.get_by_role("button", name="Run", exact=True)
        watched.settle("Nothing is read yet")
        run.click()
        watched.state(SHARE_ABOVE, 0)
        watched.page.set_viewport_size({"width": 1500, "height": 800})
        # The page tells its width after a third of a second.
        watched.page.wait_for_timeout(1000)
        before = int(watched.state("() => document.querySelector('.stMain').innerText.match(/(\\d+)%/)?.[1]"))
        first = run_and_cancel(watched, None, before)
        watched.figures(2, f"Stopped after {first} prompt")
        assert run_and_cancel(watched, run, first) > first
        watched.require_clean()


def test_a_long_needle_run_of_one_user_does_not_freeze_another_and_can_be_cancelled(browser, address: str) -> None:
    with (
        opened(browser, f"{address}/needle?{LONG_RUN}&needle_seed=2") as watched,
        opened(browser, f"{address}/interventions?{BUNDLED}&lens=logit lens") as other,
    ):
        (before,) = other.figures(3)[0]["lines"]
        watched.settle("Nothing is read yet")
        watched.page.get_by_role("button", name="Run", exact=True).click()
        watched.state(SHARE_ABOVE, 0)
        other.slide(LAMBDA, "Home")
        other.figures(3, "λ times 0", holds=ANSWER_MOVED, arg=before[-1])
        other.go_to("Lens")
        other.figures(1, "Click a cell for its list")
        assert watched.page.evaluate(GOES_ON)
        cancel = watched.page.get_by_role("button", name="Cancel")
        cancel.click()
        assert watched.state(STOPPED_AFTER, 0) < 100
        expect(cancel).to_be_hidden()
        watched.require_clean()
        other.require_clean()


def test_a_change_of_lambda_moves_the_answer_at_once(browser, address: str) -> None:
    with opened(browser, f"{address}/interventions?model={MODEL}&ids={IDS}&answer=8&wrong=5;60") as watched:
        (before,) = watched.figures(3)[0]["lines"]
        watched.slide(LAMBDA, "Home")
        changed = watched.figures(3, "λ times 0", holds=ANSWER_MOVED, arg=before[-1])
        assert changed[0]["lines"][0] == before
        watched.page.wait_for_url(re.compile("lambda_factor=0"))
        watched.page.get_by_role("tab", name="Tokens").click()
        positions = watched.page.get_by_role("textbox", name="And the positions")
        positions.fill("3 5-6")
        positions.press("Enter")
        watched.settle("positions 3, 5, 6 taken out")
        watched.page.get_by_role("button", name="Reset", exact=True).click()
        watched.shows("nothing is changed")
        watched.require_clean()


def test_a_sweep_of_lambda_is_drawn_with_the_present_setting_on_its_curve(browser, address: str) -> None:
    with opened(browser, f"{address}/interventions?{BUNDLED}&lens=logit lens&lambda_factor=0.6") as watched:
        watched.figures(3)
        watched.page.get_by_text("Sweep, patch, take tokens out").click()
        choose(watched, "Swept", "λ, times 0 to 2")
        dose, _, stages, *_ = watched.figures(5, "ring: where λ stands there")
        (probability,), (_, after) = dose["lines"], stages["lines"]
        # Nine factors, and the present one between 0.5 and 0.75.
        assert len(probability) == 10
        assert abs(probability[3] - after[-1]) < 1e-5
        watched.page.wait_for_url(re.compile("swept=lambda"))
        watched.require_clean()


def test_a_needle_run_goes_out_in_a_session_file_and_is_drawn_again(browser, address: str, tmp_path: Path) -> None:
    query = f"{BUNDLED}&{LENS}&needle_length=0&needle_n=2&needle_attention=False"
    with opened(browser, f"{address}/needle?{query}") as watched:
        before = watched.figures(4)
        save_session(watched, tmp_path / "session.zip")
    with opened(browser, f"{address}/session") as watched:
        watched.settle("Open one")
        watched.page.locator("input[type=file]").set_input_files(tmp_path / "session.zip")
        again = watched.figures(4)
        assert [figure["lines"] for figure in again] == [figure["lines"] for figure in before]
        watched.require_clean()


def test_two_who_open_a_fresh_explorer_at_once_are_both_served(browser, project_root: Path, root: Path) -> None:
    with (
        served(project_root, root) as address,
        opened(browser, f"{address}/needle?{BUNDLED}&{LENS}&needle_length=0&needle_n=2") as first,
        opened(browser, f"{address}/interventions?{BUNDLED}&lens=logit lens") as second,
        opened(browser, f"{address}/") as third,
    ):
        first.figures(5)
        second.figures(3)
        third.settle("In memory")
        for watched in (first, second, third):
            watched.require_clean()


def run_and_cancel(watched: Watched, run: Locator | None, before: int) -> int:
    """Press Run, and Cancel once more prompts were read than `before`; returns how many it then were. run: None where
    it was pressed."""
    if run is not None:
        run.click()
    watched.state(SHARE_ABOVE, before)
    watched.page.get_by_role("button", name="Cancel").click()
    return watched.state(STOPPED_AFTER, before)
