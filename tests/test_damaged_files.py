"""Every file that the project writes for itself: a flipped byte in it is noticed when it is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from app.pages_.session.file import read_session, write_session
from app.shell.downloads import KeptRecord
from diffmamba_interp.files.archives import arrays_from_bytes, arrays_to_bytes
from diffmamba_interp.implicit_attention import AttentionRecord, extract_attention
from diffmamba_interp.lens import LogitLens, TunedLens, load_lens, save_lens
from diffmamba_interp.needle.records import load_samples, save_samples
from diffmamba_interp.needle.samples import make_needle_samples
from diffmamba_interp.needle.trajectory import needle_trajectory
from diffmamba_interp.runs.snapshots import read_snapshot, write_snapshot
from diffmamba_interp.text.generated_text import generated_documents
from diffmamba_interp.text.tokenizer import train_tokenizer
from tests.models.tiny import random_tokens, tiny_model
from tests.needle.closed_form import sample_of

SAMPLES = [sample_of([1, 2, 3], [(1,), (2, 5)]), sample_of([4, 2], [(1,), (2,), (3,)])]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(list(generated_documents(n_chars=20_000, seed=0)), vocab_size=300)


def snapshot(folder: Path, _: PreTrainedTokenizerBase) -> tuple[Path, Callable[[], Any]]:
    write_snapshot(folder, {"step": 1, "weight": torch.arange(300.0)})
    return folder / "snapshot.pt", lambda: read_snapshot(folder)


def lens(folder: Path, _: PreTrainedTokenizerBase) -> tuple[Path, Callable[[], Any]]:
    model = tiny_model()
    save_lens(TunedLens.from_model(model), folder)
    return folder / "params.pt", lambda: load_lens(folder, model)


def attention(folder: Path, _: PreTrainedTokenizerBase) -> tuple[Path, Callable[[], Any]]:
    path = folder / "record.npz"
    extract_attention(tiny_model(), random_tokens(1, 6), 0).save(path)
    return path, lambda: AttentionRecord.load(path)


def needle_part(folder: Path, _: PreTrainedTokenizerBase) -> tuple[Path, Callable[[], Any]]:
    model = tiny_model()
    read = LogitLens.from_model(model)
    needle_trajectory(model, read, SAMPLES, path=folder)
    return folder / "part-00000.safetensors", lambda: needle_trajectory(model, read, SAMPLES, path=folder)


def needle_description(folder: Path, _: PreTrainedTokenizerBase) -> tuple[Path, Callable[[], Any]]:
    _, load = needle_part(folder, _)
    return folder / "measurement.json", load


def prompts(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[Path, Callable[[], Any]]:
    path = folder / "samples.xz"
    save_samples(path, make_needle_samples(tokenizer, n=2, length=0))
    return path, lambda: load_samples(path, tokenizer)


def session(folder: Path, _: PreTrainedTokenizerBase) -> tuple[Path, Callable[[], Any]]:
    path, record = folder / "session.zip", extract_attention(tiny_model(), random_tokens(1, 6), 0, reduce="mean")
    facts = {"title": "t", "model": "m", "dtype": "float32", "device": "cpu", "strings": ()}
    path.write_bytes(write_session("attention", {}, [KeptRecord(record=record, **facts)]))  # type: ignore[arg-type]
    return path, lambda: read_session(path.read_bytes())


@pytest.mark.parametrize("kind", [snapshot, lens, attention, needle_part, needle_description, prompts, session])
def test_a_flipped_byte_is_noticed_wherever_it_is_and_the_whole_file_opens(
    kind: Callable[[Path, PreTrainedTokenizerBase], tuple[Path, Callable[[], Any]]],
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    path, load = kind(tmp_path, tokenizer)
    whole = path.read_bytes()
    # About fifty places, and the end byte by byte, where the sums and what says where they are lie.
    for place in sorted({*range(0, len(whole), max(len(whole) // 50, 1)), *range(len(whole) - 95, len(whole))}):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{path.name}|{path.parent}|session file"):
            load()
    for length in (0, 30, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"{path.name}|{path.parent}|session file"):
            load()
    path.write_bytes(whole)
    load()


@pytest.mark.parametrize("suffix", [".parquet", ".csv.gz", ".json.gz"])
def test_a_flipped_byte_of_a_table_is_noticed_or_changes_nothing(tmp_path: Path, suffix: str) -> None:
    model, path = tiny_model(), tmp_path / f"records{suffix}"
    original = needle_trajectory(model, LogitLens.from_model(model), SAMPLES)
    original.save(path)
    whole, n_noticed = path.read_bytes(), 0
    places = range(0, len(whole), max(len(whole) // 150, 1))
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            read = type(original).load(path)
        except ValueError as error:
            assert path.name in str(error)  # noqa: PT017
            n_noticed += 1
        else:
            assert np.array_equal(read.log_probs, original.log_probs, equal_nan=True)
            assert (read.model, read.lenses, read.stages) == (original.model, original.lenses, original.stages)
            assert read.samples == original.samples
    assert n_noticed > 0.7 * len(places)


def test_arrays_of_before_sums_open_and_what_is_none_is_named(tmp_path: Path) -> None:
    arrays = {"a": np.arange(5), "b": np.array("text")}
    read = arrays_from_bytes(arrays_to_bytes(arrays), source="x.npz", remedy="Delete it.")
    assert {name: array.tolist() for name, array in read.items()} == {"a": [0, 1, 2, 3, 4], "b": "text"}
    np.savez(tmp_path / "old.npz", **arrays)
    old = arrays_from_bytes((tmp_path / "old.npz").read_bytes(), source="old.npz", remedy="Delete it.")
    assert old.keys() == arrays.keys()
    np.save(tmp_path / "single.npy", np.arange(3))
    objects = tmp_path / "objects.npz"
    np.savez(objects, a=np.array([object()]))
    for content in (b"", b"text", (tmp_path / "single.npy").read_bytes(), objects.read_bytes()):
        with pytest.raises(ValueError, match=r"^x.npz is .*Delete it\.$"):
            arrays_from_bytes(content, source="x.npz", remedy="Delete it.")


def test_needle_parts_of_before_sums_are_gone_on_with(tmp_path: Path) -> None:
    import json

    from safetensors.numpy import load_file, save_file

    model = tiny_model()
    read = LogitLens.from_model(model)
    whole = needle_trajectory(model, read, SAMPLES, path=tmp_path, max_samples=1)
    file, part = tmp_path / "measurement.json", tmp_path / "part-00000.safetensors"
    described = json.loads(file.read_text())
    file.write_text(json.dumps(described | {"format": "diffmamba_interp.needle_trajectory/1"}))
    arrays = load_file(part)
    save_file(arrays, part)
    (tmp_path / "part-00001.safetensors").unlink()
    again = needle_trajectory(model, read, SAMPLES, path=tmp_path, max_samples=1)
    assert np.array_equal(again.log_probs, whole.log_probs, equal_nan=True)
    # Said to have sums, it must have them.
    file.write_text(json.dumps(described))
    with pytest.raises(ValueError, match="part-00000.safetensors is damaged"):
        needle_trajectory(model, read, SAMPLES, path=tmp_path, max_samples=1)
