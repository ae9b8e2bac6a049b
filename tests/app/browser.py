"""The explorer in a real browser: a server of its own, Debian's chromium, and a record of what went wrong in it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_S = 120.0
WAIT_S = 240.0
"""How long a page may take to come into a state: no test waits for it where all is well, however slow the machine."""
HOLD_MS = 700
"""Longer than the browser waits before it tells another width, with the way to the server, which draws anew for it."""

expect.set_options(timeout=1000 * WAIT_S)

# The figures of a page once nothing is computed any more and all of them are drawn, otherwise false. What is drawn is
# read where it is looked for, since a figure may be redrawn, or gone, a moment later.
FIGURES = """([n, words, title, arg]) => {
    const state = document.querySelector('[data-testid=stApp]')?.dataset.testScriptState;
    const plots = Array.from(document.querySelectorAll('.js-plotly-plot'));
    if (state !== 'notRunning' || plots.length !== n) return false;
    if (!document.querySelector('.stMain')?.textContent.includes(words)) return false;
    const rows = trace => Array.from(trace.z, row => Array.from(row));
    const isDrawn = plot => plot._fullLayout && plot._fullData?.length
        && plot.querySelectorAll('.heatmaplayer image').length === plot._fullData.filter(trace => trace.z).length
        && plot.querySelector('.xtick text');
    if (!plots.every(isDrawn)) return false;
    const figures = plots.map(plot => ({
        title: plot._fullLayout.title?.text ?? '',
        axis: plot._fullLayout.yaxis.type,
        z: plot._fullData.filter(trace => trace.z).map(rows),
        lines: plot._fullData.filter(trace => trace.mode === 'lines+markers').map(trace => Array.from(trace.y)),
    }));
    if (title && !figures.some(figure => figure.title.includes(title))) return false;
    return (HOLDS)(figures, arg) && figures;
}"""
SETTLED = """words => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'
    && document.querySelector('.stMain')?.textContent.includes(words)"""
# What stands there instead of what was waited for.
SEEN = """() => ({
    script: document.querySelector('[data-testid=stApp]')?.dataset.testScriptState,
    focus: document.activeElement?.outerHTML.slice(0, 200),
    sliders: Array.from(document.querySelectorAll('[role=slider]'), one => [one.ariaLabel, one.ariaValueNow]),
    figures: Array.from(document.querySelectorAll('.js-plotly-plot'), plot => [
        plot._fullLayout?.title?.text, plot._fullData?.length, plot.querySelectorAll('.heatmaplayer image').length,
        plot.querySelectorAll('.xtick text').length,
    ]),
    text: document.querySelector('.stMain')?.innerText.slice(0, 2000),
})"""
# What speaks against a page for those who cannot see it, or see little: axe-core's serious rules, as far as they are
# about what the pages draw themselves. Names of buttons, inputs and links; of pictures; headings; contrast of texts.
OBSTACLES = """() => {
    const main = document.querySelector('.stMain'), found = [];
    const isSeen = element => element.checkVisibility() && element.getBoundingClientRect().width > 0;
    const named = element => [
        element.getAttribute('aria-label'), element.title, element.textContent, element.labels?.[0]?.textContent,
        ...(element.getAttribute('aria-labelledby') ?? '').split(' ')
            .map(id => document.getElementById(id)?.textContent),
    ].some(words => words?.trim());
    for (const element of document.querySelectorAll('.stApp :is(button, input, textarea, select, a[href])'))
        if (isSeen(element) && element.type !== 'hidden' && !named(element) && !element.closest('.modebar'))
            found.push('without a name: ' + element.outerHTML.slice(0, 120));
    for (const plot of document.querySelectorAll('.js-plotly-plot'))
        if (plot.getAttribute('role') !== 'figure' || !plot.getAttribute('aria-label'))
            found.push('a figure without a name');
    for (const picture of main.querySelectorAll('img'))
        if (!picture.hasAttribute('alt')) found.push('a picture without a text');
    const ranks = Array.from(main.querySelectorAll('h1, h2, h3, h4'), heading => Number(heading.tagName[1]));
    if (ranks.filter(rank => rank === 1).length !== 1) found.push('headings of the first rank: ' + ranks);
    ranks.forEach((rank, at) => { if (at && rank > ranks[at - 1] + 1) found.push('a rank is skipped: ' + ranks); });
    for (const table of main.querySelectorAll('.lines'))
        if (table.scrollHeight > table.clientHeight && table.tabIndex < 0) found.push('lines that no key reaches');
    if (!document.documentElement.lang) found.push('no language');
    const numbers = colour => colour.match(/[0-9.]+/g).map(Number);
    const luminance = channels => channels.slice(0, 3).map(part => part / 255)
        .map(share => share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4)
        .reduce((sum, share, at) => sum + share * [0.2126, 0.7152, 0.0722][at], 0);
    const ground = numbers(getComputedStyle(document.querySelector('.stApp')).backgroundColor);
    const words = '.note, [data-testid=stCaptionContainer] p, .headline p, .headline abbr, h1, h2, [role=tab] p';
    for (const element of main.querySelectorAll(words)) {
        if (!isSeen(element)) continue;
        let shown = 1;
        for (let at = element; at !== main; at = at.parentElement) shown *= Number(getComputedStyle(at).opacity);
        const own = numbers(getComputedStyle(element).color);
        const text = own.map((part, at) => part * shown + (1 - shown) * ground[at]);
        const pair = [luminance(text), luminance(ground)].sort((a, b) => a - b);
        const ratio = (pair[1] + 0.05) / (pair[0] + 0.05);
        if (ratio < 4.5) found.push(`contrast ${ratio.toFixed(1)}: ${element.textContent.slice(0, 40)}`);
    }
    return found;
}"""
# The clock is the page's own: a test that asks again and again sees a change up to half a second late.
CLOCK = """event => {
    window.started = undefined;
    window.before = new Set(Array.from(document.querySelectorAll('.heatmaplayer image'), image => image.href.baseVal));
    addEventListener(event, () => { window.started = performance.now(); }, {once: true, capture: true});
}"""
# Looked for at every frame: all pictures are others than before.
DRAWN_ANEW = """words => {
    const titles = Array.from(document.querySelectorAll('.js-plotly-plot .gtitle'), title => title.textContent);
    const images = Array.from(document.querySelectorAll('.heatmaplayer image'), image => image.href.baseVal);
    const anew = titles.some(title => title.includes(words)) && images.length
        && !images.some(one => window.before.has(one));
    return anew && window.started && performance.now() - window.started;
}"""
# A link to a page makes Streamlit look for its server below the page's own path before it looks at the root.
STREAMLIT_LOOKS_FOR_ITS_SERVER = re.compile(r"/\w+/_stcore/(health|host-config)$")


NEEDS_CHROMIUM = [
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs chromium: apt-get install chromium"),
]


@contextmanager
def served(
    project_root: Path,
    root: Path,
    *,
    program: Sequence[str] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[str]:
    """The explorer's address while it runs. program: what runs it, when it is not the checkout's."""
    if program is None:
        program = [sys.executable, "-m", "diffmamba_interp.explore", "--no-browser", "--root", str(root)]
    process, address = start_server(project_root, program, environment)
    try:
        yield address
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start_server(
    folder: Path, program: Sequence[str], environment: Mapping[str, str], attempts: int = 3, port_option: str = "--port"
) -> tuple[subprocess.Popen[bytes], str]:
    """A server that answers. Another one may take the free port first: then it ends, and is started on another."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [*program, port_option, str(port)],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=2) as answer:
                answer.read()
                return process, f"http://localhost:{port}"
        except OSError:
            time.sleep(0.05)
    if process.poll() is not None and attempts > 1:
        return start_server(folder, program, environment, attempts - 1, port_option)
    process.kill()
    raise RuntimeError(f"the explorer did not answer within {START_S} s (exit status {process.poll()})")


