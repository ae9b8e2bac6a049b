"""Weight files of a checkpoint folder: found, looked into without reading, read, and written without leaving halves.

Nothing is unpickled: safetensors, or pickles of plain tensors with `weights_only=True` (`checkpoint_pickles`).
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffmamba_interp.files.json_files import read_json_object
from diffmamba_interp.models.checkpoint_pickles import load_megatron, load_tensors

CONFIG_FILE = "config.json"
PARAMS_FILE = "params.json"
SAFETENSORS_FILE = "model.safetensors"
PICKLE_FILE = "pytorch_model.bin"
CONSOLIDATED_FILE = "consolidated.safetensors"
MEGATRON_FILE = "model_optim_rng.pt"
INDEX_SUFFIX = ".index.json"
WEIGHT_FILE = re.compile(
    r"^(model(-\d+-of-\d+)?\.safetensors|pytorch_model(-\d+-of-\d+)?\.bin"
    r"|model\.safetensors\.index\.json|pytorch_model\.bin\.index\.json)$"
)
"""What this module itself would load from a folder; other files there are the user's own."""
SHARD_SIZE = re.compile(r"^\s*\d+(\.\d+)?\s*[KMGT]B\s*$", re.IGNORECASE)

log = logging.getLogger(__name__)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; FileNotFoundError if it is missing, ValueError if it is something else."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. The folder holds: {listing(path.parent)}.")
    return read_json_object(path)


def given_path(path: object) -> Path:
    """`path` as a Path. Raises TypeError for what is no text or path, ValueError for an empty one."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise TypeError(f"path is {path!r}: give a folder as text or a Path.")
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise ValueError(f"path is {path!r}: give a folder.")
    return Path(path)


def listing(folder: Path, n: int = 20) -> str:
    """The names in a folder, for an error."""
    names = sorted(printable(entry.name) for entry in folder.iterdir())
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return (", ".join(names[:n]) or "nothing") + more


def printable(name: str) -> str:
    """A stranger's name of a tensor or file for a terminal: what is not printable is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in name)


def megatron_ranks(folder: Path) -> list[Path]:
    """Megatron's files of a checkpoint, one a rank, in `folder` or in its newest iteration; none if it is no such."""
    if (folder / MEGATRON_FILE).is_file():
        return [folder / MEGATRON_FILE]
    pattern = f"mp_rank_*/{MEGATRON_FILE}"
    below = [entry for entry in folder.iterdir() if entry.is_dir() and any(entry.glob(pattern))]
    newest = max(below, key=lambda entry: (entry.name == "release", entry.name), default=folder)
    return sorted(newest.glob(pattern) if newest is not folder else folder.glob(pattern))


