"""What the questions ship is of the shipped weights, follows from the records, and comes out when measured again.

A question takes part when its folder has a recipe.
"""

import importlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffmamba_interp.analysis.page import RECORDS, RESULTS
from diffmamba_interp.analysis.question import Asked, Question
from diffmamba_interp.analysis.results import read_records, read_results
from diffmamba_interp.files.json_files import plain
from diffmamba_interp.lens.card import lens_sha256
from diffmamba_interp.lens.folders import demo_lens_folder
from diffmamba_interp.models.demo import demo_folder
from diffmamba_interp.runs.provenance import weights_sha256

ANALYSES = Path(__file__).parents[2] / "analyses"
QUESTIONS: dict[str, Question] = {
    folder.name: importlib.import_module(f"analyses.{folder.name}.run").QUESTION
    for folder in sorted(ANALYSES.iterdir())
    if (folder / "recipe.toml").is_file()
}
SHIPPED = [
    (name, recipe)
    for name, question in QUESTIONS.items()
    for recipe in question.page.titles
    if (question.folder / recipe / RESULTS).is_file()
]
MAX_FILE_BYTES = 1_500_000

# Columns that say what a line is of; the others are measures.
KEYS = (
    "model",
    "lens",
    "direction",
    "picture",
    "kind",
    "where",
    "dose",
    "task",
    "length",
    "story",
    "filler",
    "source",
    "document",
)
# How the small recipe is cut down to be measured again, and how many lines that gives.
AGAIN: dict[str, tuple[dict[str, Any], int]] = {
    "faithfulness": ({"n": (1,), "tasks": ("qa4",)}, 2 * 7),
    "circuit": ({"n": (1,), "tasks": ("qa4",)}, 156 + 100),
    "cancellation": ({"lengths": (0,), "n": (1,)}, 5 * 2),
    "needle_snr": ({"lengths": (0,), "n": (1,)}, 5 * 2 * 2),
    "unseen_novels": ({"n": (1,), "fillers": 2}, 2 * 2 * 2),
    "noise_variance": ({"n": (1,), "fillers": 2}, 2 * 2 * 2),
    "held_out_text": ({"n_chars": 2_000}, 2),
    "overallocation": ({"lengths": (0,), "n": (1,)}, 5 * 4),
    "lambda_causality": ({"lengths": (0,), "n": (5,), "factors": (0.0,), "block_factors": ()}, 2 * 5 * 3),
    "noise_robustness": ({"lengths": (0,), "n": (5,), "snr_db": (10.0,)}, 2 * 5 * 4),
}


# Two tasks of those whose prompts are long.
TASKS_AGAIN = dict.fromkeys(("unseen_novels", "noise_variance"), {"qa1", "qa4"})


def shipped(name: str, recipe: str) -> Path:
    return QUESTIONS[name].folder / recipe


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_recipe_that_needs_no_data_was_run(name: str) -> None:
    assert (name, "builtin") in SHIPPED


@pytest.mark.parametrize(("name", "recipe"), SHIPPED)
def test_results_are_those_of_the_shipped_weights_lenses_and_recipe(name: str, recipe: str) -> None:
    question, made = QUESTIONS[name], read_results(shipped(name, recipe) / RESULTS)["provenance"]
    assert made["models"] == {model: weights_sha256(demo_folder(model)) for model in question.models}
    for model, digest in made.get("lenses", {}).items():
        assert digest == lens_sha256(demo_lens_folder(model))
    stated = question.recipe_of(question.options(recipe=recipe))
    assert made["recipe"] == {"name": recipe, **plain(asdict(stated))}
    assert made["seed"] == stated.seed
    assert (recipe != "builtin") == bool(made.get("data"))


@pytest.mark.parametrize("name", QUESTIONS)
def test_results_page_and_figures_are_those_that_the_records_give(name: str, tmp_path: Path) -> None:
    question = QUESTIONS[name]
    recipes = [recipe for of, recipe in SHIPPED if of == name]
    for recipe in recipes:
        (tmp_path / recipe).mkdir()
        for file in shipped(name, recipe).iterdir():
            if file.name == RESULTS or file.suffix in (".parquet", ".xz"):
                (tmp_path / recipe / file.name).write_bytes(file.read_bytes())
        question.page.complete(tmp_path / recipe)
    question.page.write(tmp_path)
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert written >= {Path("README.md"), *(Path(recipe) / RESULTS for recipe in recipes)}
    assert written >= {path.relative_to(question.folder) for path in question.folder.glob("*/*.svg")}
    for path in sorted(written):
        again, kept = (folder / path for folder in (tmp_path, question.folder))
        assert again.read_bytes() == kept.read_bytes(), path


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_shipped_files_are_small(name: str) -> None:
    sizes = {str(file): file.stat().st_size for file in QUESTIONS[name].folder.rglob("*") if file.is_file()}
    assert {file: size for file, size in sizes.items() if size > MAX_FILE_BYTES} == {}


# Seconds on a core of one's own, minutes on a busy machine.
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", AGAIN)
def test_a_few_prompts_are_measured_as_shipped(name: str, tmp_path: Path) -> None:
    question, (changed, n_lines) = QUESTIONS[name], AGAIN[name]
    options = question.options(jobs=1, device="cpu")
    asked = Asked(recipe=replace(question.recipe_of(options), **changed), options=options, material=tmp_path / "asked")
    assert question.prepare is not None
    question.prepare(asked.recipe, options, tmp_path / "asked")
    tasks = TASKS_AGAIN.get(name)
    units = [unit for unit in question.units_of(asked) if tasks is None or tasks & set(unit)]
    question.keep(tmp_path, asked.recipe, {unit: question.measure_unit(asked, unit) for unit in units})
    again, kept = (read_records(folder / RECORDS) for folder in (tmp_path, shipped(name, "builtin")))
    assert set(again) == set(kept)
    keys = [key for key in KEYS if key in kept]
    # As text, in which what is missing equals itself.
    lines, shipped_lines = (list(zip(*(map(str, one[key]) for key in keys), strict=True)) for one in (again, kept))
    places = {line: place for place, line in enumerate(shipped_lines)}
    order = [places[line] for line in lines]
    assert len(order) == n_lines
    for measure in set(again) - set(keys):
        np.testing.assert_allclose(again[measure], kept[measure][order], rtol=1e-3, atol=1e-3, err_msg=measure)
