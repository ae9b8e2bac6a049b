import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from diffmamba_interp.lm_training.recipe import RESUMABLE_CHANGES, EvaluationRecipe, Recipe
from diffmamba_interp.lm_training.snapshots import (
    Snapshot,
    read_metrics,
    read_snapshot,
    require_same_run,
    write_snapshot,
)
from diffmamba_interp.runs import snapshots
from diffmamba_interp.runs.settings import to_values
from diffmamba_interp.runs.snapshots import SNAPSHOT_FILE
from tests.lm_training.tiny import tiny_recipe


def snapshot(recipe: Recipe, step: int = 3) -> Snapshot:
    weights = {"w": torch.arange(3.0)}
    return Snapshot(
        step=step,
        model=weights,
        optimiser={"state": {}, "param_groups": []},
        recipe=json.loads(json.dumps(to_values(recipe))),
        data_sha256={"a.npy": "1", "tokenizer": "2"},
        rng=torch.get_rng_state(),
        tokens=12,
        seconds=1.5,
    )


def test_a_snapshot_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = snapshot(tiny_recipe(tmp_path))
    write_snapshot(tmp_path, written)
    read = read_snapshot(tmp_path)
    assert read is not None
    assert torch.equal(read.model["w"], written.model["w"])
    assert torch.equal(read.rng, written.rng)
    assert (read.step, read.recipe, read.data_sha256, read.tokens) == (3, written.recipe, written.data_sha256, 12)


def test_a_folder_without_a_snapshot_has_none(tmp_path: Path) -> None:
    assert read_snapshot(tmp_path) is None


def test_a_snapshot_of_before_sums_is_continued(tmp_path: Path) -> None:
    written = snapshot(tiny_recipe(tmp_path))
    torch.save(written.__dict__, tmp_path / SNAPSHOT_FILE)
    read = read_snapshot(tmp_path)
    assert read is not None
    assert read.step == 3
    require_same_run(read, tiny_recipe(tmp_path), written.data_sha256, tmp_path)


def test_a_snapshot_of_another_command_is_refused(tmp_path: Path) -> None:
    snapshots.write_snapshot(tmp_path, {"recipe": {}, "identity": {}, "state": {}})
    with pytest.raises(ValueError, match=r"snapshot.pt is no snapshot of this command: delete it to start over"):
        read_snapshot(tmp_path)


def test_a_crash_while_writing_leaves_the_old_snapshot_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_snapshot(tmp_path, snapshot(tiny_recipe(tmp_path), step=3))

    def crash(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="No space left"):
        write_snapshot(tmp_path, snapshot(tiny_recipe(tmp_path), step=4))
    read = read_snapshot(tmp_path)
    assert read is not None
    assert read.step == 3
    assert [file.name for file in tmp_path.iterdir()] == [SNAPSHOT_FILE]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimiser__lr": 1.0}, "optimiser.lr was 0.003, is 1.0"),
        ({"seed": 7}, "seed was 0, is 7"),
        ({"data__retrieval": None}, "data.retrieval.weight was 1.0, is not set"),
        ({"optimiser__clip": None}, "optimiser.clip was 1.0, is not set"),
        ({"optimiser__betas": (0.5, 0.9)}, r"optimiser.betas was \[0.9, 0.95\], is \[0.5, 0.9\]"),
    ],
    ids=str,
)
def test_another_recipe_is_refused_with_the_fields_that_differ(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    saved = snapshot(tiny_recipe(tmp_path))
    with pytest.raises(ValueError, match=f"holds a run of another recipe: .*{message}.* or choose another --out"):
        require_same_run(saved, tiny_recipe(tmp_path, **change), saved.data_sha256, tmp_path)


def test_a_changed_part_of_the_mixture_is_named_by_its_place(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    text = (dataclasses.replace(recipe.data.text[0], weight=2.0),)
    with pytest.raises(ValueError, match=r"data.text\[0\].weight was 1.0, is 2.0\."):
        require_same_run(snapshot(recipe), tiny_recipe(tmp_path, data__text=text), {"a.npy": "1"}, tmp_path)


def test_a_snapshot_of_before_there_was_a_field_has_its_default(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    older = snapshot(recipe)
    for part in older.recipe["data"]["text"]:
        del part["skip_empty"]
    require_same_run(older, recipe, older.data_sha256, tmp_path)
    text = (dataclasses.replace(recipe.data.text[0], skip_empty=True),)
    with pytest.raises(ValueError, match=r"data.text\[0\].skip_empty was false, is true"):
        require_same_run(older, tiny_recipe(tmp_path, data__text=text), older.data_sha256, tmp_path)


def test_what_does_not_decide_the_weights_may_change(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "max_minutes": 1.0,
        "workers": 2,
        "log_every": 3,
        "snapshot_every": 9,
        "export": ("bf16",),
        "evaluation": EvaluationRecipe(),
        "accumulation": 2,
        "cuda_graph": False,
    }
    assert set(values) == set(RESUMABLE_CHANGES)
    saved = snapshot(tiny_recipe(tmp_path))
    require_same_run(saved, tiny_recipe(tmp_path, **values), saved.data_sha256, tmp_path)


def test_other_data_is_refused_with_the_files_that_changed(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    with pytest.raises(ValueError, match=r"other data: a.npy, b.npy changed since\. Choose another --out"):
        require_same_run(snapshot(recipe), recipe, {"a.npy": "0", "b.npy": "1", "tokenizer": "2"}, tmp_path)


def test_the_last_evaluation_is_read_from_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_metrics(path) == (-1, {})
    path.write_text(
        '{"step": 1, "loss": 2.0}\n{"step": 2, "accuracy/x": 0.5}\n{"step": 3, "loss": 1.0}\n{"step": 4, "l'
    )
    assert read_metrics(path) == (2, {"accuracy/x": 0.5})
