"""The ablations: which models are compared, that a run is what its recipe says, the queue, and what the page says."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses.ablations import material, report, run, summary, training, work_queue
from analyses.ablations.cells import CELLS, Unit, config_of, runs_of
from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.analysis.page import RECORDS
from diffmamba_interp.analysis.results import read_recipe, read_records, write_records
from diffmamba_interp.needle.records import load_samples
from diffmamba_interp.runs.provenance import PACKAGE
from diffmamba_interp.text import TokenStream, load_tokenizer
from diffmamba_interp.text.documents import split_of_hash

HERE = Path(report.__file__).parent
UNIT = ("diff-mamba-bare", 4, 0)
"""Of which head by head nothing is read on the way: that takes longest."""


def recipe_of(name: str) -> training.Recipe:
    return read_recipe(HERE / "recipe.toml", name, training.Recipe)


@pytest.fixture(scope="module")
def builtin() -> training.Recipe:
    return recipe_of("builtin")


@pytest.fixture(scope="module")
def folder(builtin: training.Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The material of the small recipe, unpacked; its file lies beside the folder."""
    where = tmp_path_factory.mktemp("ablations")
    material.prepare(builtin, run.RunOptions(), where / "file")
    return material.unpack(where / "file", where / "unpacked", builtin)


@pytest.fixture(scope="module")
def rows(builtin: training.Recipe, folder: Path) -> training.Rows:
    return training.rows_of(builtin, 0, folder)


@pytest.fixture(scope="module")
def tables(builtin: training.Recipe, folder: Path, rows: training.Rows) -> training.Tables:
    return training.measure(builtin, UNIT, folder, rows, device="cpu")


def test_the_nine_cells_of_table_2_are_nine_models_of_one_size() -> None:
    paper = recipe_of("paper")
    models = {}
    for name, cell in CELLS.items():
        with torch.device("meta"):
            models[name] = HookedMamba(config_of(name, paper, n_layers=12, d_vocab=4096))
        assert (cell.differential is None) == (models[name].cfg.differential is None)
    sizes = {name: sum(weight.numel() for weight in model.parameters()) for name, model in models.items()}
    nine = [name for name, cell in CELLS.items() if cell.group == "table 2"]
    assert len(nine) == 9
    assert len({repr(models[name].cfg) for name in CELLS}) == len(CELLS)
    largest = max(sizes[name] for name in nine)
    assert all(sizes[name] > 0.97 * largest for name in nine)
    assert sizes["diff-mamba"] / sizes["mamba"] == pytest.approx(1, abs=0.002)
    # The published route: the more blocks are differential, the more parameters.
    assert sizes["quarter"] < sizes["alternate"] < sizes["diff-mamba"]


def test_runs_come_seed_by_seed_and_the_nine_cells_first() -> None:
    order = runs_of(list(CELLS), [12], [0, 1])
    assert [seed for _, _, seed in order] == [0] * 9 + [1] * 9 + [0] * 2 + [1] * 2 + [0] * 2 + [1] * 2
    assert {CELLS[cell].group for cell, _, _ in order[:18]} == {"table 2"}
    assert len(set(order)) == 2 * len(CELLS)
    with pytest.raises(ValueError, match="no cell 'diff-s7'"):
        config_of("diff-s7", recipe_of("paper"), n_layers=12, d_vocab=4096)


def test_rows_are_the_same_whoever_makes_them_and_others_for_another_seed(
    builtin: training.Recipe, folder: Path, rows: training.Rows, tmp_path: Path
) -> None:
    again = material.unpack(folder.parent / "file", tmp_path, builtin)
    by_two = training.rows_of(builtin, 0, again, jobs=2)
    assert np.array_equal(by_two.tokens, rows.tokens)
    assert np.array_equal(by_two.roles, rows.roles)
    assert not np.array_equal(training.rows_of(builtin, 1, again).tokens, rows.tokens)


