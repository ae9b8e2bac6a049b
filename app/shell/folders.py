"""Where models lie: in folders below the root, of which nothing outside is opened, or on the hub (`hub:owner/name`)."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from diffmamba_interp.models.checkpoint_hub import HUB_ID, files_to_fetch, resolve_folder
from diffmamba_interp.models.demo import DEMO_FOLDER, DEMO_NAMES, DemoName, demo_folder

CHECKPOINT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
LENS_FILE = "params.pt"
CONFIG_FILE = "config.json"
BUNDLED = "bundled:"
"""Prefix of the models that come with the package; they may lie outside of the root."""

MAX_NAME = 1000
MAX_DEPTH = 6
MAX_VISITED = 3000
HUB = "hub:"
TIMEOUT_S = 5.0
"""How long the hub may take to answer the first question about a model."""


@dataclass(frozen=True, kw_only=True)
class ModelKey:
    """Which model, and as what it is loaded. revision: changes with the folder's files. dtype: as torch calls it."""

    folder: Path
    revision: str
    dtype: str
    device: str


def open_folder(root: Path, name: str) -> Path:
    """The folder of a bundled model (`bundled:diff-mamba2`) or below `root`. Raises as `resolve_below`."""
    for bundled in DEMO_NAMES:
        if name == BUNDLED + bundled:
            return demo_folder(bundled)
    return resolve_below(root, name)


def bundled_names() -> list[str]:
    """The models that come with the package, as `open_folder` takes them."""
    return [BUNDLED + name for name in DEMO_NAMES if (demo_folder(name) / CONFIG_FILE).is_file()]


def bundled_name(folder: Path) -> DemoName | None:
    """The name of a bundled model's folder; None for other folders."""
    return next((name for name in DEMO_NAMES if folder == demo_folder(name)), None)


def tokenizer_folder(folder: Path) -> Path:
    """Where the tokenizer of a model's folder lies: in it, or in the folder that the bundled pair shares."""
    return DEMO_FOLDER / "tokenizer" if folder.parent == DEMO_FOLDER else folder


def resolve_below(root: Path, name: str) -> Path:
    """The folder `name`, relative to `root`, with symbolic links followed.

    Raises ValueError, in the same words whatever lies there, for a path that leads outside of the root, and for a
    folder that holds a file or folder which is a link out of it; FileNotFoundError if there is no such folder.
    """
    base = root.resolve()
    if not name.strip() or not name.isprintable() or len(name) > MAX_NAME:
        raise ValueError(f"{name[:80]!r} is no folder name: give a folder below {base}.")
    path = (base / name).resolve()
    if not path.is_relative_to(base):
        raise ValueError(
            f"{name!r} leads outside of the root folder {base}: only what lies below it is opened. Start the "
            "explorer with `-- --root FOLDER` to choose another root."
        )
    if not path.is_dir():
        raise FileNotFoundError(
            f"there is no folder {name!r} below {base}. A model of the Hugging Face hub is named `hub:owner/name`."
        )
    for entry in sorted(path.iterdir()):
        # Whatever is read of a model or lens lies in its folder; one check serves every kind of file.
        if entry.is_symlink() and not entry.resolve().is_relative_to(base):
            raise ValueError(
                f"{entry.name!r} in {name!r} is a link that leads outside of the root folder {base}: put the file "
                "itself there, or start the explorer with a `--root` that holds both."
            )
    return path


def find_folders(root: Path) -> tuple[list[str], list[str]]:
    """Checkpoint folders and lens folders below `root`, relative to it, sorted; hidden folders are left out."""
    base = root.resolve()
    checkpoints, lenses = [], []
    for visited, (folder, subfolders, files) in enumerate(os.walk(base)):
        if visited >= MAX_VISITED:
            break
        name = Path(folder).relative_to(base)
        subfolders[:] = sorted(s for s in subfolders if not s.startswith((".", "__"))) if _shallow(name) else []
        if CONFIG_FILE not in files or DEMO_FOLDER in (base / name).parents:
            continue
        if LENS_FILE in files:
            lenses.append(name.as_posix())
        elif any(file in files for file in CHECKPOINT_FILES):
            checkpoints.append(name.as_posix())
    return sorted(checkpoints), sorted(lenses)


def fingerprint(folder: Path) -> str:
    """Names, sizes and times of the files in `folder`, hashed: a replaced checkpoint is another revision."""
    stats = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
    listing = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr(listing).encode()).hexdigest()[:16]


def _shallow(name: Path) -> bool:
    return len(name.parts) < MAX_DEPTH


def is_hub_name(name: str) -> bool:
    return name.startswith(HUB)


def is_hub_id(name: str) -> bool:
    """Whether the hub can be asked for the name; others that begin like it are refused without asking."""
    return is_hub_name(name) and bool(HUB_ID.match(name.removeprefix(HUB)))


def hub_folder(name: str, *, allowed: bool, max_bytes: int) -> Path:
    """Where the files of `hub:owner/name` lie, fetched if they were not before.

    Raises ValueError for what is no hub id, where fetching is not allowed, and for a model of more than `max_bytes`;
    FileNotFoundError if the hub has no such model or does not answer.
    """
    wanted = name.removeprefix(HUB)
    if not HUB_ID.match(wanted):
        raise ValueError(f"{name[:80]!r} is no hub id: give it as `hub:owner/name`.")
    if not allowed:
        raise ValueError("this explorer was started with `--no-hub`: choose a bundled model or one below the root.")
    from huggingface_hub import try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(wanted, "config.json"), str):
        _require_small(wanted, max_bytes)
    return resolve_folder(wanted)


def hub_id(folder: Path) -> str | None:
    """The hub id whose files lie in `folder`; None for other folders."""
    repository = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not repository.startswith("models--"):
        return None
    return repository.removeprefix("models--").replace("--", "/", 1)


def _require_small(wanted: str, max_bytes: int) -> None:
    """Ask the hub for the size of the weights before any is fetched."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi().model_info(wanted, timeout=TIMEOUT_S, files_metadata=True)
    except HfHubHTTPError as error:
        raise FileNotFoundError(f"the hub has no model {wanted!r} that it gives out: {error}") from error
    except Exception as error:
        raise FileNotFoundError(
            f"the hub did not answer about {wanted!r} ({type(error).__name__}): without a network, choose a bundled "
            "model or a folder below the root."
        ) from error
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    n_bytes = sum(sizes[name] for name in files_to_fetch(sizes))
    if n_bytes > max_bytes:
        raise ValueError(
            f"the weights of {wanted!r} take {n_bytes / 2**30:.1f} GiB, more than the budget of "
            f"{max_bytes / 2**30:.1f} GiB: start the explorer with `-- --memory-gib N`."
        )