@dataclass(frozen=True)
class WeightFiles:
    """What a folder's weight files hold: the file, shape and dtype of every tensor by its name.

    stored: the name that it has in its file, where that is another.
    """

    file_of: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    stored: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def in_folder(cls, folder: Path) -> WeightFiles:
        """Look into the weight files of `folder`, sharded or not; no tensor is read from safetensors."""
        file_of: dict[str, Path] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        dtypes: dict[str, str] = {}
        for file in weight_files(folder):
            for name, shape, dtype in _contents(file):
                if name in file_of:
                    raise ValueError(
                        f"{printable(name)} is stored twice, in {file_of[name].name} and in {file.name} of {folder}."
                    )
                file_of[name], shapes[name], dtypes[name] = file, shape, dtype
        if not file_of:
            raise ValueError(f"the weight files in {folder} hold no tensor.")
        return cls(file_of=file_of, shapes=shapes, dtypes=dtypes)

    @classmethod
    def of_tensors(cls, file: Path, tensors: Mapping[str, Tensor]) -> WeightFiles:
        """The tensors of one pickle, whose layout its caller knows."""
        return cls(
            file_of=dict.fromkeys(tensors, file),
            shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
            dtypes={name: _dtype_name(tensor) for name, tensor in tensors.items()},
        )

    def renamed(self, names: Mapping[str, str]) -> WeightFiles:
        """The same tensors by other names. Raises ValueError where two would have one name."""
        if all(name == new for name, new in names.items()):
            return self
        taken: dict[str, str] = {}
        for name, new in names.items():
            if new in taken:
                raise ValueError(
                    f"{printable(taken[new])} and {printable(name)} in {self.file_of[name]} are both {printable(new)} "
                    "of the model: the weights of two models lie in one file."
                )
            taken[new] = name
        return WeightFiles(
            file_of={new: self.file_of[name] for new, name in taken.items()},
            shapes={new: self.shapes[name] for new, name in taken.items()},
            dtypes={new: self.dtypes[name] for new, name in taken.items()},
            stored={new: self.stored.get(name, name) for new, name in taken.items()},
        )

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """The named tensors, on the CPU, in the dtype of the file."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.file_of[name], []).append(name)
        tensors: dict[str, Tensor] = {}
        for file, wanted in by_file.items():
            stored = _read_tensors(file, [self.stored.get(name, name) for name in wanted])
            tensors.update({name: stored[self.stored.get(name, name)] for name in wanted})
        return tensors

    def each(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor in turn, on the CPU; of safetensors, one at a time is held."""
        for file in sorted(set(self.file_of.values())):
            names = [name for name, place in self.file_of.items() if place == file]
            parts = [[name] for name in names] if file.suffix == ".safetensors" else [names]
            for part in parts:
                yield from self.read(part).items()


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


def check_shard_size(max_shard_size: object) -> None:
    """Raise ValueError for what is no size of a shard."""
    is_number = isinstance(max_shard_size, int) and not isinstance(max_shard_size, bool) and max_shard_size > 0
    if not is_number and not (isinstance(max_shard_size, str) and SHARD_SIZE.match(max_shard_size)):
        raise ValueError(f"max_shard_size is {max_shard_size!r}: give a number of bytes, or a text such as '5GB'.")


def write_weights(tensors: dict[str, Tensor], folder: Path, max_shard_size: int | str) -> None:
    """Write safetensors, in shards with an index if they exceed `max_shard_size` (bytes, or e.g. `"5GB"`)."""
    split = huggingface_hub.split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)
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


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the model's weights: the first kind of those this module knows.

    Where a whole file and an index of shards stand side by side, one of them is of another save: the whole one is read,
    as transformers does, and the log says so. Raises FileNotFoundError where there is neither.
    """
    for name in (SAFETENSORS_FILE, PICKLE_FILE, CONSOLIDATED_FILE):
        whole, index = folder / name, folder / (name + INDEX_SUFFIX)
        if whole.is_file():
            if index.is_file():
                log.warning("%s is read, as transformers does, and the shards of %s are not.", whole, index.name)
            return [whole]
        if index.is_file():
            return _shards(index)
    raise FileNotFoundError(
        f"{folder} holds no {SAFETENSORS_FILE} and no {PICKLE_FILE}, whole or sharded: {listing(folder)}."
    )


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map: it is not the index of a sharded checkpoint.")
    if not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(f"{index} has a weight_map whose values are not all file names.")
    names = sorted(set(weight_map.values()))
    unsafe = [name for name in names if Path(name).name != name or not name.isprintable()]
    if unsafe:
        raise ValueError(f"{index} names files outside its folder: {unsafe}. Refused.")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{index.name} lists shards that are not there: {', '.join(missing)}. Fetch them again."
        )
    return [index.parent / name for name in names]


def _contents(file: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    if file.suffix != ".safetensors":
        for name, tensor in load_tensors(file).items():
            yield name, tuple(tensor.shape), _dtype_name(tensor)
        return
    with _opened(file) as opened:
        for name in opened.keys():  # noqa: SIM118 - the reader is no mapping
            part = opened.get_slice(name)
            yield name, tuple(part.get_shape()), part.get_dtype()


def _read_tensors(file: Path, names: list[str]) -> dict[str, Tensor]:
    if file.suffix != ".safetensors":
        loaded = load_megatron(file)[0] if file.name == MEGATRON_FILE else load_tensors(file)
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


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
