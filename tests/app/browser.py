"""The explorer in a real browser: a server of its own, Debian's chromium, and a record of what went wrong in it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page
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
START_S = 60.0
FIGURE = ".js-plotly-plot .heatmaplayer image"
DRAWN = """() => {
    const plot = document.querySelector('.js-plotly-plot');
    const rows = trace => Array.from(trace.z, row => Array.from(row));
    return {title: plot._fullLayout.title.text, z: plot._fullData.filter(trace => trace.z).map(rows)};
}"""
# The clock is the page's own: a test that asks again and again sees a change up to half a second late.
CLOCK = """event => {
    window.started = window.drawn = undefined;
    window.before = new Set(Array.from(document.querySelectorAll('.heatmaplayer image'), image => image.href.baseVal));
    addEventListener(event, () => { window.started = performance.now(); }, {once: true, capture: true});
}"""
# All pictures are others than before, and the frame that shows them is out.
DRAWN_ANEW = """words => new Promise(done => {
    const look = () => {
        const title = document.querySelector('.js-plotly-plot .gtitle');
        const images = Array.from(document.querySelectorAll('.heatmaplayer image'), image => image.href.baseVal);
        const anew = title?.textContent.includes(words) && images.length && !images.some(one => window.before.has(one));
        requestAnimationFrame(anew ? () => setTimeout(() => done(performance.now() - window.started)) : look);
    };
    look();
})"""
# A link to a page makes Streamlit look for its server below the page's own path before it looks at the root.
STREAMLIT_LOOKS_FOR_ITS_SERVER = re.compile(r"/\w+/_stcore/(health|host-config)$")


NEEDS_CHROMIUM = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs chromium: apt-get install chromium"),
]


@contextmanager
def served(project_root: Path, root: Path) -> Iterator[str]:
    """The explorer's address while it runs."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app/main.py", "--server.headless=true"]
    command += [f"--server.port={port}", "--", "--root", str(root)]
    process = subprocess.Popen(
        command,
        cwd=project_root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_up(f"http://localhost:{port}/_stcore/health", process)
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def wait_until_up(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2) as answer:
                answer.read()
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the explorer did not answer within {START_S} s (exit status {process.poll()})")


@dataclass
class Watched:
    """A page and its complaints: console errors, exceptions, and requests to anywhere but the explorer."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def figure(self) -> dict[str, Any]:
        """Title, values of the panels and number of panels of the drawn figure."""
        self.page.locator(FIGURE).first.wait_for()
        return self.page.evaluate(DRAWN)

    def require_clean(self) -> None:
        assert self.complaints == []
        assert self.page.locator("[data-testid=stException]").count() == 0


@contextmanager
def opened(browser: Browser, address: str, **options: Any) -> Iterator[Watched]:
    """A page of 1280 x 800 at `address`, in a session of its own."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
    page = context.new_page()
    page.set_default_timeout(30_000)
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
    """An option of a box, on the screen. A page that is still being drawn closes the list: then it is opened again."""
    option = watched.page.get_by_role("option", name=name, exact=True)
    for _ in range(10):
        watched.page.get_by_role("combobox", name=label).click()
        try:
            option.wait_for(timeout=3_000)
            return option
        except PlaywrightTimeout:
            watched.page.keyboard.press("Escape")
    raise AssertionError(f"the box {label!r} showed no option {name!r}")


def save_session(watched: Watched, path: Path) -> None:
    """Go to the Session page and download its file."""
    watched.page.get_by_role("link", name="Session").click()
    with watched.page.expect_download() as download:
        watched.page.get_by_role("button", name="Download the session").click()
    download.value.save_as(path)


def start_clock(watched: Watched, event: str) -> None:
    """Let the next "keydown" or "click" on the page start the clock of `drawn_after_s`."""
    watched.page.evaluate(CLOCK, event)


def drawn_after_s(watched: Watched, words: str) -> float:
    """Seconds from the event until a figure with these words in its title, and new heat maps, is on the screen."""
    return watched.page.evaluate(DRAWN_ANEW, words) / 1000
