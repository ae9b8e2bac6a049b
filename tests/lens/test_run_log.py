"""The log of a run, across a crash and with other reporters."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from diffmamba_interp.lens import LensRecipe, StepRecord
from diffmamba_interp.lens.run_log import RunLog


def record(step: int) -> StepRecord:
    return StepRecord(step=step, loss_nats=(1.0, 3.0), gradient_norm=0.5, learning_rate=0.1, n_tokens=64)


def test_a_resumed_log_drops_the_steps_that_are_taken_again_and_a_torn_line(tmp_path: Path, recipe: LensRecipe) -> None:
    path = tmp_path / "log.jsonl"
    with RunLog(path, recipe, step=0) as log:
        for step in (1, 2, 3):
            log.write(record(step), tokens_per_s=100.0)
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    with RunLog(path, recipe, step=2) as log:
        log.write(record(3), tokens_per_s=120.0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[2] == {
        "step": 3,
        "loss_nats": [1.0, 3.0],
        "gradient_norm": 0.5,
        "learning_rate": 0.1,
        "n_tokens": 64,
        "mean_loss_nats": 2.0,
        "tokens_per_s": 120.0,
    }


def test_a_reporter_that_is_not_installed_says_what_to_install(
    tmp_path: Path, recipe: LensRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        RunLog(tmp_path / "log.jsonl", replace(recipe, report_to="wandb"), step=0)


def test_losses_go_to_the_reporter_by_block(
    tmp_path: Path, recipe: LensRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, float] = {}

    class Writer:
        def __init__(self, folder: str) -> None:
            assert Path(folder).parent == tmp_path

        def add_scalar(self, name: str, value: float, step: int) -> None:
            seen[name] = value

        def close(self) -> None:
            seen["closed"] = 1.0

    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with RunLog(tmp_path / "log.jsonl", replace(recipe, report_to="tensorboard"), step=0) as log:
        log.write(record(1), tokens_per_s=1.0)
    assert seen["loss_nats/translator_1"] == 3.0
    assert seen["closed"]
