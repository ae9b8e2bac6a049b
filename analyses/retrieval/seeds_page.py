"""SEEDS.md: what `train_lm` measured at the end of the runs with other training seeds.

    python analyses/retrieval/seeds_page.py

From training/<model>-seed<n>/results.json.
"""

from __future__ import annotations

import json
from pathlib import Path

from diffmamba_interp.drawing.labels import length_name
from diffmamba_interp.files.atomic import write_text
from diffmamba_interp.models.demo import DEMO_NAMES

HERE = Path(__file__).parent
SEEDS = (0, 1, 2, 3, 4)
SHOWN = ("real_qa1_0", "real_qa1_1024", "real_qa2_0", "real_qa3_0", "real_qa4_0", "real_qa5_0")


def main() -> None:
    write_text(HERE / "SEEDS.md", page())


def page() -> str:
    """The page's text."""
    lines = [
        "# Training seeds",
        "",
        "What `train_lm` measured at the end of each run: accuracy on 24 held-out bAbI stories a cell, so a cell",
        "is good to about 0.2. Seed 0 is the bundled pair; the others were trained by the same recipe, and read along",
        "the way: see [`analyses/training`](../training/README.md).",
        "",
        "| model | seed | tokens | " + " | ".join(map(title, SHOWN)) + " |",
        "| --- | --- | --- |" + " --- |" * len(SHOWN),
    ]
    for name in DEMO_NAMES[::-1]:
        for seed in SEEDS:
            made = json.loads((folder(name, seed) / "results.json").read_text(encoding="utf-8"))
            shares = " | ".join(f"{made['metrics'][f'accuracy/{one}']:.2f}" for one in SHOWN)
            lines.append(f"| {name} | {made['seed']} | {made['tokens'] / 1e6:.0f}M | {shares} |")
    return "\n".join(lines) + "\n"


def title(name: str) -> str:
    """`real_qa1_1024` as "qa1 1k"."""
    _, task, length = name.split("_")
    return f"{task} {length_name(int(length))}"


def folder(name: str, seed: int) -> Path:
    return HERE / "training" / (name if seed == 0 else f"{name}-seed{seed}")


if __name__ == "__main__":
    main()
