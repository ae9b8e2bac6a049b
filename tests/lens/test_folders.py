"""Lens folders: ours open in the library, the library's and the published fork's open here, broken ones do not."""

import dataclasses
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import tuned_lens.nn.lenses as library

from diffmamba_interp import HookedMamba, HookedMambaConfig
from diffmamba_interp.files.checksums import DamagedFileError
from diffmamba_interp.lens import ModelUnembed, TunedLens, load_lens, save_lens
from diffmamba_interp.lens.folders import read_description
from diffmamba_interp.lens.lenses import TunedLensConfig


@pytest.fixture
def folder(lens: TunedLens, tmp_path: Path) -> Path:
    save_lens(lens, tmp_path / "lens")
    return tmp_path / "lens"


def library_folder(model: HookedMamba, path: Path, *, trained: list[int]) -> library.TunedLens:
    """A folder that the library wrote, whose translators `trained` are not zero."""
    config = library.TunedLensConfig("small", model.cfg.d_model, model.cfg.n_layers)
    lens = library.TunedLens(ModelUnembed(model), config)
    for index in trained:
        lens[index].weight.data.normal_(std=0.05)
    lens.save(path)
    return lens


def same_lens(a: TunedLens | library.TunedLens, b: TunedLens | library.TunedLens) -> bool:
    return all(torch.equal(x.weight, y.weight) and torch.equal(x.bias, y.bias) for x, y in zip(a, b, strict=True))


def test_a_saved_lens_loads_to_the_same_lens(model: HookedMamba, lens: TunedLens, folder: Path) -> None:
    assert same_lens(load_lens(folder, model), lens)
    assert read_description(folder)["reads"] == "resid_pre"


def test_the_library_opens_our_folder_silently_and_decodes_alike(
    model: HookedMamba, lens: TunedLens, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = library.TunedLens.from_unembed_and_pretrained(ModelUnembed(model), str(folder))
    assert caplog.records == []
    h = torch.randn(5, model.cfg.d_model)
    assert torch.equal(theirs(h, 2), lens(h, 2))


def test_a_lens_config_has_the_fields_and_defaults_of_the_librarys() -> None:
    ours, theirs = (
        [(field.name, field.default) for field in dataclasses.fields(config)]
        for config in (TunedLensConfig, library.TunedLensConfig)
    )
    assert ours == theirs


def test_our_config_file_says_what_the_librarys_lens_of_the_model_would(
    model: HookedMamba, folder: Path, tmp_path: Path
) -> None:
    library_folder(model, tmp_path / "library", trained=[0])
    ours, theirs = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "library"))
    assert ours == theirs
    assert ours["unembed_hash"] is not None


def test_the_librarys_folder_opens_here_in_its_own_convention(
    model: HookedMamba, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = library_folder(model, tmp_path, trained=[0, 1, 2, 3])
    assert same_lens(load_lens(tmp_path, model), theirs)
    assert "'resid_pre'" in caplog.text


def test_a_folder_that_reads_block_outputs_is_recognised_and_moved_by_one_block(
    model: HookedMamba, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = library_folder(model, tmp_path, trained=[0, 1, 2])
    ours = load_lens(tmp_path, model)
    assert "'resid_post'" in caplog.text
    assert not ours[0].weight.any()
    for block in range(3):
        assert torch.equal(ours[block + 1].weight, theirs[block].weight)


def test_the_convention_that_is_asked_for_wins_over_the_guess(model: HookedMamba, tmp_path: Path) -> None:
    theirs = library_folder(model, tmp_path, trained=[0, 1, 2])
    assert same_lens(load_lens(tmp_path, model, reads="resid_pre"), theirs)


def test_a_stored_convention_is_not_overruled(model: HookedMamba, folder: Path) -> None:
    with pytest.raises(ValueError, match="says reads='resid_pre'"):
        load_lens(folder, model, reads="resid_post")


def test_a_stored_resid_post_is_converted(model: HookedMamba, lens: TunedLens, folder: Path) -> None:
    described = read_description(folder) | {"reads": "resid_post"}
    (folder / "lens.json").write_text(json.dumps(described))
    assert torch.equal(load_lens(folder, model)[1].weight, lens[0].weight)


def test_params_have_the_same_bytes_whatever_the_folder(lens: TunedLens, folder: Path, tmp_path: Path) -> None:
    save_lens(lens, tmp_path / "elsewhere" / "with another name")
    assert (tmp_path / "elsewhere/with another name/params.pt").read_bytes() == (folder / "params.pt").read_bytes()


def test_params_are_plain_tensors(folder: Path) -> None:
    state = torch.load(folder / "params.pt", weights_only=True)
    assert type(state) is dict
    assert {type(value) for value in state.values()} == {torch.Tensor}


def test_a_lens_of_a_model_with_another_unembedding_is_refused_unless_allowed(
    model: HookedMamba, lens: TunedLens, folder: Path
) -> None:
    model.unembed.weight.data[3, 3] += 1
    with pytest.raises(ValueError, match="trained with another unembedding"):
        load_lens(folder, model)
    assert same_lens(load_lens(folder, model, allow_other_unembedding=True), lens)


def test_a_librarys_lens_with_another_hash_is_refused(model: HookedMamba, tmp_path: Path) -> None:
    library_folder(model, tmp_path, trained=[3])
    model.unembed.weight.data[0, 0] += 1
    with pytest.raises(ValueError, match="another unembedding"):
        load_lens(tmp_path, model)


def test_a_lens_for_other_sizes_is_refused_even_if_the_unembedding_may_differ(folder: Path) -> None:
    other = HookedMamba(HookedMambaConfig(d_model=32, n_layers=2, d_vocab=97, d_state=4, d_head=16))
    with pytest.raises(ValueError, match="d_model 64 and 4 blocks.*d_model 32 and 2 blocks"):
        load_lens(folder, other, allow_other_unembedding=True)


class Malicious:
    def __reduce__(self) -> Any:
        return Path.write_text, (Path("unpickled"), "code ran")


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:3000])


