"""The README's pictures of the explorer: `python tests/app/take_pictures.py [FOLDER]`, app/pictures by default."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from browser import CHROMIUM, CHROMIUM_ARGUMENTS, opened, served
from PIL import Image
from playwright.sync_api import sync_playwright

PROJECT = Path(__file__).resolve().parents[2]
MAX_BYTES = 150_000
PICTURES = {
    "overview": ("", "In memory", 1000, "light"),
    "attention": ("attention?source=needle&block=4", "What is read at position", 1330, "light"),
    "heads": ("attention?block=1&view=heads", "every head", 800, "dark"),
    "lens": ("lens?compare=difference", "Red: more in", 900, "light"),
    "needle": ("needle?needle_n=6", "exact contributions", 1700, "light"),
    "interventions": (
        "interventions?source=needle&length=256&swapped=3&maps=beside",
        "What comes next, after",
        1500,
        "light",
    ),
    "retrieval": ("retrieval", "excludes zero", 1060, "light"),
}
"""By name: address, words to wait for, height in pixels, theme."""

SETTLED_MS = 2500


def take(folder: Path) -> None:
    """Write every picture. Raises RuntimeError for one that is too large to keep."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as started, served(PROJECT, PROJECT) as address:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        for name, (page, words, height, theme) in PICTURES.items():
            with opened(browser, f"{address}/{page}", color_scheme=theme) as watched:
                watched.page.set_viewport_size({"width": 1280, "height": height})
                if name == "needle":
                    watched.page.get_by_role("button", name="Run", exact=True).click()
                watched.page.get_by_text(words).first.wait_for()
                watched.page.locator(".js-plotly-plot .main-svg").first.wait_for()
                watched.page.wait_for_timeout(SETTLED_MS)
                picture = Image.open(io.BytesIO(watched.page.screenshot()))
                watched.require_clean()
            file = folder / f"{name}.png"
            # 256 colours are enough for a page, at a third of the size.
            picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
            if file.stat().st_size > MAX_BYTES:
                raise RuntimeError(f"{file} has {file.stat().st_size:,} bytes: at most {MAX_BYTES:,} are kept.")
        browser.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT / "app" / "pictures")
