"""A lens reads the model that it was made for: others are refused with what differs, the same in every dtype."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffmamba_interp import (
    HookedMamba,
    HookedMambaConfig,
    extract_attention,
    load_demo,
    load_demo_lens,
    needle_trajectory,
)
from diffmamba_interp.interventions import AnswerReading
from diffmamba_interp.lens import (
    HeldOutDocument,
    LensRecipe,
    LensTraining,
    LogitLens,
    TunedLens,
    lens_trajectory,
    load_lens,
    measure_lens,
)
from diffmamba_interp.lens.folders import demo_lens_folder
from diffmamba_interp.lens.lenses import LENS_FILE, save_lens
from diffmamba_interp.models import read_out_identity
from diffmamba_interp.text.batches import RandomTokenBatches, random_tokens
from tests.needle.closed_form import sample_of

Read = Callable[..., Any]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TOKENS = random_tokens(40, (2, 6), seed=3)


def tiny(seed: int = 0, *, n_layers: int = 2, **settings: Any) -> HookedMamba:
    torch.manual_seed(seed)
    sizes = {"d_model": 16, "d_vocab": 40, "d_state": 4, "d_head": 8} | settings
    return HookedMamba(HookedMambaConfig(n_layers=n_layers, **sizes)).requires_grad_(False).eval()


def read_needle(model: HookedMamba, lens: Any, **options: Any) -> Any:
    return needle_trajectory(model, {"it": lens}, [sample_of([1, 2, 3], [(4,), (5,)])], **options)


def read_answers(model: HookedMamba, lens: Any, **options: Any) -> Any:
    return AnswerReading(tokens=TOKENS, answers=[3, 4], lenses={"it": lens}, **options)(model)


def read_trajectory(model: HookedMamba, lens: Any, **options: Any) -> Any:
    return lens_trajectory(model, lens, TOKENS, **options)


def read_held_out(model: HookedMamba, lens: Any, **options: Any) -> Any:
    return measure_lens(model, lens, [HeldOutDocument(tokens=TOKENS[0], n_bytes=9)], **options)


def read_contributions(model: HookedMamba, lens: Any, **options: Any) -> Any:
    return extract_attention(model, TOKENS, 1, "contribution", direction=lens.direction(3), **options)


readers = pytest.mark.parametrize(
    "read", [read_needle, read_answers, read_trajectory, read_held_out, read_contributions]
)


# measure_lens takes tuned lenses alone: it reads the logit lens by itself.
@pytest.mark.parametrize(
    ("read", "kind"),
    [
        *(
            (read, TunedLens)
            for read in (read_needle, read_answers, read_trajectory, read_held_out, read_contributions)
        ),
        *((read, LogitLens) for read in (read_needle, read_answers, read_trajectory, read_contributions)),
    ],
)
def test_a_lens_of_another_model_of_the_same_sizes_is_refused_unless_forced(read: Read, kind: Any) -> None:
    model, other = tiny(0), tiny(1)
    with pytest.raises(ValueError, match="lens of another model: its unembedding or final norm holds other weights"):
        read(model, kind.from_model(other))
    read(model, kind.from_model(other), force=True)


@readers
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_layers": 3}, "number of blocks is 3, the model's 2"),
        ({"n_layers": 1}, "number of blocks is 1, the model's 2"),
        ({"d_model": 32}, "width .* is 32, the model's 16"),
        ({"d_vocab": 41}, "vocabulary .* is 41, the model's 40"),
    ],
)
def test_a_lens_of_other_sizes_is_refused_by_the_size(read: Read, settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tiny(), TunedLens.from_model(tiny(**settings)))


@readers
def test_force_does_not_help_a_lens_that_cannot_read_the_model(read: Read) -> None:
    with pytest.raises(ValueError, match="number of blocks is 1, the model's 2") as raised:
        read(tiny(), TunedLens.from_model(tiny(n_layers=1)), force=True)
    assert "force" not in str(raised.value)


@readers
@pytest.mark.parametrize("change", ["unembed.weight", "ln_final.weight"])
def test_a_lens_over_a_copy_is_the_models_own_until_either_changes(read: Read, change: str) -> None:
    model = tiny()
    lens = TunedLens.from_model(copy.deepcopy(model))
    read(model, lens)
    model.get_parameter(change)[3] += 0.5
    with pytest.raises(ValueError, match="other weights"):
        read(model, lens)


def test_another_epsilon_in_the_final_norm_is_another_read_out() -> None:
    with pytest.raises(ValueError, match="other weights"):
        read_trajectory(tiny(), LogitLens.from_model(tiny(norm_eps=1e-3)))


def test_the_last_stage_is_the_models_output_whatever_the_lens() -> None:
    model = tiny()
    read = lens_trajectory(model, LogitLens.from_model(tiny(1)), TOKENS, keep_log_probs=True, force=True)
    assert read.log_probs is not None
    np.testing.assert_allclose(read.log_probs[:, -1], torch.log_softmax(model(TOKENS), -1), atol=1e-5)


def test_training_a_lens_of_another_model_is_refused() -> None:
    recipe = LensRecipe(steps=1, tokens_per_step=16, sequence_length=8, eval_tokens=16)
    batches = RandomTokenBatches(40, length=8, batch_size=2)
    with pytest.raises(ValueError, match="lens of another model"):
        LensTraining(tiny(0), TunedLens.from_model(tiny(1)), batches, recipe)


def test_a_function_in_place_of_a_lens_is_taken_at_its_word() -> None:
    model = tiny()
    read_needle(model, lambda h, idx: model.unembed(model.ln_final(h)))


def test_sharing_the_models_memory_costs_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    monkeypatch.setattr(read_out_identity, "_identity", None)
    read_trajectory(model, LogitLens.from_model(model))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("reading", DTYPES)
@pytest.mark.parametrize("saving", DTYPES)
def test_a_lens_fits_its_checkpoint_whatever_the_dtypes_of_saving_and_reading(
    tmp_path: Path, saving: torch.dtype, reading: torch.dtype, tied: bool
) -> None:
    tiny(tie_embeddings=tied, d_vocab=600).save_pretrained(tmp_path / "model")
    saved, read = (HookedMamba.from_pretrained(tmp_path / "model", dtype=dtype) for dtype in (saving, reading))
    save_lens(TunedLens.from_model(saved), tmp_path / "lens")
    load_lens(tmp_path / "lens", read)
    read_trajectory(read, TunedLens.from_model(saved))


@pytest.mark.parametrize("other", [lambda m: m.bfloat16().half(), lambda m: m.half().bfloat16(), lambda m: m.double()])
def test_a_lens_fits_a_model_made_in_code_whatever_it_was_converted_to(other: Any) -> None:
    model = tiny(d_vocab=600)
    model.unembed.weight[:40] *= 1e-6  # Below what float16 resolves.
    for first in (model, copy.deepcopy(model).half(), copy.deepcopy(model).bfloat16()):
        second = other(copy.deepcopy(model))
        read_trajectory(second, LogitLens.from_model(first))
        read_trajectory(first, LogitLens.from_model(second))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_excuses_no_other_weights(dtype: torch.dtype) -> None:
    model = tiny(d_vocab=5000)
    trained, one_row = copy.deepcopy(model), copy.deepcopy(model)
    trained.unembed.weight.mul_(1 + 0.03 * torch.randn(trained.unembed.weight.shape))
    one_row.unembed.weight[4321] = one_row.unembed.weight[4321].flip(0)
    for other in (trained, one_row):
        with pytest.raises(ValueError, match="other weights"):
            read_trajectory(other.to(dtype), LogitLens.from_model(model))


def test_a_small_change_of_a_model_in_float32_is_seen() -> None:
    model = tiny()
    other = copy.deepcopy(model)
    other.unembed.weight[3, 3] *= 1.01
    with pytest.raises(ValueError, match="other weights"):
        read_trajectory(other, LogitLens.from_model(model))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_lens_that_was_saved_before_sketches_opens_in_every_dtype_of_its_checkpoint(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    model = tiny(d_vocab=600)
    model.save_pretrained(tmp_path / "model")
    save_lens(TunedLens.from_model(model), tmp_path / "lens")
    file = tmp_path / "lens" / LENS_FILE
    kept = {"format", "reads", "unembedding_sha256"}
    file.write_text(json.dumps({name: value for name, value in json.loads(file.read_text()).items() if name in kept}))
    read = HookedMamba.from_pretrained(tmp_path / "model", dtype=dtype)
    load_lens(tmp_path / "lens", read)
    read.unembed.weight.data[5] += 1
    with pytest.raises(ValueError, match=r"another unembedding.*older version"):
        load_lens(tmp_path / "lens", read)


def test_a_garbled_sketch_is_refused_by_name(tmp_path: Path) -> None:
    model = tiny()
    save_lens(TunedLens.from_model(model), tmp_path)
    file = tmp_path / LENS_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"unembedding_sketch": "AAAA"}))
    with pytest.raises(ValueError, match=r"lens.json is damaged: unembedding_sketch"):
        load_lens(tmp_path, model)


@pytest.mark.parametrize("name", ["diff-mamba2", "mamba2"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_shipped_lenses_open_in_every_dtype(name: Any, dtype: torch.dtype) -> None:
    model, _ = load_demo(name, dtype=dtype)
    lens = load_demo_lens(name, model)
    read_trajectory(load_demo(name)[0], lens)
    assert "unembedding_sketch" not in json.loads((demo_lens_folder(name) / LENS_FILE).read_text())


def test_the_demo_models_lens_of_the_other_is_refused() -> None:
    model, _ = load_demo("diff-mamba2")
    with pytest.raises(ValueError, match="lens of another model"):
        lens_trajectory(model, load_demo_lens("mamba2"), TOKENS)
