"""What waiting for the explorer costs, in Debian's chromium on this machine:

    python benchmarks/explorer.py [--rounds 6]

First page: from `streamlit run` until the first figure is drawn, in a new server and a new browser session each time.
Another block, another head: on the Attention page, 512 tokens by position, from the key press or click until all three
heat maps are new on the screen, by the page's own clock.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "tests" / "app"))

from browser import (  # noqa: E402
    CHROMIUM,
    CHROMIUM_ARGUMENTS,
    drawn_after_s,
    open_choice,
    opened,
    served,
    start_clock,
    wait_for_title,
)

N_BLOCKS = 12
ATTENTION = "attention?model=bundled:diff-mamba2&source=needle&length=512&view=positions&block=0"


def first_page(browser: Browser) -> float:
    start = time.perf_counter()
    with served(PROJECT, PROJECT) as address, opened(browser, address) as watched:
        watched.page.locator(".js-plotly-plot .main-svg").first.wait_for()
        return time.perf_counter() - start


def other_blocks(browser: Browser, address: str, rounds: int) -> Iterator[float]:
    with opened(browser, f"{address}/{ATTENTION}") as watched:
        wait_for_title(watched, "Block 0")
        slider = watched.page.get_by_role("slider", name="Block")
        for block in range(1, min(rounds + 1, N_BLOCKS)):
            watched.page.wait_for_timeout(1500)
            start_clock(watched, "keydown")
            slider.press("ArrowRight")
            yield drawn_after_s(watched, f"Block {block}:")


def other_heads(browser: Browser, address: str, rounds: int) -> Iterator[float]:
    with opened(browser, f"{address}/{ATTENTION}") as watched:
        wait_for_title(watched, "Block 0")
        for head in range(min(rounds, N_BLOCKS)):
            watched.page.wait_for_timeout(1500)
            option = open_choice(watched, "Heads", f"head {head}")
            start_clock(watched, "click")
            option.click()
            yield drawn_after_s(watched, f"head {head},")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    rounds = parser.parse_args().rounds
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        report("first page", [first_page(browser) for _ in range(min(rounds, 3))])
        with served(PROJECT, PROJECT) as address:
            report("another block", list(other_blocks(browser, address, rounds)))
            report("another head", list(other_heads(browser, address, rounds)))
        browser.close()


def report(name: str, seconds: list[float]) -> None:
    print(f"{name:14s} {statistics.median(seconds):6.2f} s ({min(seconds):.2f} to {max(seconds):.2f})", flush=True)


if __name__ == "__main__":
    main()
