"""Recipes are read strictly, records and results come back as they were written."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from diffmamba_interp.analysis.results import (
    estimate_from,
    provenance,
    read_recipe,
    read_records,
    read_results,
    write_records,
    write_results,
)
from diffmamba_interp.models.demo import DEMO_NAMES, demo_folder
from diffmamba_interp.runs.provenance import weights_sha256
from diffmamba_interp.statistics import Estimate

NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    lengths: tuple[int, ...]
    seed: int
    text: str = "generated"


def recipe_file(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_a_recipe_is_a_table_of_the_file(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, "[a]\nlengths = [1, 2]\nseed = 7\n[b]\nlengths = []\nseed = 8\ntext = 'novels'\n")
    assert read_recipe(path, "a", Recipe) == Recipe(lengths=(1, 2), seed=7)
    assert read_recipe(path, "b", Recipe) == Recipe(lengths=(), seed=8, text="novels")


@pytest.mark.parametrize(
    ("table", "name", "words"),
    [
        ("[a]\nseed = 1", "b", "choose one of a"),
        ("[a]\nlengths = []\nseed = 1\nsize = 2", "a", "unknown keys size. Known: lengths, seed, text"),
        ("[a]\nseed = 1", "a", "missing keys lengths. Known: lengths, seed, text"),
    ],
)
def test_a_wrong_recipe_is_told_what_is_right(tmp_path: Path, table: str, name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_recipe(recipe_file(tmp_path, table), name, Recipe)


def test_provenance_names_models_recipe_seed_and_data(tmp_path: Path) -> None:
    (tmp_path / "novels").mkdir()
    (tmp_path / "novels" / "one.txt").write_text("Once.")
    (tmp_path / "stories").write_bytes(b"x")
    data = {name: tmp_path / name for name in ("novels", "stories")}
    made = provenance("paper", Recipe(lengths=(1,), seed=7), device="cpu", data=data)
    assert made["models"] == {name: weights_sha256(demo_folder(name)) for name in DEMO_NAMES}
    assert made["recipe"] == {"name": "paper", "lengths": (1,), "seed": 7, "text": "generated"}
    assert (made["seed"], made["device"]) == (7, "cpu")
    assert {len(digest) for digest in made["data"].values()} == {64}
    (tmp_path / "novels" / "one.txt").write_text("Twice.")
    again = provenance("paper", Recipe(lengths=(1,), seed=7), device="cpu", data=data)
    assert again["data"]["novels"] != made["data"]["novels"]
    assert "data" not in provenance("builtin", Recipe(lengths=(1,), seed=7), device="cpu")


def test_results_hold_estimates_as_three_numbers_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    found = {"cells": [{"n": np.int64(3), "share": Estimate(0.123456789, 0.1, NAN)}], "row": np.array([1.0, 2.5])}
    write_results(path, {"seed": 7}, found)
    assert '"share":[0.1235,0.1,null]' in path.read_text()
    read = read_results(path)
    assert read == {
        "provenance": {"seed": 7},
        "cells": [{"n": 3, "share": [0.1235, 0.1, None]}],
        "row": [1.0, 2.5],
    }
    share = estimate_from(read["cells"][0]["share"])
    assert (share.value, share.low) == (0.1235, 0.1)
    assert math.isnan(share.high)


def test_texts_in_results_are_left_as_they_are(tmp_path: Path) -> None:
    words = {"text": "[1,  2]\n[3]", "names": ["a", "b"]}
    write_results(tmp_path / "results.json", {}, words)
    assert json.loads((tmp_path / "results.json").read_text()) == {"provenance": {}, **words}


def test_records_come_back_rounded_with_gaps(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    columns = {"model": ["a", "b"], "story": ["12e4", "0099"], "n": [1, 2], "share": np.array([0.123456, NAN])}
    write_records(path, columns)
    read = read_records(path)
    assert read["story"].tolist() == ["12e4", "0099"]
    assert read["n"].tolist() == [1.0, 2.0]
    assert read["share"][0] == 0.1235
    assert math.isnan(read["share"][1])
    assert pq.read_table(path).column_names == list(columns)


def test_decimals_are_written_as_such_with_no_more_places_than_they_need(tmp_path: Path) -> None:
    write_records(tmp_path / "a", {"db": [3.0, -12.0], "share": [0.25, NAN], "ratio": [1.0, math.inf]}, decimals=3)
    table = pq.read_table(tmp_path / "a")
    kinds = [str(table.schema.field(name).type) for name in ("db", "share")]
    assert kinds == ["decimal128(18, 0)", "decimal128(18, 2)"]
    assert table["share"].null_count == 1
    assert read_records(tmp_path / "a")["ratio"].tolist() == [1.0, math.inf]


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_records(tmp_path / name, {"x": [1.0, -0.00001]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_records(tmp_path / "a")["x"].tolist() == [1.0, 0.0]


def test_columns_of_different_lengths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="different lengths"):
        write_records(tmp_path / "a", {"x": [1], "y": [1, 2]})