@dataclass
class Watched:
    """A page and its complaints: console errors, exceptions, and requests to anywhere but the explorer."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def state(self, expression: str, arg: Any = None) -> Any:
        """What a JavaScript function gives once that is true: it is waited for and read in the same evaluation."""
        try:
            return self.page.wait_for_function(expression, arg=arg).json_value()
        except PlaywrightTimeout as problem:
            where = f"{self.page.url}: {self.complaints}; {self.page.evaluate(SEEN)}"
            raise AssertionError(f"waited in vain for {arg!r} at {where}") from problem

    def comes_to(self, expression: str, expected: Any, arg: Any = None, *, wait_s: float = WAIT_S) -> None:
        """Wait until a JavaScript function gives `expected`, and gives it still a moment later: a page is drawn in
        steps, so that a single look may meet it between two of them."""
        deadline = time.monotonic() + wait_s
        n_seen = 0
        while n_seen < 2:
            self.settle()
            seen = self.page.evaluate(expression, arg)
            n_seen = n_seen + 1 if seen == expected else 0
            if not n_seen and time.monotonic() > deadline:
                raise AssertionError(f"{seen!r} and not {expected!r} at {self.page.url}: {self.complaints}")
            if n_seen < 2:
                self.page.wait_for_timeout(HOLD_MS)

    def figures(
        self, n: int, words: str = "", *, title: str = "", holds: str = "() => true", arg: Any = None
    ) -> list[dict[str, Any]]:
        """The page's figures once there are `n`, all drawn, and nothing is computed any more.

        words: stand on the page. title: stands in a figure's. holds: a function of the figures and `arg` that
        must be true. Of each figure: its title, the type of its axis, the values of its heat maps (`z`) and curves
        (`lines`).
        """
        return self.state(FIGURES.replace("HOLDS", holds), [n, words, title, arg])

    def settle(self, words: str = "") -> None:
        """Wait until nothing is computed any more, and `words` stand on the page."""
        self.state(SETTLED, words)

    def go_to(self, title: str) -> None:
        """Open a page by its link in the side bar."""
        link = self.page.get_by_test_id("stSidebarNavItems").get_by_role("link", name=title)
        self.until(link.click, lambda: expect(link).to_have_attribute("aria-current", "page", timeout=20_000))

    def slide(self, label: str, key: str) -> None:
        """Press a key on a slider."""
        slider = self.page.get_by_role("slider", name=label)
        before = slider.input_value()
        self.until(lambda: slider.press(key), lambda: expect(slider).not_to_have_value(before, timeout=20_000))

    def until(self, act: Callable[[], None], seen: Callable[[], None]) -> None:
        """Act until that is seen: what is drawn anew at the moment of a click or a key hears nothing of it."""
        for _ in range(2):
            act()
            with suppress(AssertionError):
                seen()
                return
        act()
        seen()

    def shows(self, words: str | re.Pattern[str]) -> None:
        """Wait until the page shows a text."""
        self.page.get_by_text(words).first.wait_for()

    def require_accessible(self, title: str) -> None:
        """That nothing drawn here keeps anybody out, and the window has the page's title."""
        self.comes_to(OBSTACLES, [])
        expect(self.page).to_have_title(f"{title} – Diff-Mamba explorer")

    def require_clean(self) -> None:
        assert self.complaints == []
        assert self.page.locator("[data-testid=stException]").count() == 0
        assert self.page.get_by_text("This is a fault of the explorer").count() == 0


