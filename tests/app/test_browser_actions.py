"""The explorer in a real browser: clicks on figures, runs that are stopped, files that go out and come back."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import expect

from tests.app.browser import NEEDS_CHROMIUM, Watched, choose, download, opened, save_session
from tests.app.conftest import IDS, MODEL

pytestmark = NEEDS_CHROMIUM

BUNDLED = "model=bundled:diff-mamba2"
IDS_AND_MODEL = f"model={MODEL}&ids={IDS}"


def click_cell(watched: Watched, across: float, down: float, figure: int = 0, n: int = 1) -> None:
    """Click the plotting area of one of `n` figures, or its first panel's, at these shares of its width and height."""
    watched.figures(n)
    area = watched.page.locator(".js-plotly-plot").nth(figure).locator(".nsewdrag").first
    box = area.bounding_box()
    place = {"x": across * box["width"], "y": down * box["height"]}
    # Plotly takes a click for the cell that it last showed as hovered; a page that still moves leaves the pointer.
    hovered = "n => document.querySelectorAll('.js-plotly-plot')[n]?._hoverdata?.length > 0"
    for attempt in range(20):
        area.hover(position={"x": place["x"], "y": place["y"] - attempt % 2})
        with suppress(PlaywrightTimeout):
            watched.page.wait_for_function(hovered, arg=figure, timeout=3_000)
            break
    area.click(position=place)


def test_a_click_on_a_cell_of_the_lens_shows_its_list(browser, address: str) -> None:
    with opened(browser, f"{address}/lens?{IDS_AND_MODEL}") as watched:
        watched.settle("output, position 10")
        # Near the edge of the third column and of the second stage from below, away from their middle.
        click_cell(watched, (2 + 0.9) / 11, 1 - (1 + 0.8) / 5)
        watched.shows("after block 0, position 2")
        watched.page.wait_for_url("**cell=1-2**")
        watched.require_clean()


def test_a_click_on_a_thumbnail_shows_that_head_large(browser, address: str) -> None:
    with opened(browser, f"{address}/attention?{BUNDLED}&block=2&view=heads") as watched:
        watched.figures(2, title="every head")
        click_cell(watched, (7 + 0.5) / 12, 0.5, figure=1, n=2)
        watched.figures(2, title="head 7")
        watched.page.wait_for_url("**heads=7**")
        watched.require_clean()


def test_a_click_on_an_attention_cell_lights_up_its_row_and_source_and_one_on_the_strip_shows_its_head(
    browser, address: str
) -> None:
    with opened(browser, f"{address}/attention?{BUNDLED}") as watched:
        watched.figures(2, title="Block 3: hidden attention, head 1,")
        click_cell(watched, 26.5 / 44, 42.6 / 44, figure=1, n=2)
        watched.shows("Position 42")
        watched.shows("reads 26")
        watched.page.wait_for_url(re.compile("source_pos=26&row=42|row=42&source_pos=26"))
        click_cell(watched, 1.5 / 24, 0.9, figure=0, n=2)
        watched.figures(2, title="Block 4: hidden attention, head 0,")
        watched.page.locator("h1").first.click()
        watched.page.keyboard.press("k")
        watched.figures(2, title="Block 3: hidden attention, head 1,")
        watched.require_clean()


def test_another_block_is_drawn_over_the_one_before_it_once(browser, address: str) -> None:
    count = """() => {
        window.plot = document.querySelector('.st-key-attention_figure .js-plotly-plot');
        window.n = 0;
        window.plot.on('plotly_afterplot', () => { window.n += 1; });
    }"""
    with opened(browser, f"{address}/attention?{IDS_AND_MODEL}&block=1") as watched:
        watched.figures(1, title="Block 1:")
        watched.page.evaluate(count)
        watched.slide("Block", "ArrowRight")
        watched.figures(1, title="Block 2:")
        watched.comes_to("[document.contains(window.plot), window.n]", [True, 1])
        # Its buttons stand above it, so that they cover no legend, and none sends it away.
        names, room = watched.page.evaluate("""() => {
            const buttons = [...window.plot.querySelectorAll('.modebar-btn')];
            const lowest = Math.max(...buttons.map((button) => button.getBoundingClientRect().bottom));
            return [buttons.map((button) => button.dataset.title), window.plot.getBoundingClientRect().top - lowest];
        }""")
        assert room >= 0
        assert {"Download as SVG", "Fullscreen"} <= set(names)
        assert not any("share" in name.lower() or "cloud" in name.lower() for name in names)
        watched.require_clean()


