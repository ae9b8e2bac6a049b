"""The explorer in a real browser: what is drawn, what the browser complains of, and what it asks of the network."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch

from diffmamba_interp import HookedMamba
from diffmamba_interp.implicit_attention import extract_attention
from tests.app.conftest import IDS, MODEL, WORDS

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from playwright.sync_api import expect

from tests.app.browser import (
    NEEDS_CHROMIUM,
    download,
    drawn_after_s,
    open_choice,
    opened,
    start_clock,
)

pytestmark = NEEDS_CHROMIUM

# Relative luminance of the page's ground, and contrast ratio to it of a figure's labels, as the accessibility
# guidelines define them: waited for and read at once, since a page is drawn before its theme is known.
COLOURS = """([darkest, lightest, contrast]) => {
    const luminance = (selector, what) => {
        const element = document.querySelector(selector);
        if (!element) return NaN;
        const parts = getComputedStyle(element)[what].match(/[0-9.]+/g).slice(0, 3).map(part => (part / 255) ** 2.2);
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    const ground = luminance('.stApp', 'backgroundColor');
    const text = luminance('.js-plotly-plot .xtick text', 'fill');
    const ratio = (Math.max(ground, text) + 0.05) / (Math.min(ground, text) + 0.05);
    return darkest <= ground && ground <= lightest && ratio > contrast;
}"""

HARM = '<img/src="x"onerror="window.harm=1">'
TOKENS = torch.tensor([[int(part) for part in IDS.split()]])
MODEL_AND_IDS = f"model={quote(MODEL)}&ids={quote(IDS)}"


@pytest.fixture(scope="module")
def model(root: Path) -> HookedMamba:
    return HookedMamba.from_pretrained(root / MODEL).eval()


def test_every_page_is_drawn_and_the_choices_go_with_it(browser, address: str, model: HookedMamba) -> None:
    with opened(browser, f"{address}/?{MODEL_AND_IDS}") as watched:
        page = watched.page
        watched.shows("λ weighs the subtrahend")
        watched.shows("0.131 M")
        watched.settle("In memory")
        watched.require_accessible("Overview")

        watched.go_to("Attention")
        for block in range(3):
            (figure,) = watched.figures(1, title=f"Block {block}")
            if block < 2:
                # What comes while a figure has no room is drawn when it has some again.
                around = page.locator(".js-plotly-plot").locator("..")
                around.evaluate("element => { element.style.display = 'none' }")
                watched.slide("Block", "ArrowRight")
                watched.settle(f"Block {block + 1} is ")
                around.evaluate("element => { element.style.display = '' }")
        arrays = extract_attention(model, TOKENS, block=2, kind="hidden", reduce="mean").to_numpy()
        taken_away = arrays["minuend"] - arrays["difference"]
        for drawn, picture in zip(figure["z"], (arrays["minuend"], taken_away, arrays["difference"]), strict=True):
            assert np.allclose(drawn, picture[0], atol=1e-6)

        watched.go_to("Lens")
        (figure,) = watched.figures(1, "Each cell: the token")
        assert np.shape(figure["z"][0]) == (5, TOKENS.shape[1])
        watched.require_accessible("Lens")
        page.set_viewport_size({"width": 390, "height": 844})
        (figure,) = watched.figures(1, "Each cell: the token", holds="figures => figures[0].z[0][0].length < 8")
        watched.comes_to("document.querySelector('.stMain').scrollWidth <= 390", True)
        page.set_viewport_size({"width": 1280, "height": 800})
        watched.figures(1, "Each cell: the token", holds="figures => figures[0].z[0][0].length > 8")

        watched.go_to("Attention")
        watched.figures(1, title="Block 2")
        watched.require_clean()


# What a page says stands above its picture, both on the first screen.
ON_FIRST_SCREEN = """() => {
    const [says, picture] = ['.headline .says', '.js-plotly-plot .nsewdrag']
        .map(name => document.querySelector(name)?.getBoundingClientRect());
    return Boolean(says && picture) && 0 < says.top && says.top < picture.top
        && picture.top < picture.bottom && picture.bottom < 800;
}"""


def test_no_page_keeps_anybody_out_and_questions_are_answered_on_the_first_screen(browser, address: str) -> None:
    start = "model=bundled:diff-mamba2&beside=none&needle_lens=logit lens&needle_length=0&needle_n=2&play_tokens=2"
    asked = "asked_needle=yes&asked_interventions=yes&lambda_factor=0.0"
    pages = ["Heads", "Graph", "Playground", "Evidence", "Needle", "Interventions", "Retrieval", "Session"]
    with opened(browser, f"{address}/heads?{start}&{asked}", color_scheme="dark") as watched:
        for place, name in enumerate(pages):
            if place:
                watched.go_to(name)
            watched.page.locator("h1", has_text=name).wait_for()
            watched.settle()
            watched.require_accessible(name)
            watched.require_clean()
            if name in ("Needle", "Interventions"):
                watched.comes_to(ON_FIRST_SCREEN, True)


def test_a_pasted_address_brings_the_view_back_and_its_numbers_can_be_taken_away(
    browser, address: str, model: HookedMamba, tmp_path: Path
) -> None:
    with opened(browser, f"{address}/attention?{MODEL_AND_IDS}&block=2&heads=3") as watched:
        (figure,) = watched.figures(1, title="head 3")
        difference = extract_attention(model, TOKENS, block=2, kind="hidden", heads=[3]).to_numpy()["difference"][0, 0]
        assert np.allclose(figure["z"][2], difference, atol=1e-6)

        watched.page.get_by_text("Take it away").click()
        watched.settle("This Python gives the same numbers")
        name = download(watched, watched.page.get_by_role("button", name="CSV"), tmp_path / "cells.csv")
        assert re.fullmatch(r"attention-block-2-\d+-[0-9a-f]{8}.csv", name)
        lines = csv.DictReader((tmp_path / "cells.csv").read_text(encoding="utf-8").splitlines())
        visible = difference[np.tril_indices(TOKENS.shape[1])]
        assert [float(line["difference"]) for line in lines] == pytest.approx(visible.tolist())

        watched.slide("Block", "ArrowLeft")
        watched.figures(1, title="Block 1")
        watched.page.wait_for_url(re.compile("block=1"))
        watched.require_clean()


@pytest.mark.parametrize(
    "query",
    [f"model={MODEL}&ids={quote(HARM)}", f"model={quote(HARM)}"],
)
def test_hostile_text_is_an_error_box_that_shows_it_as_text(browser, address: str, query: str) -> None:
    with opened(browser, f"{address}/attention?{query}") as watched:
        expect(watched.page.locator("[data-testid=stAlert]").first).to_be_visible()
        expect(watched.page.locator("[data-testid=stCode]").first).to_contain_text(HARM[:20])
        watched.settle()
        assert watched.page.evaluate("window.harm") is None
        watched.require_clean()


def test_tokens_that_look_like_html_are_drawn_as_text(browser, address: str, worded: str) -> None:
    with opened(browser, f"{address}/attention?model={worded}&prompt={quote('the ' + WORDS[-1])}") as watched:
        watched.figures(1, title="Block 0")
        expect(watched.page.locator(".js-plotly-plot .xtick text").nth(1)).to_have_text(re.compile("^1 <img/src"))
        watched.shows("<img/src")
        assert watched.page.evaluate("window.harm") is None
        watched.require_clean()


def test_four_sessions_at_once_each_see_their_own(browser, address: str) -> None:
    pages = [opened(browser, f"{address}/attention?{MODEL_AND_IDS}&block={block}") for block in range(4)]
    with pages[0] as first, pages[1] as second, pages[2] as third, pages[3] as fourth:
        for block, watched in enumerate((first, second, third, fourth)):
            watched.figures(1, title=f"Block {block}")
            watched.require_clean()


def test_both_themes_are_readable(browser, address: str) -> None:
    with opened(browser, f"{address}/attention?{MODEL_AND_IDS}", color_scheme="dark") as watched:
        watched.state(COLOURS, [0, 0.2, 4.5])
        watched.figures(1)
        watched.require_accessible("Attention")
        watched.page.emulate_media(color_scheme="light")
        watched.page.reload()
        watched.state(COLOURS, [0.8, 1, 3])
        watched.require_clean()


def test_another_block_or_head_of_512_tokens_draws_other_pictures(browser, address: str) -> None:
    query = "model=bundled:diff-mamba2&source=needle&length=512&view=positions&block=5"
    with opened(browser, f"{address}/attention?{query}") as watched:
        _, before = watched.figures(2, title="Block 5:")
        start_clock(watched, "keydown")
        watched.slide("Block", "ArrowRight")
        assert drawn_after_s(watched, "Block 6:") > 0
        _, block = watched.figures(2, title="Block 6:")
        option = open_choice(watched, "Heads", "head 3")
        start_clock(watched, "click")
        option.click()
        assert drawn_after_s(watched, "head 3,") > 0
        _, head = watched.figures(2, title="head 3,")
        assert before["z"] != block["z"] != head["z"]
        watched.require_clean()
