"""The explorer in a real browser: clicks on figures, runs that are stopped, files that go out and come back."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from tests.app.browser import NEEDS_CHROMIUM, Watched, opened, save_session, wait_for_title
from tests.app.conftest import IDS, MODEL

pytestmark = NEEDS_CHROMIUM

BUNDLED = "model=bundled:diff-mamba2"
IDS_AND_MODEL = f"model={MODEL}&ids={IDS}"


def click_cell(watched: Watched, across: float, down: float) -> None:
    """Click a figure's plotting area at these shares of its width and height."""
    area = watched.page.locator(".js-plotly-plot .nsewdrag").first
    area.wait_for()
    box = area.bounding_box()
    watched.page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
    watched.page.wait_for_timeout(200)
    watched.page.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])


def test_a_click_on_a_cell_of_the_lens_shows_its_list(browser, address: str) -> None:
    with opened(browser, f"{address}/lens?{IDS_AND_MODEL}") as watched:
        watched.page.get_by_text("output, position 10").wait_for()
        # Near the edge of the third column and of the second stage from below, away from their middle.
        click_cell(watched, (2 + 0.9) / 11, 1 - (1 + 0.8) / 5)
        watched.page.get_by_text("after block 0, position 2").wait_for()
        watched.page.wait_for_url("**cell=1-2**")
        watched.require_clean()


def test_a_click_on_a_thumbnail_shows_that_head_large(browser, address: str) -> None:
    with opened(browser, f"{address}/attention?{BUNDLED}&block=2&view=heads") as watched:
        wait_for_title(watched, "every head")
        click_cell(watched, (7 + 0.5) / 12, 0.5)
        wait_for_title(watched, "head 7")
        watched.page.wait_for_url("**heads=7**")
        watched.require_clean()


def test_a_figure_is_saved_as_svg_and_as_png_without_a_network(browser, address: str, tmp_path: Path) -> None:
    beginnings = {"SVG": b"<svg", "PNG": b"\x89PNG\r\n\x1a\n"}
    with opened(browser, f"{address}/?{BUNDLED}") as watched:
        for page in ("Overview", "Interventions"):
            watched.page.get_by_role("link", name=page).click()
            watched.page.get_by_text("What comes next").first.wait_for()
            figure = watched.page.locator(".js-plotly-plot").last
            for format_, beginning in beginnings.items():
                figure.hover()
                with watched.page.expect_download() as download:
                    figure.locator(f"[data-format={format_}]").click()
                download.value.save_as(tmp_path / "figure")
                assert (tmp_path / "figure").read_bytes().startswith(beginning), page
            assert figure.locator("[data-format]").count() == 2
        watched.require_clean()


def test_two_bundled_models_are_compared_on_the_ready_prompt(browser, address: str) -> None:
    with opened(browser, f"{address}/?{BUNDLED}") as watched:
        watched.page.get_by_text("What comes next").wait_for()
        watched.page.get_by_role("link", name="Lens").click()
        watched.page.get_by_text("Click a cell for its list").wait_for()
        watched.page.get_by_role("combobox", name="Models").click()
        watched.page.get_by_text("first minus second").click()
        watched.page.get_by_text("Red: more in").wait_for()
        assert len(watched.figure()["z"][0]) == 13
        watched.require_clean()


def test_a_grid_can_be_cancelled_and_another_session_is_served_meanwhile(browser, address: str) -> None:
    grid = f"{address}/retrieval?{BUNDLED}&results=run here&lengths=0 1024&tasks=qa1 qa2 qa5&n=40"
    with opened(browser, grid) as watched, opened(browser, f"{address}/attention?{BUNDLED}") as other:
        other.figure()
        watched.page.get_by_role("button", name="Run", exact=True).click()
        cancel = watched.page.get_by_role("button", name="Cancel")
        cancel.wait_for()
        other.page.get_by_role("slider", name="Block").press("ArrowRight")
        wait_for_title(other, "Block 1")
        assert cancel.is_visible()
        watched.page.get_by_text("qa2 at 0 tokens").wait_for(timeout=60_000)
        cancel.click()
        watched.page.get_by_text("Stopped after").wait_for()
        watched.page.locator(".js-plotly-plot").first.wait_for()
        watched.require_clean()
        other.require_clean()


def test_a_session_file_goes_out_and_comes_back(browser, address: str, tmp_path: Path) -> None:
    with opened(browser, f"{address}/attention?{IDS_AND_MODEL}&block=2") as watched:
        wait_for_title(watched, "Block 2")
        save_session(watched, tmp_path / "session.zip")
    with opened(browser, f"{address}/session") as watched:
        watched.page.locator("input[type=file]").set_input_files(tmp_path / "session.zip")
        wait_for_title(watched, "Block 2")
        watched.page.get_by_role("button", name="Set the widgets").click()
        wait_for_title(watched, "Block 2")
        watched.page.wait_for_url("**/attention?**block=2**")
        (tmp_path / "bad.zip").write_bytes((tmp_path / "session.zip").read_bytes()[:99])
        watched.page.get_by_role("link", name="Session").click()
        watched.page.locator("input[type=file]").set_input_files(tmp_path / "bad.zip")
        watched.page.get_by_text("Opening the session file failed").wait_for()
        watched.require_clean()


def test_every_page_fits_a_small_screen_in_the_dark(browser, address: str) -> None:
    with opened(browser, f"{address}/?{BUNDLED}", color_scheme="dark") as watched:
        for page, words in {
            "Overview": "In memory",
            "Attention": "What is read at position",
            "Lens": "Click a cell for its list",
            "Needle": "exact contributions",
            "Interventions": "What comes next, after",
            "Retrieval": "Wilson intervals",
            "Session": "The state of all widgets",
        }.items():
            watched.page.get_by_role("link", name=page).click()
            if page == "Needle":
                watched.page.get_by_role("button", name="Run", exact=True).click()
            watched.page.get_by_text(words).first.wait_for()
            wide = watched.page.locator(".stMain").evaluate("e => e.scrollWidth - e.clientWidth")
            assert wide <= 0, page
        watched.require_clean()