def test_a_click_on_a_node_of_the_graph_opens_its_block(browser, address: str) -> None:
    with opened(browser, f"{address}/graph?{BUNDLED}&least_edge=50") as watched:
        # The logit's own node, in the upper right corner.
        watched.settle("From below: the tokens")
        click_cell(watched, 0.999, 0.5 / 13)
        watched.page.wait_for_url("**node=12-43**")
        watched.settle("Look at its block")
        watched.page.get_by_test_id("stMain").get_by_role("link", name="Attention").click()
        watched.figures(2, title="Block 11:")
        watched.require_clean()


def test_a_figure_is_saved_as_svg_and_as_png_without_a_network(browser, address: str, tmp_path: Path) -> None:
    beginnings = {"SVG": b"<svg", "PNG": b"\x89PNG\r\n\x1a\n"}
    with opened(browser, f"{address}/?{BUNDLED}") as watched:
        for page, n in {"Overview": 1, "Interventions": 3}.items():
            watched.go_to(page)
            watched.figures(n, "What comes next")
            figure = watched.page.locator(".js-plotly-plot").last
            expect(figure.locator("[data-format]")).to_have_count(2)
            for format_, beginning in beginnings.items():
                figure.hover()
                download(watched, figure.locator(f"[data-format={format_}]"), tmp_path / "figure")
                assert (tmp_path / "figure").read_bytes().startswith(beginning), page
            expect(figure.locator("[data-format]")).to_have_count(2)
        watched.require_clean()


def test_two_bundled_models_are_compared_on_the_ready_prompt(browser, address: str) -> None:
    with opened(browser, f"{address}/?{BUNDLED}") as watched:
        watched.shows("What comes next")
        watched.go_to("Lens")
        watched.figures(1, "Click a cell for its list")
        choose(watched, "Models", "model minus baseline")
        (figure,) = watched.figures(1, "Red: more in", holds="figures => Math.min(...figures[0].z[0].flat()) < 0")
        assert len(figure["z"][0]) == 13
        watched.require_clean()


def test_a_grid_can_be_cancelled_and_another_session_is_served_meanwhile(browser, address: str) -> None:
    grid = f"{address}/retrieval?{BUNDLED}&results=run here&lengths=0 1024&tasks=qa1 qa2 qa5&n=40"
    with opened(browser, grid) as watched, opened(browser, f"{address}/attention?{BUNDLED}") as other:
        other.figures(2, title="Block 3")
        watched.settle("cells of 40 prompts")
        watched.page.get_by_role("button", name="Run", exact=True).click()
        # The second cell is begun, or a later one.
        watched.shows(re.compile("qa1 at 1024 tokens|qa[25] at [0-9]+ tokens"))
        other.slide("Block", "ArrowRight")
        other.figures(2, title="Block 4")
        cancel = watched.page.get_by_role("button", name="Cancel")
        cancel.click()
        watched.figures(2, "Stopped after")
        expect(cancel).to_be_hidden()
        watched.require_clean()
        other.require_clean()


def test_results_do_not_move_what_there_is_to_choose_and_patching_can_be_cancelled(browser, address: str) -> None:
    with opened(browser, f"{address}/interventions?{BUNDLED}") as watched:
        watched.figures(3, "nothing is changed")
        # The slider's whole widget, for its thumb moves within it, and the first headline.
        places = """['.st-key-lambda_factor', '.headline']
            .map(name => document.querySelector(name).getBoundingClientRect().y)"""
        watched.comes_to("document.querySelectorAll('.js-plotly-plot').length", 3)
        slider, says = watched.page.evaluate(places)
        assert slider < says
        watched.page.locator(".st-key-lambda_factor").get_by_role("slider").press("ArrowLeft")
        watched.figures(3, "What comes next, after")
        watched.comes_to(places, [slider, says])
    long = "source=needle&length=0&patched=branch_out&patch_columns=tokens"
    with opened(browser, f"{address}/interventions?{BUNDLED}&{long}") as watched:
        run, cancel = (watched.page.get_by_role("button", name=name, exact=True).first for name in ("Run", "Cancel"))
        expect(run.or_(cancel).first).to_be_visible()
        # How fast the machine is decides whether it runs at once.
        if run.is_visible():
            watched.until(run.click, lambda: expect(cancel).to_be_visible(timeout=20_000))
        cancel.click()
        watched.settle("Patching was stopped")
        expect(cancel).to_be_hidden()
        watched.require_clean()