def test_a_material_of_another_recipe_is_refused(builtin: training.Recipe, folder: Path, tmp_path: Path) -> None:
    other = replace(builtin, n_held_out=(3,))
    for read in (lambda file: material.unpack(file, tmp_path, other), lambda file: material.sums_of(file, other)):
        with pytest.raises(ValueError, match="prepare it again"):
            read(folder.parent / "file")
    others: list[dict[str, Any]] = [{"seed": 8}, {"sources": ("a",)}, {"n_tokens": (50_000,)}, {"retrieval": 0.5}]
    for changed in (*others, {"bytes": True}, {"held_out_chars": 300}, {"n_prompts": 5}):
        with pytest.raises(ValueError, match="prepare it again"):
            material.sums_of(folder.parent / "file", replace(builtin, **changed))
    material.unpack(folder.parent / "file", tmp_path, replace(builtin, steps=3))


def test_a_material_that_was_cut_off_is_refused_with_the_way_out(
    builtin: training.Recipe, folder: Path, tmp_path: Path
) -> None:
    whole = (folder.parent / "file").read_bytes()
    for content in (whole[: len(whole) // 2], whole[:7], b"no archive", b""):
        (tmp_path / "cut").write_bytes(content)
        with pytest.raises(ValueError, match="cut is no material.*--prepare-to"):
            material.unpack(tmp_path / "cut", tmp_path / "unpacked", builtin)


def test_a_run_is_measured_as_shipped(tables: training.Tables) -> None:
    """Bits, answers, lambda and losses of a run of the small recipe, trained again."""
    for name, columns in tables.items():
        shipped = read_records(HERE / "builtin" / f"{name}.parquet")
        chosen = (shipped["cell"] == UNIT[0]) & (shipped["seed"] == UNIT[2])
        assert len(columns["cell"]) == chosen.sum()
        assert chosen.any() == (name != "rivals")
        for column in {"bits", "is_right", "lambda", "text_loss", "n_parameters"} & set(columns):
            np.testing.assert_allclose(columns[column], shipped[column][chosen], rtol=1e-3, atol=0.06)


def test_training_learns_and_differs_by_cell(
    builtin: training.Recipe, folder: Path, rows: training.Rows, tables: training.Tables
) -> None:
    assert tables["log"]["text_loss"][-1] < tables["log"]["text_loss"][0]
    _, plain = training.train(builtin, ("mamba", 4, 0), folder, rows, device="cpu", steps=4)
    assert plain["text_loss"][0] != pytest.approx(tables["log"]["text_loss"][0], abs=1e-6)
    # A seed decides the weights, too: the first losses on the same rows.
    firsts = [
        training.train(builtin, ("mamba", 4, seed), folder, rows, device="cpu", steps=1)[1]["text_loss"]
        for seed in (0, 0, 1)
    ]
    assert firsts[0] == firsts[1] != firsts[2]


def test_heads_are_read_on_the_way_and_leave_the_model_as_it_was(builtin: training.Recipe, folder: Path) -> None:
    torch.manual_seed(0)
    model = HookedMamba(config_of("diff-mamba", builtin, n_layers=4, d_vocab=4096)).train()
    rivals = training.Rivals(folder)
    rivals.samples = rivals.samples[:1]
    rivals.read(model, 3)
    assert model.training
    assert list(zip(rivals.columns["step"], rivals.columns["block"], strict=True)) == [
        (3, b) for b in range(4) for _ in "abc"
    ]
    assert rivals.columns["part"] == ["net", "minuend", "subtrahend"] * 4
    assert all(0 <= value <= 1 for value in rivals.columns["negative_mass"])


def test_a_run_that_would_be_late_is_given_up(builtin: training.Recipe, folder: Path, rows: training.Rows) -> None:
    with pytest.raises(training.OutOfTimeError):
        training.train(builtin, UNIT, folder, rows, device="cpu", is_late=lambda seconds: seconds > 0)


def test_a_loss_that_is_no_number_ends_the_run_and_is_said(
    builtin: training.Recipe, folder: Path, rows: training.Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "learning_rate", lambda *_: float("nan"))
    broken = training.measure(replace(builtin, n_prompts=0), UNIT, folder, rows, device="cpu")
    assert broken["runs"]["has_diverged"] == [1]
    assert broken["runs"]["steps"][0] < builtin.steps
    assert np.isnan(broken["records"]["bits"]).all()


def test_what_the_queue_wrote_is_read_and_not_done_again(
    builtin: training.Recipe, tables: training.Tables, tmp_path: Path
) -> None:
    file = tmp_path / "runs-0.jsonl"
    line = {"recipe": "builtin", "made_by": work_queue.plain_recipe(builtin, UNIT), "unit": UNIT, "device": "cpu"}
    line |= {"versions": {PACKAGE: "0.1", "torch": "2"}, "tables": tables}
    for _ in range(2):
        training.append_line(file, work_queue.json_text(line))
    assert list(work_queue.read_runs([file], builtin)) == [UNIT]
    with pytest.raises(FileNotFoundError):
        work_queue.read_runs([file, tmp_path / "none.jsonl"], builtin)
    with pytest.raises(ValueError, match=r"no run of this recipe.*among 2 lines"):
        work_queue.about_of([file], replace(builtin, steps=5))
    (tmp_path / "cut.jsonl").write_text(file.read_text()[:-100])
    with pytest.raises(ValueError, match="line 2 of .*cut.jsonl is not valid JSON"):
        work_queue.read_runs([tmp_path / "cut.jsonl"], builtin)
    assert work_queue.read_runs([file], builtin)[UNIT]["tables"]["records"] == tables["records"]
    assert work_queue.read_runs([file], replace(builtin, seeds=(5,))) != {}
    assert work_queue.read_runs([file], replace(builtin, d_head_of_scans=14)) != {}
    assert work_queue.read_runs([file], replace(builtin, steps=5)) == {}
    made = {PACKAGE: "0.1", "torch": "2"}
    assert work_queue.about_of([file], builtin) == {"device": "cpu", "versions": made}
    # Runs of a later version of this package are of the same kind; those of another PyTorch are not.
    other: Unit = (UNIT[0], UNIT[1], UNIT[2] + 1)
    for versions, later in (({PACKAGE: "0.2", "torch": "2"}, True), ({PACKAGE: "0.1", "torch": "3"}, False)):
        second = tmp_path / f"later-{later}.jsonl"
        training.append_line(second, work_queue.json_text(line | {"unit": other, "versions": versions}))
        if later:
            assert work_queue.about_of([file, second], builtin)["versions"][PACKAGE] == "0.1, 0.2"
        else:
            with pytest.raises(ValueError, match="2 devices and versions"):
                work_queue.about_of([file, second], builtin)
    assert work_queue.claim(tmp_path, "builtin", UNIT)
    assert not work_queue.claim(tmp_path, "builtin", UNIT)
    work_queue.release(tmp_path, "builtin", UNIT)
    assert work_queue.claim(tmp_path, "builtin", UNIT)
    cell, n_layers, seed = UNIT
    for another in (("mamba", n_layers, seed), (cell, 2 * n_layers, seed), (cell, n_layers, seed + 1)):
        assert work_queue.claim(tmp_path, "builtin", another)


def test_workers_train_every_missing_run_once_and_none_that_is_there(
    builtin: training.Recipe, folder: Path, rows: training.Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(builtin, cells=("mamba", "diff-mamba"), seeds=(0,))
    assert work_queue.Job(name="a", recipe=few, folder=folder).has_rows(0)
    trained = []

    def measure(recipe: training.Recipe, unit: Unit, *_: Any, **how: Any) -> training.Tables:
        trained.append((recipe.steps, *unit))
        if len(trained) == 1:
            # While the first card trains its first run, the second takes what is left.
            work_queue.work(jobs, claims, tmp_path / "runs-1.jsonl", 1, time.time() + 100)
        return {"runs": {"seconds": [0.1], "steps": [recipe.steps]}}

    monkeypatch.setattr(work_queue, "measure", measure)
    monkeypatch.setattr(work_queue, "READING_SECONDS", 0.0)
    jobs = [
        work_queue.Job(name=f"of {steps} steps", recipe=replace(few, steps=steps), folder=folder) for steps in (11, 12)
    ]
    for attempt in ("first", "second"):
        claims = tmp_path / attempt
        claims.mkdir()
        work_queue.claim_trained(jobs, claims, sorted(tmp_path.glob("runs-*.jsonl")))
        work_queue.work(jobs, claims, tmp_path / "runs-0.jsonl", 0, time.time() + 100)
        assert sorted(trained) == [(steps, cell, 4, 0) for steps in (11, 12) for cell in ("diff-mamba", "mamba")]
    assert len((tmp_path / "runs-1.jsonl").read_text().splitlines()) == 3


def test_what_is_held_out_is_not_learnt(builtin: training.Recipe, folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder / material.TOKENIZER))
    learnt = tokenizer.decode(np.load(folder / "generated.npy"))
    held = TokenStream.load(folder / f"{material.HELD_OUT}.npy")
    pieces = [tokenizer.decode(held.document(place)[:-2]) for place in range(builtin.n_held_out[0])]
    assert all(100 < len(piece) <= builtin.held_out_chars for piece in pieces)
    assert not [piece for piece in pieces if piece[:200] in learnt]
    assert len(learnt) > 100 * builtin.held_out_chars
    samples, _ = load_samples(folder / material.PROMPTS, tokenizer)
    assert {split_of_hash(sample.story_hash) for sample in samples} == {"eval"}
    assert len({sample.story_hash for sample in samples}) == len(samples)


def made_up(folder: Path, gains: dict[str, tuple[float, float, float]]) -> None:
    """Records in which a cell needs so many bits per byte less than the baseline, seed by seed, and answers that
    share of the prompts more."""
    lines: dict[str, dict[str, list[Any]]] = {name: {} for name in summary.TABLES}

    def add(table: str, n: int, **columns: Any) -> None:
        for name, value in columns.items():
            lines[table].setdefault(name, []).extend(value if isinstance(value, list) else [value] * n)

    for cell, of_seeds in gains.items():
        for seed, gain in enumerate(of_seeds):
            unit = {"cell": cell, "n_layers": 12, "seed": seed}
            # The documents differ in bits per byte and in what a cell gains of them; of all bytes it is 2 - gain.
            add("records", 2, source="text", document=["a", "b"], n_bytes=[100, 300], **unit)
            add("records", 2, bits=[100 * (5 - 2 * gain), 300 * (1 - 2 / 3 * gain)])
            n_more = round(20 * gain)
            add("prompts", 20, task="qa1", is_right=[1] * (5 + n_more) + [0] * (15 - n_more), **unit)
            add("blocks", 1, block=0, lambda_sd=0.0, **{"lambda": 0.5 + 0.1 * seed}, **unit)
            add("log", 2, step=[100, 200], answer_accuracy=[0.25, 0.75], **unit)
            mass = 0.4 + 0.1 * seed
            add("rivals", 1, step=0, block=0, part="net", negative_mass=mass, redundancy=0.1, branch_cosine=0.0, **unit)
            add("runs", 1, n_parameters=10, d_model=4, steps=200, seconds=1.5, has_diverged=0, **unit)
    for name, columns in lines.items():
        write_records(folder / RECORDS.replace("records", name), columns)


def test_orderings_are_judged_over_seeds_with_their_sign(tmp_path: Path) -> None:
    made_up(
        tmp_path,
        {
            "mamba": (0.0, 0.0, 0.0),
            "diff-mamba": (0.1, 0.2, 0.3),
            "diff-s6": (0.39, 0.5, 0.61),
            "quarter": (0.1, 0.1, 0.4),
        },
    )
    recipe = {
        "cells": ["mamba", "diff-mamba", "diff-s6", "quarter", "token-gate"],
        "n_layers": [12],
        "seeds": [0, 1, 2],
    }
    results = summary.summarise(tmp_path, {"provenance": {"recipe": recipe}})
    cells = {one["cell"]: one for one in results["cells"]}
    difference = cells["diff-mamba"]["measures"]["text"]["difference"]
    # d = -0.1, -0.2, -0.3: the mean, and t(2, 97.5 %) = 4.3027 standard errors of 0.1 / sqrt(3) to either side.
    assert difference.value == pytest.approx(-0.2, abs=1e-6)
    assert difference.high - difference.value == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert cells["diff-mamba"]["measures"]["accuracy"]["difference"].value == pytest.approx(0.2)
    assert cells["diff-mamba"]["measures"]["text"]["over_samples"].value == pytest.approx(-0.2)
    assert cells["diff-mamba"]["learnt_at"] == [150.0] * 3
    verdicts = {
        one["says"]: summary.verdict([g.value, g.low, g.high])
        for one in results["claims"]
        for g in [one["gains"]["text"]]
    }
    assert verdicts == {
        "Diff-Mamba does better than Mamba": "not told apart",
        "Diff-S6 does better than Mamba": "holds",
        "Diff-Mamba does better than Diff-S6": "reversed",
        "the last quarter does better than all blocks": "not told apart",
    }
    assert results["missing"] == [["token-gate", 12, seed] for seed in range(3)]


def test_every_number_is_of_its_own_seed_and_paired_with_the_baseline_of_that_seed(tmp_path: Path) -> None:
    gains = {"mamba": (0.0, 0.1, 0.3), "diff-mamba": (0.2, 0.25, 0.45), "diff-mamba-exp": (0.1, 0.25, 0.3)}
    made_up(tmp_path, gains)
    recipe = {"cells": list(gains), "n_layers": [12], "seeds": [0, 1, 2]}
    results = summary.summarise(tmp_path, {"provenance": {"recipe": recipe}})
    cells = {one["cell"]: one["measures"] for one in results["cells"]}
    for cell, of_seeds in gains.items():
        assert cells[cell]["text"]["values"] == pytest.approx([2 - gain for gain in of_seeds], abs=1e-3)
        assert cells[cell]["accuracy"]["values"] == pytest.approx([0.25 + gain for gain in of_seeds])
    half = 4.3027 * np.std([0.2, 0.15, 0.15], ddof=1) / 3**0.5
    claims = {one["says"]: one["gains"] for one in results["claims"]}
    for measure, sign in (("text", -1), ("accuracy", 1)):
        difference = cells["diff-mamba"][measure]["difference"]
        assert difference.value == pytest.approx(sign * 0.5 / 3, abs=1e-3)
        assert difference.high - difference.value == pytest.approx(half, abs=2e-3)
        assert cells["diff-mamba"][measure]["over_samples"].value == pytest.approx(difference.value, abs=1e-6)
        gain = claims["Diff-Mamba does better than Mamba"][measure]
        assert (gain.value, gain.low) == pytest.approx((sign * difference.value, 0.5 / 3 - half), abs=2e-3)
    assert results["rivals"][0]["negative_mass"] == pytest.approx([0.5])
    assert results["cells"][1]["lambda"] == pytest.approx([0.6])
    assert results["cells"][1]["lambda_sd"] == [0.0]
    # A run whose loss was no number takes its cell's comparison with it, and no other's.
    lines = read_records(tmp_path / "runs.parquet")
    lines["has_diverged"] = ((lines["cell"] == "diff-mamba") & (lines["seed"] == 1)).astype(int)
    write_records(tmp_path / "runs.parquet", lines)
    broken = summary.summarise(tmp_path, {"provenance": {"recipe": recipe}})
    assert [one["diverged"] for one in broken["cells"]] == [[], [1], []]
    differences = [one["measures"]["text"]["difference"].value for one in broken["cells"][1:]]
    assert np.isnan(differences).tolist() == [True, False]
    assert summary.verdict([0.2, 0.1, 0.3]) == "holds"
    assert summary.verdict([-0.2, -0.3, -0.1]) == "reversed"
    assert summary.verdict([0.2, None, None]) == "no verdict"


def test_the_page_names_what_was_not_made_and_what_broke_down() -> None:
    results = {
        "missing": [("quarter", 12, 2)],
        "cells": [{"cell": "diff-s6-bare", "diverged": [1]}, {"cell": "mamba", "diverged": []}],
    }
    said = " ".join(report._not_made(results))
    assert "quarter (12 blocks, seed 2)" in said
    assert "diff-s6-bare (seed 1)" in said
    assert report._not_made({"missing": [], "cells": []}) == []


def test_the_gain_is_asked_at_every_depth(tmp_path: Path) -> None:
    made_up(tmp_path, {"mamba": (0.0, 0.1, 0.3), "diff-mamba": (0.1, 0.3, 0.6)})
    for file in tmp_path.glob("*.parquet"):
        lines = read_records(file)
        deep = {name: column.copy() for name, column in lines.items()} | {"n_layers": np.full(len(lines["cell"]), 24)}
        if "bits" in deep:
            deep["bits"] = np.where(deep["cell"] == "diff-mamba", deep["bits"] - 0.5 * deep["n_bytes"], deep["bits"])
        write_records(file, {name: np.concatenate([lines[name], deep[name]]) for name in lines})
    recipe = {"cells": ["mamba", "diff-mamba"], "n_layers": [12, 24], "seeds": [0, 1, 2]}
    results = summary.summarise(tmp_path, {"provenance": {"recipe": recipe}})
    depth, (claim,) = results["depth"], results["claims"]
    # An ordering is of the fewest blocks.
    assert claim["gains"]["text"].value == pytest.approx(0.2, abs=1e-6)
    assert depth["gains"]["12"].value == pytest.approx(0.2, abs=1e-6)
    # 0.1, 0.2, 0.3 of the seeds, each with its own baseline.
    assert depth["gains"]["12"].high - 0.2 == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-3)
    assert depth["gains"]["24"].value == pytest.approx(0.7, abs=1e-6)
    assert depth["growth"].value == pytest.approx(0.5, abs=1e-6)
    assert json.dumps(depth["seeds"]) == "[0, 1, 2]"


def test_a_figure_has_a_dot_for_each_seed_with_its_own_baseline(tmp_path: Path) -> None:
    made_up(tmp_path, {"mamba": (0.0, 0.1, 0.0), "diff-mamba": (0.1, 0.2, 0.3)})
    recipe = {"cells": ["mamba", "diff-mamba"], "n_layers": [12], "seeds": [0, 1, 2]}
    made = {"provenance": {"recipe": recipe}}
    drawn = report.figures(made | summary.summarise(tmp_path, made), "title")
    dots = [mark for mark in drawn["bits"].panels[0].marks if hasattr(mark, "joined")]
    assert [dot.name for dot in dots] == ["seed 0", "seed 1", "seed 2"]
    assert [dot.y[0] for dot in dots] == pytest.approx([-0.1, -0.1, -0.3], abs=1e-6)
    assert not any(dot.joined for dot in dots)
    assert drawn["accuracy"].y.title == "accuracy, less Mamba"


def test_names_say_what_the_cells_are() -> None:
    for name, cell in CELLS.items():
        config = config_of(name, recipe_of("builtin"), n_layers=4, d_vocab=300).differential
        if config is None:
            assert name == "mamba"
            continue
        if cell.group == "table 2":
            assert (config.normalisation == "none") == name.endswith("-bare")
            assert (config.lambda_form == "exp_dot") == ("-exp" in name)
            assert config.placement == "all"
        assert (config.subtract_at == "scan") == ("s6" in name or name == "token-head-gate")
        assert config.placement == (name if cell.group == "placement" else "all")


def test_an_ordering_of_parts_compares_models_that_differ_in_that_part_alone() -> None:
    parts = {"normalisation": "normalisation", "lambda": "lambda_form", "every": "placement", "the last": "placement"}
    n_compared = 0
    for claim in summary.CLAIMS:
        assert len(claim.better) == len(claim.worse)
        part = next((part for word, part in parts.items() if claim.says.startswith(word)), None)
        for better, worse in zip(claim.better, claim.worse, strict=True):
            if part is not None:
                kinds = (CELLS[name].differential or {} for name in (better, worse))
                one, other = (asdict(DifferentialConfig(**kind)) for kind in kinds)
                assert {name for name in one if one[name] != other[name]} == {part}, claim.says
                n_compared += 1
    assert n_compared == 12


def test_bytes_are_learnt_without_stories(builtin: training.Recipe, tmp_path: Path) -> None:
    of_bytes = replace(builtin, bytes=True, retrieval=0.0, weights=(1.0,), n_tokens=(20_000,))
    material.prepare(of_bytes, run.RunOptions(), tmp_path / "file")
    folder = material.unpack(tmp_path / "file", tmp_path / "unpacked", of_bytes)
    rows = training.rows_of(of_bytes, 0, folder)
    assert rows.tokens.max() < 259
    read = training.measure(of_bytes, ("mamba", 4, 0), folder, rows, device="cpu", steps=1)
    assert read["prompts"]["task"] == []
    # A byte is a token, but for the one merge that a tokenizer of ours has: about eight bits before anything is learnt.
    bits = sum(read["records"]["bits"]) / sum(read["records"]["n_bytes"])
    assert bits == pytest.approx(8, abs=0.4)
