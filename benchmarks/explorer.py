"""What waiting for the explorer costs, in Debian's chromium on this machine:

    python benchmarks/explorer.py [--rounds 6] [--only "another block" ...]

First page: from `diffmamba-interp explore` until the first figure is drawn, and until nothing is computed or drawn any
more, in a new server and a new browser session each time. The other rows are of one server.
Another block, another head: on the Attention page, 512 tokens by position, from the key press or click until all three
heat maps are new on the screen. Needle: from opening the page, as it is by default but with a seed of its own, until
its five figures are drawn. Second session: while another one reads needles, from opening the Attention page, with a
prompt of its own, until its figures are drawn. Both in a new profile, and looked at from outside, since Playwright's
listening costs a page half a second. Streamlit alone: a page with a title and two heat maps, nothing computed.
Cancel: from the click until the page says how far the run came and stands still. Estimates: seconds that a run took
over those that the page had said.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "tests" / "app"))

from browser import (  # noqa: E402
    CHROMIUM,
    CHROMIUM_ARGUMENTS,
    FIGURES,
    WAIT_S,
    Watched,
    drawn_after_s,
    open_choice,
    opened,
    served,
    start_clock,
    start_server,
    wait_for_title,
)

N_BLOCKS = 12
MODEL = "model=bundled:diff-mamba2"
ATTENTION = f"attention?{MODEL}&source=needle&length=512&view=positions&block=0"
LONG_RUN = f"needle?{MODEL}&beside=none&needle_length=1024&needle_n=100&needle_attention=False"
NEEDLE = f"needle?{MODEL}&needle_length=1024&needle_n=20"
GRID = f"retrieval?{MODEL}&results=run here&lengths=0 1024&tasks=qa1 qa2&n=16"
NORMS = f"attention?{MODEL}&source=needle&length=4096&view=positions&kind=contribution_norm"
IS_READING = "() => /[1-9][0-9]*% of the prompts/.test(document.querySelector('.stMain')?.innerText ?? '')"
PLAIN = """import numpy, plotly.graph_objects as go, streamlit as st
st.title("Plain")
for k, z in enumerate(numpy.random.default_rng(0).normal(size=(2, 44, 44))):
    st.plotly_chart(go.Figure(go.Heatmap(z=z)), key=str(k))
