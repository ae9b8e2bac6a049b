"""Do the needle findings of the bundled pair hold in novels that no training saw, over novels as well as stories?

    python analyses/unseen_novels/run.py --recipe builtin      generated stories in generated texts
    python analyses/unseen_novels/run.py --recipe unseen       held-out bAbI stories in 20 unseen novels, from --data

For every prompt and model: SNR inside the blocks and at the output, the stage of formation, whether the answer is the
most probable label, and the share of noise in what is written to the answer. Every story is hidden in several novels.
Writes records.parquet, results.json and figures into a folder named after the recipe, then README.md.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np

from analyses.unseen_novels import report
from diffmamba_interp.analysis.crossed_prompts import crossed_prompts_of, crossed_question
from diffmamba_interp.analysis.prompts import keep_lines
from diffmamba_interp.analysis.question import Asked
from diffmamba_interp.implicit_attention.allocation import CLASSES, DIRECTIONS, NOISE, PICTURES, allocate_prompts
from diffmamba_interp.lens import demo_lens_folder, load_demo_lens
from diffmamba_interp.lens.card import lens_sha256
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName
from diffmamba_interp.needle import needle_trajectory
from diffmamba_interp.stages import formation_stage

BATCH_TOKENS = {"cpu": 8_192, "cuda": 262_144}
MAX_SAMPLES = {"cpu": 64, "cuda": 512}
FORMED_DB = 7.0


def measure(asked: Asked, name: DemoName, task: str, length: int) -> dict[str, list[Any]]:
    """One line per prompt: who asked it (task, story, filler), then `report.MEASURES`."""
    model = asked.load(name)
    samples, fillers = crossed_prompts_of(asked, task, length)
    trajectory = needle_trajectory(
        model,
        load_demo_lens(name, model),
        samples,
        name=name,
        batch_tokens=asked.by_device(BATCH_TOKENS),
        max_samples=asked.by_device(MAX_SAMPLES),
    )
    snr = trajectory.snr_db[0]
    allocation = allocate_prompts(model, samples, batch_tokens=asked.options.size)
    mass = allocation.mass[:, :, :, PICTURES.index("net")].nan_to_num(0.0).sum(dim=2)  # prompt direction span_class
    share = (mass / mass.sum(dim=-1, keepdim=True)).numpy()
    noise = share[..., [CLASSES.index(kind) for kind in NOISE]].sum(axis=-1)
    measured = {
        "snr_inner_db": snr[:, 1:-1].mean(axis=1),
        "snr_output_db": snr[:, -1],
        "formation": formation_stage(snr >= FORMED_DB),
        "right": trajectory.measure("is_right")[0, :, -1],
        **{f"noise_{direction}": noise[:, place] for place, direction in enumerate(DIRECTIONS)},
    }
    return {
        "model": [name] * len(samples),
        "task": [sample.task for sample in samples],
        "length": [sample.length for sample in samples],
        "story": [sample.story_key for sample in samples],
        "filler": fillers,
        **{name: np.asarray(measured[name], dtype=np.float64).tolist() for name in report.MEASURES},
    }


def lenses_of(asked: Asked) -> dict[str, Any]:
    return {"lenses": {model: lens_sha256(demo_lens_folder(model)) for model in DEMO_NAMES}}


QUESTION = crossed_question(
    measure=measure,
    about=lenses_of,
    keep=partial(keep_lines, decimals=(5, 3), snr_decimals=(4, 2)),
    page=report.PAGE,
)


if __name__ == "__main__":
    sys.exit(QUESTION.main())
