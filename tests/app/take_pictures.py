"""The README's pictures of the explorer: `python tests/app/take_pictures.py [FOLDER [NAME ...]]`; app/pictures, all."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

from browser import CHROMIUM, CHROMIUM_ARGUMENTS, opened, served
from PIL import Image
from playwright.sync_api import sync_playwright

PROJECT = Path(__file__).resolve().parents[2]
MAX_BYTES = 150_000
PICTURES = {
    "overview": ("", 1, "In memory", 1000, "light"),
    "attention": ("attention", 2, "What is read at position", 1060, "light"),
    "heads": ("attention?block=1&view=heads", 2, "every head", 800, "dark"),
    "lens": ("lens?compare=difference", 1, "Red: more in", 900, "light"),
    "needle": ("needle?needle_n=6", 5, "exact contributions", 1700, "light"),
    "interventions": (
        "interventions?source=needle&length=256&swapped=3&maps=beside",
        4,
        "What comes next, after",
        1500,
        "light",
    ),
    "retrieval": ("retrieval", 2, "excludes zero", 1060, "light"),
}
"""By name: address, number of figures, words to wait for, height in pixels, theme."""


def take(folder: Path, wanted: Sequence[str] = ()) -> None:
    """Write the pictures of these names, or every one. Raises RuntimeError for one that is too large to keep."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as started, served(PROJECT, PROJECT) as address:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        for name in wanted or PICTURES:
            page, n, words, height, theme = PICTURES[name]
            with opened(browser, f"{address}/{page}", color_scheme=theme) as watched:
                watched.page.set_viewport_size({"width": 1280, "height": height})
                if name == "needle":
                    watched.page.get_by_role("button", name="Run", exact=True).click()
                watched.figures(n, words)
                picture = Image.open(io.BytesIO(watched.page.screenshot(animations="disabled")))
                watched.require_clean()
            file = folder / f"{name}.png"
            # 64 colours are enough for a page, at a quarter of the size; coverage keeps the rare ones of the scales.
            colours = {"method": Image.Quantize.MAXCOVERAGE, "dither": Image.Dither.NONE}
            picture.convert("RGB").quantize(64, **colours).save(file, optimize=True)
            if file.stat().st_size > MAX_BYTES:
                raise RuntimeError(f"{file} has {file.stat().st_size:,} bytes: at most {MAX_BYTES:,} are kept.")
        browser.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT / "app" / "pictures", sys.argv[2:])