"""
HAS_STOPPED = """() => document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning'
    && /Stopped after [0-9]+ prompts/.test(document.querySelector('.stMain').innerText)
    && window.started && performance.now() - window.started"""


def first_pages(browser: Browser) -> Iterator[tuple[float, float]]:
    """Until the first figure, and until all of the page is there."""
    while True:
        start = time.perf_counter()
        with served(PROJECT, PROJECT) as address, opened(browser, address) as watched:
            watched.page.locator(".js-plotly-plot .main-svg").first.wait_for()
            first = time.perf_counter() - start
            watched.figures(1, "In memory")
            yield first, time.perf_counter() - start


def other_blocks(browser: Browser, address: str) -> Iterator[float]:
    with opened(browser, f"{address}/{ATTENTION}") as watched:
        wait_for_title(watched, "Block 0")
        slider = watched.page.get_by_role("slider", name="Block")
        for block in range(1, N_BLOCKS):
            watched.page.wait_for_timeout(1500)
            start_clock(watched, "keydown")
            slider.press("ArrowRight")
            yield drawn_after_s(watched, f"Block {block}:")


def other_heads(browser: Browser, address: str) -> Iterator[float]:
    with opened(browser, f"{address}/{ATTENTION}") as watched:
        wait_for_title(watched, "Block 0")
        for head in range(N_BLOCKS):
            watched.page.wait_for_timeout(1500)
            option = open_choice(watched, "Heads", f"head {head}")
            start_clock(watched, "click")
            option.click()
            yield drawn_after_s(watched, f"head {head},")


def needle_runs(browser: Browser, address: str) -> Iterator[float]:
    for seed in range(1, 100):
        yield opened_s(browser, f"{address}/needle?needle_seed={seed}", 5)


def needle_clicks(browser: Browser, address: str) -> Iterator[float]:
    """In a new server each time: its default prompts are the same whenever the page is opened so."""
    while True:
        with served(PROJECT, PROJECT) as anew, opened(browser, anew) as watched:
            watched.settle("In memory")
            # What is left to import comes a second after the page.
            watched.page.wait_for_timeout(8000)
            start = time.perf_counter()
            watched.page.get_by_test_id("stSidebarNavItems").get_by_role("link", name="Needle").click()
            watched.figures(5, "What the last position reads")
            yield time.perf_counter() - start


def second_sessions(browser: Browser, address: str, *, run_beside: bool, is_first: bool = False) -> Iterator[float]:
    """run_beside: while another session reads needles. is_first: of the page that the explorer opens with."""
    for seed in range(100):
        # A prompt of its own for every row: none is read twice.
        place = "" if is_first else f"attention?{MODEL}&source=needle&length=256&seed={seed}&number={run_beside:d}"
        with ExitStack() as during:
            if run_beside:
                busy = during.enter_context(opened(browser, f"{address}/{LONG_RUN}&needle_seed={seed}"))
                run(busy)
                busy.state(IS_READING)
            yield opened_s(browser, f"{address}/{place}", 1 if is_first else 2)
            if run_beside:
                cancel(busy)


def plain_pages(browser: Browser, address: str) -> Iterator[float]:
    """What Streamlit takes by itself: nothing is computed."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "plain.py").write_text(PLAIN)
        command = [sys.executable, "-m", "streamlit", "run", f"{folder}/plain.py", "--server.headless=true"]
        command += ["--browser.gatherUsageStats=false"]
        process, plain = start_server(Path(folder), command, os.environ, port_option="--server.port")
        try:
            while True:
                yield opened_s(browser, plain, 2)
        finally:
            process.kill()


def opened_s(browser: Browser, address: str, n_figures: int) -> float:
    """Seconds from asking for a page in a new profile until so many figures are drawn. Nothing listens to the page: it
    is asked, again and again."""
    looks = json.dumps(FIGURES.replace("HOLDS", "() => true"))
    asked = {"expression": f"eval({looks})([{n_figures}, '', '', null]) && Date.now()", "returnByValue": True}
    with opened(browser, "about:blank") as clock:
        outside, answers = browser.new_browser_cdp_session(), []
        outside.on("Target.receivedMessageFromTarget", lambda event: answers.append(json.loads(event["message"])))
        profile = outside.send("Target.createBrowserContext")
        start = time.time()
        size = {"width": 1280, "height": 800}
        target = outside.send("Target.createTarget", {"url": address, **size, **profile})
        session = outside.send("Target.attachToTarget", {**target, "flatten": False})
        drawn, number = None, 0
        while not drawn and time.time() < start + WAIT_S:
            number += 1
            message = json.dumps({"id": number, "method": "Runtime.evaluate", "params": asked})
            outside.send("Target.sendMessageToTarget", {**session, "message": message})
            # What was asked of the empty page before is never answered.
            until = time.time() + 5
            while time.time() < until and not any(answer.get("id") == number for answer in answers):
                clock.page.wait_for_timeout(10)
            clock.page.wait_for_timeout(40)
            drawn = next((one["result"]["result"].get("value") for one in answers if one.get("id") == number), None)
        outside.send("Target.disposeBrowserContext", profile)
        if not drawn:
            raise RuntimeError(f"{address} was not drawn within {WAIT_S:g} s")
        return drawn / 1000 - start


def cancels(browser: Browser, address: str) -> Iterator[float]:
    with opened(browser, f"{address}/{LONG_RUN}&needle_seed=99") as watched:
        while True:
            run(watched)
            watched.state(IS_READING)
            watched.page.wait_for_timeout(1000)
            yield cancel(watched)


def run(watched: Watched) -> None:
    watched.settle()
    watched.page.get_by_role("button", name="Run", exact=True).click()


