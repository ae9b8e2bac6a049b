"""The explorer in a real browser, on screens of three widths."""

from __future__ import annotations

from urllib.parse import quote

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

from tests.app.browser import NEEDS_CHROMIUM, WAIT_S, opened
from tests.app.conftest import IDS, MODEL

pytestmark = NEEDS_CHROMIUM

MODEL_AND_IDS = f"model={quote(MODEL)}&ids={quote(IDS)}"
BUNDLED = "model=bundled:diff-mamba2&needle_lens=logit lens&needle_length=0&needle_n=2"
PAGES = {
    f"?{BUNDLED}": 1,
    f"attention?{BUNDLED}&block=3": 2,
    f"attention?{BUNDLED}&block=3&view=spans": 2,
    f"attention?{BUNDLED}&block=3&view=heads": 2,
    f"heads?{BUNDLED}": 1,
    f"graph?{BUNDLED}": 1,
    f"lens?{BUNDLED}&compare=difference": 1,
    f"needle?{BUNDLED}": 5,
    f"interventions?{MODEL_AND_IDS}&answer=8&wrong=5; 60&swept=lambda&patched=mixer_out&faithful=True": 8,
    "retrieval?": 1,
}
"""Addresses, and how many figures each has at least."""

# Words that are cut by their figure's edge or lie on others of it, once all figures are drawn; else what is waited for.
CUT = """n => {
    if (document.querySelector('[data-testid=stApp]')?.dataset.testScriptState !== 'notRunning') return ['running'];
    const plots = Array.from(document.querySelectorAll('.js-plotly-plot'));
    if (plots.length < n) return [`${plots.length} figures`];
    if (!plots.every(plot => plot._fullData?.length && plot.querySelector('.xtick text'))) return ['not drawn'];
    const found = [], main = document.querySelector('.stMain');
    for (const part of [main, ...main.querySelectorAll('.stMarkdown')])
        if (part.scrollWidth > part.clientWidth + 1) found.push(`sideways: ${part.innerText.slice(0, 60)}`);
    for (const plot of plots) {
        const edge = plot.getBoundingClientRect();
        const kinds = ['.xtick text', '.ytick text', '.gtitle', '.xtitle', '.ytitle', '.legendtext', '.cbtitle text',
            '.cbaxis text', '.annotation-text'];
        const words = kinds.flatMap(kind => Array.from(plot.querySelectorAll(kind), element => ({
            kind, element, text: element.textContent, box: element.getBoundingClientRect(),
        }))).filter(({ element, text, box }) => text.trim() && box.width && element.checkVisibility());
        const where = (plot._fullLayout.title?.text ?? '').slice(0, 40);
        for (const { text, box } of words)
            if (box.left < edge.left - 1 || box.right > edge.right + 1 || box.top < edge.top - 1
                || box.bottom > edge.bottom + 1) found.push(`cut in “${where}”: ${text.slice(0, 40)}`);
        words.forEach((one, at) => words.slice(at + 1).forEach(other => {
            const wide = Math.min(one.box.right, other.box.right) - Math.max(one.box.left, other.box.left);
            const high = Math.min(one.box.bottom, other.box.bottom) - Math.max(one.box.top, other.box.top);
            if (wide > 2 && high > 3)
                found.push(`in “${where}” ${one.text.slice(0, 40)} on ${other.text.slice(0, 40)}`);
        }));
    }
    return found;
}"""


def test_no_word_of_a_figure_is_cut_or_lies_on_another_and_no_page_is_scrolled_sideways(browser, address: str) -> None:
    faults = {}
    with opened(browser, f"{address}/session") as watched:
        for page, n in PAGES.items():
            watched.page.set_viewport_size({"width": 1280, "height": 900})
            watched.page.goto(f"{address}/{page}")
            watched.state(f"n => !({CUT})(n).some(fault => /^(running|not drawn|[0-9]+ figures)$/.test(fault))", n)
            for width in (1280, 1920, 390):
                watched.page.set_viewport_size({"width": width, "height": 900})
                try:
                    watched.comes_to(CUT, [], n, wait_s=WAIT_S / 2)
                except AssertionError as problem:
                    faults[page, width] = str(problem)
    assert not faults, faults
