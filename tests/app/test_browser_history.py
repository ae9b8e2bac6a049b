"""The explorer in a real browser: the Back button, links, and what is copied from it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from playwright.sync_api import expect

from tests.app.browser import NEEDS_CHROMIUM, opened
from tests.app.conftest import IDS, MODEL

pytestmark = NEEDS_CHROMIUM
QUERY = f"model={quote(MODEL)}&ids={quote(IDS)}"


def test_every_change_is_one_entry_of_the_history_and_back_restores_it(browser, address: str) -> None:
    with opened(browser, f"{address}/attention?{QUERY}&block=99") as watched:
        page = watched.page

        def n_entries() -> int:
            watched.settle()
            return page.evaluate("history.length")

        watched.figures(1, title="Block 0")
        # What there is not leaves the address, without an entry of its own.
        page.wait_for_url(lambda url: "block" not in url)
        n = n_entries()
        watched.slide("Block", "ArrowRight")
        watched.figures(1, title="Block 1")
        page.wait_for_url("**block=1**")
        assert n_entries() == n + 1
        watched.go_to("Lens")
        watched.settle("Click a cell for its list")
        page.wait_for_url("**/lens?**ids=**")
        assert n_entries() == n + 2
        page.go_back()
        watched.figures(1, title="Block 1")
        page.go_back()
        watched.figures(1, title="Block 0")
        expect(page.get_by_role("slider", name="Block")).to_have_value("0")
        page.go_forward()
        watched.figures(1, title="Block 1")
        assert n_entries() == n + 2
        watched.require_clean()


def test_the_link_that_is_copied_opens_the_view(browser, address: str) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    with opened(browser, f"{address}/attention?{QUERY}&block=2", permissions=permissions) as watched:
        watched.figures(1, title="Block 2")
        button = watched.page.locator("#copy-link")
        # It says so for two seconds only.
        watched.until(button.click, lambda: expect(button).to_have_text("Link copied", timeout=5_000))
        link = watched.page.evaluate("navigator.clipboard.readText()")
        assert link == watched.page.url
        watched.page.goto(link)
        watched.figures(1, title="Block 2")
        watched.require_clean()


def test_the_server_listens_to_this_machine_alone(address: str) -> None:
    port = f"{int(address.rpartition(':')[2]):04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    listening = [
        place.partition(":")[0] for _, place, _, state, *_ in lines if place.endswith(f":{port}") and state == "0A"
    ]
    assert listening == ["0100007F"]  # 127.0.0.1