def cancel(watched: Watched) -> float:
    start_clock(watched, "click")
    watched.page.get_by_role("button", name="Cancel").click()
    return watched.state(HAS_STOPPED) / 1000


def estimated(place: str, n_figures: int) -> Callable[[Browser, str], Iterator[float]]:
    """A row of what runs at `place` after a press on Run take, over what the page says before."""

    def ratios(browser: Browser, address: str) -> Iterator[float]:
        for seed in range(1, 100):
            seeds = "&".join(f"{name}={seed}" for name in ("seed", "needle_seed", "grid_seed"))
            with opened(browser, f"{address}/{place}&{seeds}") as watched:
                watched.shows(re.compile(r"about \d+ s here"))
                watched.settle()
                said = re.findall(r"about (\d+) s here", watched.page.inner_text(".stMain"))[-1]
                start = time.perf_counter()
                run(watched)
                watched.figures(n_figures)
                yield (time.perf_counter() - start) / int(said)

    return ratios


@dataclass(frozen=True, kw_only=True)
class Row:
    """goal: that it should stay under, in seconds. measure: one number after the other. most: how many are taken."""

    goal: float
    measure: Callable[[Browser, str], Iterator[float]]
    most: int = N_BLOCKS - 1


FIRST = {"first page": 7.0, "first page, complete": 9.0}
ROWS = {
    "another block": Row(goal=0.5, measure=other_blocks),
    "another head": Row(goal=0.5, measure=other_heads),
    "needle": Row(goal=6.0, measure=needle_runs, most=3),
    "needle, from open page": Row(goal=6.0, measure=needle_clicks, most=3),
    "second session": Row(goal=3.0, measure=partial(second_sessions, run_beside=True), most=3),
    "second, first page": Row(goal=3.0, measure=partial(second_sessions, run_beside=True, is_first=True), most=3),
    "page, nothing beside": Row(goal=3.0, measure=partial(second_sessions, run_beside=False), most=3),
    "Streamlit alone": Row(goal=3.0, measure=plain_pages, most=3),
    "cancel": Row(goal=1.0, measure=cancels, most=5),
}
ESTIMATES = {
    "estimate: needle": estimated(NEEDLE, 5),
    "estimate: grid": estimated(GRID, 2),
    "estimate: norms": estimated(NORMS, 2),
}
"""Ratios, of which each should lie within a factor of 1.5."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--only", nargs="+", choices=["first page", *ROWS, *ESTIMATES], metavar="ROW")
    options = parser.parse_args()
    only, rounds = options.only or ["first page", *ROWS, *ESTIMATES], options.rounds
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        if "first page" in only:
            pages = taken(first_pages(browser), min(rounds, 3))
            for (name, goal), seconds in zip(FIRST.items(), zip(*pages, strict=True), strict=True):
                report(name, list(seconds), f"s, goal {goal:g} s")
        with served(PROJECT, PROJECT) as address, opened(browser, address) as watched:
            # Models and lenses are in memory, as for whoever has seen the first page.
            watched.settle("In memory")
            for name in [name for name in ROWS if name in only]:
                row = ROWS[name]
                report(name, taken(row.measure(browser, address), min(rounds, row.most)), f"s, goal {row.goal:g} s")
            for name in [name for name in ESTIMATES if name in only]:
                report(name, taken(ESTIMATES[name](browser, address), min(rounds, 2)), "x, goal 0.67 to 1.5")
        browser.close()


def taken(numbers: Iterator, n: int) -> list:
    """The first so many; what was opened for them is closed."""
    try:
        return [next(numbers) for _ in range(n)]
    finally:
        numbers.close()


def report(name: str, numbers: list[float], unit: str) -> None:
    spread = f"({min(numbers):.2f} to {max(numbers):.2f}, n = {len(numbers)})"
    print(f"{name:22s} {statistics.median(numbers):6.2f} {unit} {spread}", flush=True)


if __name__ == "__main__":
    main()
