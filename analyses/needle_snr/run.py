"""Does the answer stand out more from its distractors in Diff-Mamba's blocks? (Fig. 5 of arXiv 2507.06204)

    python analyses/needle_snr/run.py --recipe builtin      generated stories in generated text
    python analyses/needle_snr/run.py --recipe paper        held-out bAbI stories in held-out novels, from --data

Where time on a GPU is short, all that needs none can be done before and after, elsewhere:

    ... --recipe paper --prepare FILE
    ... --recipe paper --samples FILE --device cuda --out DIR --records-only
    ... --recipe paper --from-records DIR/paper

Writes records.parquet, results.json and figures into a folder named after the recipe, then README.md.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from analyses.needle_snr import report
from diffmamba_interp.analysis.prompts import PromptRecipe, keep_lines, prompt_question, prompts_of
from diffmamba_interp.analysis.question import Asked
from diffmamba_interp.lens import LogitLens, demo_lens_folder, load_demo_lens
from diffmamba_interp.lens.card import lens_sha256
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName
from diffmamba_interp.needle import needle_trajectory

BATCH_TOKENS = {"cpu": 8_192, "cuda": 262_144}
MAX_SAMPLES = {"cpu": 64, "cuda": 512}


def measure(asked: Asked, name: DemoName, task: str, length: int) -> dict[str, list[Any]]:
    """One line per lens and prompt: at every stage the ratio in dB and the answer's log-probability in nats."""
    model, samples = asked.load(name), prompts_of(asked, task, length)
    trajectory = needle_trajectory(
        model,
        {"tuned": load_demo_lens(name, model), "logit": LogitLens.from_model(model)},
        samples,
        name=name,
        batch_tokens=asked.by_device(BATCH_TOKENS),
        max_samples=asked.by_device(MAX_SAMPLES),
    )
    snr, log_p = trajectory.snr_db, trajectory.measure("log_probability")
    n_lenses = len(trajectory.lenses)
    columns: dict[str, list[Any]] = {
        "model": [name] * n_lenses * len(samples),
        "lens": [lens for lens in trajectory.lenses for _ in samples],
        "task": [sample.task for sample in samples] * n_lenses,
        "length": [sample.length for sample in samples] * n_lenses,
        "story": [sample.story_key for sample in samples] * n_lenses,
    }
    for stage in range(len(trajectory.stages)):
        columns[f"snr_db_{stage}"] = snr[:, :, stage].ravel().tolist()
        columns[f"log_p_{stage}"] = log_p[:, :, stage].ravel().tolist()
    return columns


def lenses_of(asked: Asked) -> dict[str, Any]:
    return {"lenses": {model: lens_sha256(demo_lens_folder(model)) for model in DEMO_NAMES}}


ORDER = ("task", "length", "story", "lens", "model")
"""The lines of one prompt are neighbours."""

QUESTION = prompt_question(
    recipe=PromptRecipe,
    measure=measure,
    about=lenses_of,
    keep=partial(keep_lines, order=ORDER, decimals=(4, 2), snr_decimals=(4, 0)),
    page=report.PAGE,
)


if __name__ == "__main__":
    sys.exit(QUESTION.main())
