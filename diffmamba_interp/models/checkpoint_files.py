"""Weight files of a checkpoint folder: found, looked into without reading, read, and written without leaving halves.

Nothing is unpickled: safetensors, or `pytorch_model.bin` of plain tensors with `weights_only=True`.
"""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download, split_torch_state_dict_into_shards, try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

CONFIG_FILE = "config.json"
SAFETENSORS_FILE = "model.safetensors"
PICKLE_FILE = "pytorch_model.bin"
INDEX_SUFFIX = ".index.json"
WEIGHT_FILE = re.compile(
    r"^(model(-\d+-of-\d+)?\.safetensors|pytorch_model(-\d+-of-\d+)?\.bin"
    r"|model\.safetensors\.index\.json|pytorch_model\.bin\.index\.json)$"
)
"""What this module itself would load from a folder; other files there are the user's own."""
HUB_TIMEOUT_S = 10.0
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")


def resolve_folder(path: str | Path, revision: str | None = None) -> Path:
    """The checkpoint's folder: `path` itself, or a download of the hub id `path` (from its cache if offline).

    Raises FileNotFoundError, which says what was tried, when there is neither.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise FileNotFoundError(f"{path} is a file: give the folder that holds it and its {CONFIG_FILE}.")
    if not HUB_ID.match(str(path)):
        raise FileNotFoundError(f"there is no folder {str(path)!r}, and it is no hub id of the form 'owner/name'.")
    return _from_hub(str(path), revision)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ValueError if it is missing, malformed, or something else."""
    if not path.is_file():
        present = ", ".join(sorted(entry.name for entry in path.parent.iterdir())) or "nothing"
        raise FileNotFoundError(f"{path} is missing. The folder holds: {present}.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, where an object of settings was expected.")
    return value


@dataclass(frozen=True)
class WeightFiles:
    """What a folder's weight files hold: the file, shape and dtype of every tensor, by its name in the files."""

    file_of: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]

    @classmethod
    def in_folder(cls, folder: Path) -> WeightFiles:
        """Look into the weight files of `folder`, sharded or not; no tensor is read from safetensors."""
        file_of: dict[str, Path] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        dtypes: dict[str, str] = {}
        for file in _weight_files(folder):
            for name, shape, dtype in _contents(file):
                if name in file_of:
                    raise ValueError(f"{name} is stored twice, in {file_of[name].name} and in {file.name}.")
                file_of[name], shapes[name], dtypes[name] = file, shape, dtype
        return cls(file_of=file_of, shapes=shapes, dtypes=dtypes)

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """The named tensors, on the CPU, in the dtype of the file."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.file_of[name], []).append(name)
        tensors: dict[str, Tensor] = {}
        for file, wanted in by_file.items():
            tensors.update(_read_tensors(file, wanted))
        return tensors


@contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`, whose files move into `folder` when the block ends well."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
        mode = _usual_mode(Path(temporary))
        yield Path(temporary)
        for file in sorted(Path(temporary).iterdir(), key=lambda entry: entry.name == CONFIG_FILE):
            file.chmod(mode)
            file.replace(folder / file.name)


def _usual_mode(folder: Path) -> int:
    """The permissions that a new file gets here; safetensors writes files that only their owner can read."""
    probe = folder / "probe"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    return mode


def write_weights(tensors: dict[str, Tensor], folder: Path, max_shard_size: int | str) -> None:
    """Write safetensors, in shards with an index if they exceed `max_shard_size` (bytes, or e.g. `"5GB"`)."""
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)
    for filename, names in split.filename_to_tensors.items():
        save_file({name: tensors[name].contiguous() for name in names}, folder / filename, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / (SAFETENSORS_FILE + INDEX_SUFFIX)).write_text(json.dumps(index, indent=1), encoding="utf-8")


def remove_stale_weights(folder: Path, written: set[str]) -> None:
    """Delete weight files of an earlier save that the new one did not replace: they would be loaded instead."""
    for file in folder.iterdir():
        if WEIGHT_FILE.match(file.name) and file.name not in written:
            file.unlink()


def _from_hub(name: str, revision: str | None) -> Path:
    """A folder of the hub's cache: up to date, or as it is where the hub cannot be asked."""
    try:
        # Asked first, since the download itself waits for an answer without limit.
        HfApi().repo_info(name, revision=revision, timeout=HUB_TIMEOUT_S)
        return _download(name, revision)
    except Exception as error:
        cached = try_to_load_from_cache(name, CONFIG_FILE, revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent
        raise FileNotFoundError(
            f"{name!r} is no folder here, and fetching it from the hub failed: {error}. "
            "Check the name and the connection, or give a local folder."
        ) from error


def _download(name: str, revision: str | None) -> Path:
    """Config and weights; a pickle only where there are no safetensors."""
    patterns = [CONFIG_FILE, "*.safetensors", f"*.safetensors{INDEX_SUFFIX}"]
    folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    if any(folder.glob("*.safetensors")):
        return folder
    patterns = [CONFIG_FILE, "pytorch_model*.bin", f"{PICKLE_FILE}{INDEX_SUFFIX}"]
    return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))


def _weight_files(folder: Path) -> list[Path]:
    for name in (SAFETENSORS_FILE, PICKLE_FILE):
        index = folder / (name + INDEX_SUFFIX)
        if index.is_file():
            return _shards(index)
        if (folder / name).is_file():
            return [folder / name]
    present = ", ".join(sorted(entry.name for entry in folder.iterdir())) or "nothing"
    raise FileNotFoundError(f"{folder} holds no {SAFETENSORS_FILE} and no {PICKLE_FILE}, whole or sharded: {present}.")


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map: it is not the index of a sharded checkpoint.")
    if not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(f"{index} has a weight_map whose values are not all file names.")
    names = sorted(set(weight_map.values()))
    unsafe = [name for name in names if Path(name).name != name]
    if unsafe:
        raise ValueError(f"{index} names files outside its folder: {unsafe}. Refused.")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{index.name} lists shards that are not there: {', '.join(missing)}. Fetch them again."
        )
    return [index.parent / name for name in names]


def _contents(file: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    if file.suffix == ".bin":
        for name, tensor in _load_pickle(file).items():
            yield name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        return
    with _opened(file) as opened:
        for name in opened.keys():  # noqa: SIM118 - the reader is no mapping
            part = opened.get_slice(name)
            yield name, tuple(part.get_shape()), part.get_dtype()


def _read_tensors(file: Path, names: list[str]) -> dict[str, Tensor]:
    if file.suffix == ".bin":
        loaded = _load_pickle(file)
        return {name: loaded[name] for name in names}
    with _opened(file) as opened:
        return {name: opened.get_tensor(name) for name in names}


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except SafetensorError as error:
        raise ValueError(
            f"{file} is not a readable safetensors file ({error}). An interrupted download leaves such a file: "
            "fetch it again."
        ) from error


def _load_pickle(file: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged file can make the reader fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{file} is not a file of plain tensors ({reason}). It was not unpickled, since that can run any code. "
            "Ask its author for safetensors."
        ) from error
    items = loaded.items() if isinstance(loaded, dict) else [(None, None)]
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in items):
        raise ValueError(f"{file} does not hold a dictionary of tensors, which a checkpoint is.")
    return loaded
