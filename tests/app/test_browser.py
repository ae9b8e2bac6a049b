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
from tests.app.browser import (
    NEEDS_CHROMIUM,
    Watched,
    drawn_after_s,
    open_choice,
    opened,
    start_clock,
    wait_for_title,
)

pytestmark = NEEDS_CHROMIUM

HARM = '<img/src="x"onerror="window.harm=1">'
TOKENS = torch.tensor([[int(part) for part in IDS.split()]])
MODEL_AND_IDS = f"model={quote(MODEL)}&ids={quote(IDS)}"


@pytest.fixture(scope="module")
def model(root: Path) -> HookedMamba:
    return HookedMamba.from_pretrained(root / MODEL).eval()


def test_every_page_is_drawn_and_the_choices_go_with_it(browser, address: str, model: HookedMamba) -> None:
    with opened(browser, f"{address}/?{MODEL_AND_IDS}") as watched:
        page = watched.page
        page.get_by_text("λ weighs the subtrahend").wait_for()
        assert page.get_by_text("0.131 M").is_visible()

        page.get_by_role("link", name="Attention").click()
        wait_for_title(watched, "Block 0")
        page.get_by_role("slider", name="Block").press("ArrowRight")
        page.get_by_role("slider", name="Block").press("ArrowRight")
        wait_for_title(watched, "Block 2")
        arrays = extract_attention(model, TOKENS, block=2, kind="hidden", reduce="mean").to_numpy()
        for drawn, name in zip(watched.figure()["z"], ("minuend", "subtrahend", "difference"), strict=True):
            assert np.allclose(drawn, arrays[name][0], atol=1e-6)

        page.get_by_role("link", name="Lens").click()
        page.get_by_text("Each cell: the token").wait_for()
        assert np.shape(watched.figure()["z"][0]) == (5, TOKENS.shape[1])

        page.get_by_role("link", name="Attention").click()
        wait_for_title(watched, "Block 2")
        watched.require_clean()


def test_a_pasted_address_brings_the_view_back_and_its_numbers_can_be_taken_away(
    browser, address: str, model: HookedMamba, tmp_path: Path
) -> None:
    with opened(browser, f"{address}/attention?{MODEL_AND_IDS}&block=2&heads=3") as watched:
        wait_for_title(watched, "head 3")
        difference = extract_attention(model, TOKENS, block=2, kind="hidden", heads=[3]).to_numpy()["difference"][0, 0]
        assert np.allclose(watched.figure()["z"][2], difference, atol=1e-6)

        watched.page.get_by_text("Take it away").click()
        with watched.page.expect_download() as download:
            watched.page.get_by_role("button", name="CSV").click()
        assert download.value.suggested_filename == "attention-block-2.csv"
        download.value.save_as(tmp_path / "cells.csv")
        lines = csv.DictReader((tmp_path / "cells.csv").read_text(encoding="utf-8").splitlines())
        visible = difference[np.tril_indices(TOKENS.shape[1])]
        assert [float(line["difference"]) for line in lines] == pytest.approx(visible.tolist())

        watched.page.get_by_role("slider", name="Block").press("ArrowLeft")
        wait_for_title(watched, "Block 1")
        watched.page.wait_for_url(re.compile("block=1"))
        watched.require_clean()


@pytest.mark.parametrize(
    "query",
    [f"model={MODEL}&ids={quote(HARM)}", f"model={quote(HARM)}"],
)
def test_hostile_text_is_an_error_box_that_shows_it_as_text(browser, address: str, query: str) -> None:
    with opened(browser, f"{address}/attention?{query}") as watched:
        watched.page.locator("[data-testid=stAlert]").first.wait_for()
        assert HARM[:20] in watched.page.locator("[data-testid=stCode]").first.text_content()
        assert watched.page.evaluate("window.harm") is None
        watched.require_clean()


def test_tokens_that_look_like_html_are_drawn_as_text(browser, address: str, worded: str) -> None:
    with opened(browser, f"{address}/attention?model={worded}&prompt={quote('the ' + WORDS[-1])}") as watched:
        watched.figure()
        assert watched.page.locator(".js-plotly-plot .xtick text").nth(1).text_content().startswith("1 <img/src")
        assert watched.page.get_by_text("<img/src").count() > 0
        assert watched.page.evaluate("window.harm") is None
        watched.require_clean()


def test_four_sessions_at_once_each_see_their_own(browser, address: str) -> None:
    pages = [opened(browser, f"{address}/attention?{MODEL_AND_IDS}&block={block}") for block in range(4)]
    with pages[0] as first, pages[1] as second, pages[2] as third, pages[3] as fourth:
        for block, watched in enumerate((first, second, third, fourth)):
            wait_for_title(watched, f"Block {block}")
            watched.require_clean()


def test_both_themes_are_readable(browser, address: str) -> None:
    with opened(browser, f"{address}/attention?{MODEL_AND_IDS}", color_scheme="dark") as watched:
        watched.figure()
        assert contrast(watched) > 4.5
        assert luminance(watched, ".stApp", "backgroundColor") < 0.2
        watched.page.emulate_media(color_scheme="light")
        watched.page.reload()
        watched.figure()
        assert luminance(watched, ".stApp", "backgroundColor") > 0.8
        assert contrast(watched) > 3


def test_another_block_or_head_of_512_tokens_draws_other_pictures(browser, address: str) -> None:
    query = "model=bundled:diff-mamba2&source=needle&length=512&view=positions&block=5"
    with opened(browser, f"{address}/attention?{query}") as watched:
        wait_for_title(watched, "Block 5")
        before = watched.figure()["z"]
        start_clock(watched, "keydown")
        watched.page.get_by_role("slider", name="Block").press("ArrowRight")
        assert drawn_after_s(watched, "Block 6:") > 0
        block = watched.figure()["z"]
        option = open_choice(watched, "Heads", "head 3")
        start_clock(watched, "click")
        option.click()
        assert drawn_after_s(watched, "head 3,") > 0
        assert before != block != watched.figure()["z"]
        watched.require_clean()


def contrast(watched: Watched) -> float:
    """Contrast ratio of a figure's labels, as the accessibility guidelines define it."""
    ground = luminance(watched, ".stApp", "backgroundColor")
    text = luminance(watched, ".js-plotly-plot .xtick text", "fill")
    return (max(ground, text) + 0.05) / (min(ground, text) + 0.05)


def luminance(watched: Watched, selector: str, what: str) -> float:
    """Relative luminance of an element's colour, 0 to 1."""
    colour = watched.page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{what}")
    red, green, blue = (float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3])
    return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
