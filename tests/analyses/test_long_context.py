"""The long-context analysis: its pieces, what is measured of them, and what its page says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analyses.long_context import report, run
from diffmamba_interp.analysis.page import RECORDS, RESULTS
from diffmamba_interp.analysis.question import Asked
from diffmamba_interp.analysis.results import data_sha256, read_records, read_results
from diffmamba_interp.lm_training.position_loss import position_bins
from diffmamba_interp.models.demo import DEMO_NAMES

BEGINNING = 2048
HERE = run.QUESTION.folder


# Seconds on a core of one's own, minutes on a busy machine.
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_beginning_of_a_piece_is_measured_as_shipped() -> None:
    options = run.LengthOptions(device="cpu")
    recipe = run.QUESTION.recipe_of(options)
    (source, *_), tokens = run.pieces(recipe, Path())
    kept = read_records(run.QUESTION.folder / "builtin" / RECORDS)
    for name in DEMO_NAMES:
        # A loss depends on nothing that comes later, so the beginning of a piece is enough.
        asked = Asked(recipe=replace(recipe, length=BEGINNING), options=options)
        losses = run.losses_of(asked, name, tokens[:1, : BEGINNING + 1])
        (row,) = np.flatnonzero((kept["model"] == name) & (kept["source"] == source))
        for kind, by_bin in losses.items():
            expected = [kept[f"{kind}_{end}"][row] for end in position_bins(BEGINNING)[1:]]
            assert by_bin[0].tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("recipe", [name for name in report.PAGE.titles if (HERE / name / RESULTS).is_file()])
def test_it_reads_sixteen_thousand_tokens_and_beyond(recipe: str) -> None:
    assert read_results(run.QUESTION.folder / recipe / RESULTS)["bounds"][-1] >= 16_384


def test_pieces_are_kept_in_a_file_that_serves_no_other_recipe(tmp_path: Path) -> None:
    options = run.LengthOptions(device="cpu", length=128, n=2)
    recipe = run.QUESTION.recipe_of(options)
    run.write_pieces(recipe, options, tmp_path / "pieces")
    asked = Asked(recipe=recipe, options=options, material=tmp_path / "pieces")
    sources, tokens = run.pieces(recipe, Path())
    assert run.read_pieces(asked)["source"].tolist() == sources
    np.testing.assert_array_equal(run.read_pieces(asked)["tokens"], tokens)
    assert run.sums_of_pieces(asked) == {}  # generated text was read from nowhere
    with pytest.raises(ValueError, match="was made for .* prepare it again"):
        run.read_pieces(replace(asked, recipe=replace(recipe, n=1)))


def test_pieces_do_not_overlap_and_novels_take_turns(tmp_path: Path) -> None:
    (tmp_path / "novels").mkdir()
    for number in range(40):
        text = f"Novel {number}. " + "The wind was cold and the road was long. " * 60
        (tmp_path / "novels" / f"{number:02}.txt").write_text(text)
    recipe = run.Recipe(text="novels", splits=("lm_train",), length=128, n=0, window=64, seed=0)
    sources, tokens = run.pieces(recipe, tmp_path)
    n_novels = len(set(sources))
    assert len(sources) > n_novels > 1
    assert len(set(sources[:n_novels])) == n_novels
    first, second = [number for number, source in enumerate(sources) if source == sources[0]][:2]
    # The last token of a piece is predicted there and read first in the next.
    assert tokens[first, -1] == tokens[second, 0]
    few, _ = run.pieces(replace(recipe, n=3), tmp_path)
    assert few == sources[:3]


def test_text_that_is_too_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "novels").mkdir()
    for number in range(40):
        (tmp_path / "novels" / f"{number:02}.txt").write_text(f"Short {number}.")
    recipe = run.Recipe(text="novels", splits=("lm_train",), length=128, n=0, window=64, seed=0)
    with pytest.raises(ValueError, match="smaller --length"):
        run.pieces(recipe, tmp_path)


def test_without_splits_all_texts_of_the_named_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    for number in range(12):
        text = f"Novel {number}. " + "The wind was cold and the road was long. " * 60
        (tmp_path / "others" / f"{number:02}.txt").write_text(text)
    recipe = run.Recipe(text="others", length=128, n=0, window=64, seed=0)
    sources, _ = run.pieces(recipe, tmp_path)
    assert len(set(sources)) == 12
    options = run.LengthOptions(data=tmp_path)
    run.write_pieces(recipe, options, tmp_path / "pieces")
    sums = run.sums_of_pieces(Asked(recipe=recipe, options=options, material=tmp_path / "pieces"))
    assert sums == data_sha256({"others": tmp_path / "others"})


def made_up_records(gains: tuple[float, float], n: int = 12) -> dict[str, np.ndarray]:
    """Records of `n` novels, equally hard everywhere; gains: of the older past in the two bins beyond 1,024 tokens."""
    rng = np.random.default_rng(0)
    ends = [256, 512, 1024, 2048, 4096]
    columns = {"model": np.repeat(DEMO_NAMES, n), "source": np.tile([f"novel {i}" for i in range(n)], 2)}
    columns["piece"] = np.tile(np.arange(n), 2)
    easy = np.tile(rng.normal(3.6, 0.2, n), 2)
    for end, gain in zip(ends, (0.0, 0.0, 0.0, *gains), strict=True):
        columns[f"full_{end}"] = easy - gain
        columns[f"windowed_{end}"] = easy + rng.normal(0, 1e-4, 2 * n)
    return columns


@pytest.mark.parametrize(
    ("gains", "words", "rise"),
    [
        ((0.01, 0.02), "**does not degrade**", -0.02),
        ((0.01, -0.03), "**degrades**", 0.03),
        ((0.01, 0.0), "**is not seen to degrade**", 0.0),
    ],
)
def test_a_model_degrades_where_cutting_the_past_off_would_save_loss(
    gains: tuple[float, float], words: str, rise: float
) -> None:
    curves = report.curves_of(made_up_records(gains))
    results = {"bounds": [0, 256, 512, 1024, 2048, 4096], "n_pieces": 12, "curves": plain_values(curves)}
    assert words in report.degradation(results, "mamba2")
    assert curves["rise"]["mamba2"][-1].value == pytest.approx(rise, abs=1e-9)


def plain_values(curves: dict) -> dict:
    """Estimates as results.json holds them."""
    kinds = ("gain", "rise")
    return {
        kind: {name: [[e.value, e.low, e.high] for e in one] for name, one in curves[kind].items()} for kind in kinds
    }


def test_intervals_are_drawn_over_sources_and_not_over_pieces() -> None:
    # Ten pieces of one novel are alike: with two novels the interval must reach from one's mean to the other's.
    values, sources = np.array([[0.0]] * 10 + [[1.0]] * 10), np.array(["a"] * 10 + ["b"] * 10)
    (mean,) = report.estimates(values, sources)
    assert (mean.value, mean.low, mean.high) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    ("signs", "words"),
    [
        ((-1, -1), "`diff-mamba2` has the lower"),
        ((1, 1), "`mamba2` has the lower"),
        ((0, 0), "undecided"),
        ((1, 0), "mixed"),
    ],
)
def test_the_verdict_follows_the_signs(signs: tuple[int, ...], words: str) -> None:
    assert words in report.verdict(signs)