def no_archive(file: Path) -> None:
    file.write_bytes(b"no archive at all")


def malicious_pickle(file: Path) -> None:
    file.write_bytes(pickle.dumps(Malicious(), protocol=2))


def malicious_archive(file: Path) -> None:
    torch.save({"0.weight": Malicious()}, file)


def not_a_dictionary(file: Path) -> None:
    torch.save(torch.zeros(3), file)


def wrong_shape(file: Path) -> None:
    state = torch.load(file, weights_only=True)
    torch.save(state | {"1.bias": torch.zeros(3)}, file)


def lacking_a_translator(file: Path) -> None:
    state = torch.load(file, weights_only=True)
    torch.save({name: value for name, value in state.items() if not name.startswith("2.")}, file)


def not_finite(file: Path) -> None:
    state = torch.load(file, weights_only=True)
    state["0.weight"][0, 0] = float("nan")
    torch.save(state, file)


def without_sum(folder: Path) -> None:
    """Make the folder one of before sums."""
    described = read_description(folder)
    del described["params_sha256"]
    (folder / "lens.json").write_text(json.dumps(described))


def test_every_flipped_byte_of_the_params_is_noticed_and_a_folder_of_before_sums_opens(
    model: HookedMamba, folder: Path
) -> None:
    file = folder / "params.pt"
    whole = file.read_bytes()
    for place in range(0, len(whole), 997):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=r"params.pt is damaged: .*Delete the lens, then train or fetch it"):
            load_lens(folder, model)
    without_sum(folder)
    file.write_bytes(whole)
    load_lens(folder, model)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, "corrupt"),
        (no_archive, "corrupt"),
        (malicious_pickle, "not unpickled"),
        (malicious_archive, "not unpickled"),
        (not_a_dictionary, "does not hold 4 translators"),
        (wrong_shape, "1.bias is missing, unexpected or of another shape"),
        (lacking_a_translator, "2.bias, 2.weight are missing"),
        (not_finite, "not finite"),
    ],
)
def test_damaged_params_are_refused(
    model: HookedMamba,
    folder: Path,
    damage: Callable[[Path], None],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    without_sum(folder)
    damage(folder / "params.pt")
    with pytest.raises(ValueError, match=message):
        load_lens(folder, model)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(
    ("file", "content", "error", "message"),
    [
        ("config.json", "{", ValueError, "not valid JSON"),
        ("config.json", "{}", ValueError, "lacks base_model_name_or_path, d_model"),
        ("lens.json", '{"reads": "resid_mid"}', ValueError, "resid_mid"),
    ],
)
def test_damaged_descriptions_are_refused(
    model: HookedMamba, folder: Path, file: str, content: str, error: type[Exception], message: str
) -> None:
    (folder / file).write_text(content)
    with pytest.raises(error, match=message):
        load_lens(folder, model, allow_other_unembedding=True)


@pytest.mark.parametrize("file", ["config.json", "params.pt"])
def test_a_missing_file_is_named(model: HookedMamba, folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        load_lens(folder, model)


@pytest.mark.parametrize("name", ["no/such/folder/here", "nobody/no-such-lens"])
def test_an_unknown_place_is_reported(model: HookedMamba, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=name):
        load_lens(name, model)


def test_unknown_config_keys_are_named_in_the_log(
    model: HookedMamba, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"colour": "blue"}))
    with caplog.at_level(logging.WARNING):
        load_lens(folder, model)
    assert "colour" in caplog.text


def test_a_lens_without_bias_is_refused(model: HookedMamba) -> None:
    config = TunedLensConfig("small", model.cfg.d_model, model.cfg.n_layers, bias=False)
    with pytest.raises(ValueError, match="bias"):
        TunedLens(ModelUnembed(model), config)