@contextmanager
def opened(browser: Browser, address: str, **options: Any) -> Iterator[Watched]:
    """A page of 1280 x 800 at `address`, in a session of its own."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
    page = context.new_page()
    page.set_default_timeout(1000 * WAIT_S)
    watched = Watched(page)
    home = "/".join(address.split("/")[:3])

    def note_request(request: Any) -> None:
        if not request.url.startswith((home, home.replace("http", "ws"), "data:", "blob:")):
            watched.complaints.append(f"request to {request.url}")

    def note_message(message: Any) -> None:
        where = message.location.get("url", "")
        if message.type == "error" and not STREAMLIT_LOOKS_FOR_ITS_SERVER.search(where):
            watched.complaints.append(f"console: {message.text} ({where})")

    page.on("request", note_request)
    page.on("console", note_message)
    page.on("pageerror", lambda error: watched.complaints.append(f"exception: {error}"))
    page.goto(address)
    try:
        yield watched
    finally:
        context.close()


def wait_for_title(watched: Watched, words: str) -> None:
    watched.page.locator(".js-plotly-plot .gtitle", has_text=words).first.wait_for()


def open_choice(watched: Watched, label: str, name: str) -> Locator:
    """An option of a box, on the screen. A page that still moves closes the list: then it is opened again."""
    watched.settle()
    box = watched.page.get_by_role("combobox", name=label)
    option = watched.page.get_by_role("option", name=name, exact=True)
    for _ in range(20):
        if box.get_attribute("aria-expanded") != "true":
            box.click()
        try:
            option.wait_for(timeout=3_000)
            return option
        except PlaywrightTimeout:
            continue
    raise AssertionError(f"the box {label!r} showed no option {name!r}")


def choose(watched: Watched, label: str, name: str) -> None:
    """Take an option of a box; where its list is closed before the click, again."""
    for _ in range(20):
        with suppress(PlaywrightTimeout):
            return open_choice(watched, label, name).click(timeout=3_000)
    raise AssertionError(f"the option {name!r} of {label!r} could not be clicked")


def download(watched: Watched, button: Locator, path: Path) -> str:
    """Take a file away; returns the name that it is given. A page that is still being drawn has other files soon."""
    watched.settle()
    with watched.page.expect_download() as taken:
        button.click()
    taken.value.save_as(path)
    return taken.value.suggested_filename


def save_session(watched: Watched, path: Path) -> None:
    """Go to the Session page, once this one has kept its figures, and download its file."""
    watched.settle()
    watched.go_to("Session")
    watched.settle("The state of all widgets")
    download(watched, watched.page.get_by_role("button", name="Download the session"), path)


def start_clock(watched: Watched, event: str) -> None:
    """Let the next "keydown" or "click" on the page start the clock of `drawn_after_s`."""
    watched.page.evaluate(CLOCK, event)


def drawn_after_s(watched: Watched, words: str) -> float:
    """Seconds from the event until a figure with these words in its title, and new heat maps, is on the screen."""
    return watched.state(DRAWN_ANEW, words) / 1000
