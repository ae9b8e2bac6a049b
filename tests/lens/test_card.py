"""metrics.json and CARD.md: complete, readable, and honest about rows that are not beyond doubt."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from diffmamba_interp.lens import Estimate, LensMeasurement, LensRecipe
from diffmamba_interp.lens.card import Provenance, card_text, measurement_table, read_metrics, write_metrics
from diffmamba_interp.lens.evaluation import StageMeasurement
from diffmamba_interp.lens.jacobian_layout import JacobianLensConfig
from diffmamba_interp.runs.provenance import package_versions, weights_sha256

PROVENANCE = Provenance(
    model="some/model",
    model_sha256="aa",
    lens_sha256="bb",
    tokenizer_sha256="cc",
    data="builtin",
    data_sha256="dd",
    seed=3,
    device="cpu",
    versions={"python": "3.11"},
)


def stage(name: str, saved: float) -> StageMeasurement:
    def about(value: float) -> Estimate:
        return Estimate(value=value, low=value - 0.1, high=value + 0.1)

    return StageMeasurement(
        stage=name,
        kl_nats=about(1.0),
        logit_lens_kl_nats=about(1.0 + saved),
        kl_saved_nats=about(saved),
        bits_per_byte=about(2.5),
        logit_lens_bits_per_byte=about(3.0),
    )


@pytest.fixture
def measurement() -> LensMeasurement:
    output = Estimate(value=2.0, low=1.9, high=2.1)
    stages = (stage("embedding", 2.0), stage("after block 0", 0.05))
    return LensMeasurement(stages=stages, model_bits_per_byte=output, n_documents=12, n_tokens=3456, n_bytes=9999)


def test_metrics_read_back_as_they_were_written(
    tmp_path: Path, measurement: LensMeasurement, recipe: LensRecipe
) -> None:
    write_metrics(tmp_path, measurement, PROVENANCE, recipe)
    read, provenance, used = read_metrics(tmp_path)
    assert (read, provenance) == (measurement, PROVENANCE)
    assert used["steps"] == recipe.steps


def test_metrics_do_not_tell_in_which_folder_the_run_was_made(
    tmp_path: Path, measurement: LensMeasurement, recipe: LensRecipe
) -> None:
    write_metrics(tmp_path, measurement, PROVENANCE, replace(recipe, out="somewhere/private"))
    assert "private" not in (tmp_path / "metrics.json").read_text()


def test_the_card_names_what_was_used_and_the_row_that_is_not_better_beyond_the_interval(
    measurement: LensMeasurement, recipe: LensRecipe
) -> None:
    card = card_text(measurement, PROVENANCE, recipe)
    for expected in ("some/model", "`aa`", "`bb`", "3,456 predictions in 12 documents", "4 steps of 64 tokens"):
        assert expected in card
    assert "Not beyond the interval nearer to the output than the logit lens: after block 0." in card


def test_the_card_of_a_lens_trained_without_text_says_so(measurement: LensMeasurement, recipe: LensRecipe) -> None:
    card = card_text(measurement, replace(PROVENANCE, data_sha256=None), recipe)
    assert "says nothing about language" in card


def test_the_table_has_a_row_per_stage_and_the_output(measurement: LensMeasurement) -> None:
    header, rule, *rows = measurement_table(measurement)
    assert len({len(line) for line in (header, rule, *rows)}) == 1
    assert [row.split("|")[1].strip() for row in rows] == ["embedding", "after block 0", "output"]


def test_a_single_weights_file_is_named_by_its_own_sha256(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert weights_sha256(tmp_path) == hashlib.sha256(b"weights").hexdigest()
    (tmp_path / "model-2.safetensors").write_bytes(b"more")
    assert weights_sha256(tmp_path) != hashlib.sha256(b"weights").hexdigest()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="no weights"):
        weights_sha256(empty)


def test_versions_name_what_decides_the_numbers() -> None:
    assert {"python", "torch", "tuned-lens"} <= set(package_versions())


def test_the_card_of_a_jacobian_lens_says_what_it_is_a_mean_of(measurement: LensMeasurement) -> None:
    recipe = LensRecipe(kind="jacobian", prompts=40, prompt_tokens=128, storage="int8")
    config = JacobianLensConfig(
        base_model_name_or_path="", d_model=8, num_hidden_layers=2, n_prompts=40, prompt_tokens=128,
        relative_error=(0.25, 0.01),
    )  # fmt: skip
    card = card_text(measurement, PROVENANCE, recipe, config)
    assert "# Jacobian lens of some/model" in card
    assert "- mean over 40 pieces of text of 128 tokens, without the first 16 positions and the last" in card
    assert "as a share of its Frobenius norm: 0.010 to 0.250" in card
    assert "- stored in int8\n" in card
    assert "\n".join(measurement_table(measurement, "jacobian")) in card
    assert "optimizer" not in card
    assert "further away" not in card
    worse = replace(measurement, stages=(*measurement.stages, stage("after block 1", -0.5)))
    assert "Beyond it further away: after block 1." in card_text(worse, PROVENANCE, recipe, config)
