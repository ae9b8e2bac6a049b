"""The questions that intervene, lambda_causality and noise_robustness: what is compared with what, and what is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses.lambda_causality import report as lambda_report
from analyses.lambda_causality import run as lambda_run
from analyses.noise_robustness import report as noise_report
from analyses.noise_robustness import run as noise
from diffmamba_interp.analysis.conditions import CLEAN, Readings
from diffmamba_interp.analysis.page import RECORDS
from diffmamba_interp.analysis.prompts import PromptRecipe, cell_prompts
from diffmamba_interp.analysis.question import Question

COLUMNS = ("model", "kind", "where", "dose", "task", "length", "story", "n_labels", "right", "log_prob", "snr_db")
KINDS = {"lambda_causality": ({"scale"}, set()), "noise_robustness": ({"gaussian"}, {"tokens"})}
"""Of conditions, beside the clean one; and those of prompts with filler alone."""


def readings_of(lines: list[tuple[Any, ...]]) -> Readings:
    return Readings(dict(zip(COLUMNS, map(np.array, zip(*lines, strict=True)), strict=True)))


@pytest.mark.parametrize("recipe", ["builtin", "paper"])
@pytest.mark.parametrize("question", [lambda_run.QUESTION, noise.QUESTION], ids=list(KINDS))
def test_every_condition_is_measured_on_the_same_prompts_once(question: Question, recipe: str) -> None:
    readings = Readings.read(question.folder / recipe / RECORDS)
    always, in_filler = KINDS[question.folder.name]
    for task, length in readings.cells:
        stories = [readings.stories(key, task, length) for key in readings.keys(length)]
        assert all(same == stories[0] for same in stories)
        assert len(set(stories[0])) == len(stories[0])
        assert {key.kind for key in readings.keys(length)} == {CLEAN, *always, *(in_filler if length else ())}


def test_one_block_at_a_time_is_scaled_and_all_at_once() -> None:
    recipe = lambda_run.QUESTION.recipe_of(lambda_run.QUESTION.options())
    scaled = [(one.where, one.dose) for one in lambda_run.conditions(recipe, 3)[1:]]
    assert scaled[: len(recipe.factors)] == [("all", factor) for factor in recipe.factors]
    assert scaled[len(recipe.factors) :] == [(block, f) for f in recipe.block_factors for block in "012"]


def test_changes_are_paired_by_prompt_and_the_control_is_set_against_removal() -> None:
    # SNR as trained 10, 20, ...; without the subtrahend 5 lower; with twice as much 1 lower.
    lines = [
        (model, kind, "all", dose, "qa1", 0, f"{prompt:016x}", 6, int(shift > -5), -1.0, 10.0 * prompt + shift)
        for prompt in range(12)
        for model, kind, dose, shift in (
            ("diff-mamba2", CLEAN, float("nan"), 0.0),
            ("mamba2", CLEAN, float("nan"), -2.0),
            ("diff-mamba2", "scale", 0.0, -5.0),
            ("diff-mamba2", "scale", 2.0, -1.0),
        )
    ]
    found = lambda_report.cell(readings_of(lines), "qa1", 0)
    removed, doubled = found["all"]
    assert (removed["factor"], doubled["factor"]) == (0.0, 2.0)
    assert removed["change"]["snr_db"].value == removed["change"]["snr_db"].low == pytest.approx(-5.0)
    assert removed["change"]["right"].value == -1.0
    assert found["doubled_less_removed"]["snr_db"].value == pytest.approx(4.0)
    assert found["less_plain"]["snr_db"].value == pytest.approx(2.0)


def test_random_tokens_stand_among_the_filler_alone_and_are_no_labels() -> None:
    recipe = PromptRecipe(stories="generated", lengths=(256,), n=(2,), seed=7)
    samples = cell_prompts(recipe, Path(), "qa1", 256)
    for before, after in zip(samples, noise.with_random_filler(samples, 1.0, 4096, seed=7), strict=True):
        filler = {i for span in before.filler_spans for i in range(span.token_start, span.token_end)}
        changed = {i for i in range(before.n_tokens) if before.tokens[i] != after.tokens[i]}
        assert changed == filler
        labels = {token for tokens in before.label_tokens for token in tokens}
        assert not labels & {int(after.tokens[i]) for i in changed}


def test_losses_are_from_each_models_own_clean_answers() -> None:
    # Clean 10 and 20 dB; under noise both lose, mamba2 6 dB and diff-mamba2 2 dB.
    lines = [
        (model, kind, "all", dose, "qa1", 0, f"{prompt:016x}", 6, 1, -1.0, snr + prompt)
        for prompt in range(12)
        for model, kind, dose, snr in (
            ("mamba2", CLEAN, float("nan"), 10.0),
            ("mamba2", "gaussian", 10.0, 4.0),
            ("diff-mamba2", CLEAN, float("nan"), 20.0),
            ("diff-mamba2", "gaussian", 10.0, 18.0),
        )
    ]
    (level,) = noise_report.cell(readings_of(lines), "qa1", 0)["gaussian"]
    assert level["loss"]["mamba2"]["snr_db"].value == pytest.approx(-6.0)
    assert level["loss"]["diff-mamba2"]["snr_db"].value == pytest.approx(-2.0)
    assert level["less_loss"]["snr_db"].value == pytest.approx(4.0)
    assert level["difference"]["snr_db"].value == pytest.approx(14.0)


UP, NONE, DOWN = [0.2, 0.1, 0.3], [0.0, -0.1, 0.1], [-0.2, -0.3, -0.1]


@pytest.mark.parametrize(
    ("accuracy", "snr", "words"),
    [
        (DOWN, DOWN, "lowers both"),
        (NONE, UP, "not seen to do harm"),
        (NONE, DOWN, "harm in part**: accuracy undecided at 1k; SNR lowered at 1k"),
    ],
)
def test_the_verdict_follows_the_changes(accuracy: list[float], snr: list[float], words: str) -> None:
    dose = {"factor": 0.0, "change": {"right": accuracy, "snr_db": snr}}
    cell = {"n": 50, "length": 1024, "all": [dose], "doubled_less_removed": {"right": UP, "snr_db": DOWN}}
    said = lambda_report.verdict([cell])
    assert words in said
    assert "to accuracy less harm at 1k; to SNR more harm at 1k" in said


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((UP, UP), "**`diff-mamba2` loses less** accuracy"),
        ((DOWN, NONE), "**`mamba2` loses less** accuracy (at 1 of 2 levels, undecided at the others)"),
        ((UP, DOWN), "**mixed**"),
        ((NONE, NONE), "**undecided**"),
    ],
)
def test_the_verdict_follows_the_losses(found: tuple[list[float], list[float]], words: str) -> None:
    levels = [{"less_loss": {"right": one, "snr_db": NONE}} for one in found]
    said = noise_report.verdict([{"n": 50, "gaussian": levels, "tokens": []}])
    assert words in said
    assert "random tokens" not in said
