"""The elements that draw figures and tell the page's width, by themselves in a page of the explorer."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

from app.shell import viewport
from tests.app.browser import NEEDS_CHROMIUM, opened

pytestmark = NEEDS_CHROMIUM

# Figures with margins of their own, each while the one before is drawn; then the element goes, at once. A call that the
# next one overtook is ended after it.
FOLLOW = """async (source) => {
    const { default: show } = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    const parentElement = document.createElement("div");
    parentElement.style.width = "600px";
    document.querySelector(".stMain").prepend(parentElement);
    const leave = (margin) => show({ parentElement, data: { height: 300, figure: JSON.stringify({
        data: [{ type: "heatmap", z: [[1, 2], [3, 4]] }],
        layout: { margin: { t: margin }, title: { text: `${margin}` }, meta: {}, xaxis: { automargin: true } },
    }) } });
    const tick = () => Promise.resolve();
    for (const wait of [() => {}, () => tick().then(tick).then(tick), () => new Promise(requestAnimationFrame)]) {
        for (const margin of [10, 90, 30]) { leave(margin); await wait(); }
        while (parentElement.querySelector(".gtitle")?.textContent !== "30") await new Promise(requestAnimationFrame);
        const last = leave(50);
        await wait();
        await last();
    }
    await new Promise((done) => setTimeout(done, 300));
    const left = parentElement.childElementCount;
    const overtaken = leave(10), last = leave(30);
    await overtaken();
    const kept = parentElement.childElementCount;
    await last();
    return [left, kept, parentElement.childElementCount];
}"""

# How many look at the page's width after three calls of which Streamlit ends the last, and then.
WATCH = """async (source) => {
    const { default: show } = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    const parentElement = document.createElement("div"), Plain = window.ResizeObserver;
    let n = 0;
    window.ResizeObserver = class extends Plain {
        observe(element) { n += 1; super.observe(element); }
        disconnect() { n -= 1; super.disconnect(); }
    };
    const ends = [900, 1000, 900].map((told) => show({ parentElement, data: { told }, setStateValue() {} }));
    const watching = n;
    ends.at(-1)();
    window.ResizeObserver = Plain;
    return [watching, n];
}"""


def test_figures_that_follow_fast_or_go_while_they_are_drawn(browser, address: str, project_root: Path) -> None:
    source = (project_root / "app" / "shell" / "figure.js").read_text(encoding="utf-8")
    with opened(browser, f"{address}/?model=bundled:mamba2") as watched:
        watched.settle("In memory")
        watched.state("() => window.Plotly !== undefined")
        assert watched.page.evaluate(FOLLOW, source) == [0, 1, 0]
        watched.require_clean()


def test_one_at_a_time_looks_at_the_pages_width(browser, address: str) -> None:
    with opened(browser, f"{address}/?model=bundled:mamba2") as watched:
        watched.settle("In memory")
        assert watched.page.evaluate(WATCH, viewport._SCRIPT) == [1, 0]
        watched.require_clean()