def test_a_session_file_goes_out_and_comes_back(browser, address: str, tmp_path: Path) -> None:
    with opened(browser, f"{address}/attention?{IDS_AND_MODEL}&block=2") as watched:
        watched.figures(1, title="Block 2")
        save_session(watched, tmp_path / "session.zip")
    with opened(browser, f"{address}/session") as watched:
        file = watched.page.locator("input[type=file]")
        watched.settle("Open one")
        file.set_input_files(tmp_path / "session.zip")
        watched.figures(1, "1 record in the file", title="Block 2")
        watched.page.get_by_role("button", name="Set the widgets").click()
        watched.figures(1, "What is read at position", title="Block 2")
        watched.page.wait_for_url("**/attention?**block=2**")
        (tmp_path / "bad.zip").write_bytes((tmp_path / "session.zip").read_bytes()[:99])
        watched.go_to("Session")
        watched.settle("Open one")
        file.set_input_files(tmp_path / "bad.zip")
        watched.shows("Opening the session file failed")
        watched.require_clean()


def test_every_page_fits_a_small_screen_in_the_dark(browser, address: str) -> None:
    with opened(browser, f"{address}/?{BUNDLED}", color_scheme="dark") as watched:
        for page, (n, words) in {
            "Overview": (1, "In memory"),
            "Attention": (2, "What is read at position"),
            "Graph": (1, "From below: the tokens"),
            "Lens": (1, "Click a cell for its list"),
            "Playground": (1, "Colour of the first text"),
            "Evidence": (0, "What one prompt says"),
            "Needle": (5, "exact contributions"),
            "Interventions": (3, "What comes next, before"),
            "Retrieval": (2, "Wilson intervals"),
            "Session": (0, "The state of all widgets"),
        }.items():
            watched.go_to(page)
            if page == "Needle":
                watched.settle("tokens for each of")
                watched.page.get_by_role("button", name="Run", exact=True).click()
            watched.figures(n, words)
            watched.comes_to(NOT_SIDEWAYS, True)
        watched.require_clean()


NOT_SIDEWAYS = "() => { const main = document.querySelector('.stMain'); return main.scrollWidth <= main.clientWidth; }"
# What is wider than the window, drawn beyond its right edge, or hardly any of a figure's height.
CUT = """() => {
    const main = document.querySelector('.stMain'), width = main.clientWidth, found = [];
    if (main.scrollWidth > width) found.push('the page');
    for (const element of main.querySelectorAll('.js-plotly-plot text, .js-plotly-plot .subplot'))
        if (element.getBoundingClientRect().right > width + 1) found.push(element.textContent.slice(0, 40));
    for (const table of main.querySelectorAll('.lines'))
        if (table.scrollWidth > table.clientWidth + 1) found.push('a table');
    for (const { _fullLayout: drawn } of main.querySelectorAll('.js-plotly-plot'))
        if (drawn._size.h < drawn.height / 3) found.push(`${drawn._size.h} of ${drawn.height} pixels`);
    return found;
}"""
ON_A_TELEPHONE = {"heads": 1, "lens": 1, "playground": 1, "needle?needle_length=0&needle_n=2": 5}


def test_nothing_is_cut_or_squeezed_on_a_telephone(browser, address: str) -> None:
    for page, n in ON_A_TELEPHONE.items():
        with opened(browser, f"{address}/{page}{'&' if '?' in page else '?'}{BUNDLED}") as watched:
            watched.page.set_viewport_size({"width": 390, "height": 844})
            stand_below = "figures => document.querySelector('.js-plotly-plot').getBoundingClientRect().width < 390"
            watched.figures(n, holds=stand_below)
            watched.comes_to(CUT, [])
            watched.require_clean()
