"""Where a checkpoint's folder is: here, in the hub's cache, or on the hub; fetching what is needed, and uploading.

The hub is asked first, with a limit on waiting; where it cannot be asked, or a download fails, a complete copy in the
cache serves, and an incomplete one is an error that says what went wrong.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants

from diffmamba_interp.models.checkpoint_files import (
    CONFIG_FILE,
    INDEX_SUFFIX,
    MEGATRON_FILE,
    PARAMS_FILE,
    given_path,
    megatron_ranks,
    weight_files,
)

HUB_TIMEOUT_S = 10.0
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")

SMALL_FILES = (
    *(CONFIG_FILE, PARAMS_FILE, "adapter_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
)
WEIGHTS = (
    ("model.safetensors", "model-*-of-*.safetensors", f"model.safetensors{INDEX_SUFFIX}"),
    ("pytorch_model.bin", "pytorch_model-*-of-*.bin", f"pytorch_model.bin{INDEX_SUFFIX}"),
    ("consolidated*.safetensors", f"consolidated.safetensors{INDEX_SUFFIX}"),
    (f"release/mp_rank_*/{MEGATRON_FILE}", f"mp_rank_*/{MEGATRON_FILE}"),
)
"""Patterns of the files that hold a model's weights, by kind; of the kinds that a repository has, the first is read."""

log = logging.getLogger(__name__)


def resolve_folder(path: str | Path, revision: str | None = None) -> Path:
    """The checkpoint's folder: `path` itself, or a download of the hub id `path` (from its cache if offline).

    Raises FileNotFoundError, which says what was tried and why it failed, when there is neither.
    """
    folder = given_path(path).expanduser()
    if revision is not None and (not isinstance(revision, str) or not revision):
        raise ValueError(f"revision is {revision!r}: give a branch, a tag or a commit of the hub as text, or None.")
    if folder.is_dir():
        return folder
    if folder.exists():
        raise FileNotFoundError(f"{path} is a file: give the folder that holds it and its {CONFIG_FILE}.")
    if not HUB_ID.match(str(path)):
        raise FileNotFoundError(f"there is no folder {str(path)!r}, and it is no hub id of the form 'owner/name'.")
    return _from_hub(str(path), revision)


def files_to_fetch(names: Iterable[str]) -> list[str]:
    """Of the files of a repository, those that `resolve_folder` would fetch: what a download's size is counted from."""
    names = list(names)
    for patterns in WEIGHTS:
        if weights := [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]:
            return weights + [name for name in names if name in SMALL_FILES]
    return [name for name in names if name in SMALL_FILES]


def upload_folder(
    write: Callable[[Path], None], repo_id: str, *, private: bool | None, token: str | None, **options: Any
) -> str:
    """Upload what `write` puts into an empty folder, in one commit; the commit's address.

    repo_id: "owner/name"; it is made, private or not, if it is not there. options: as `HfApi.upload_folder` takes them.
    """
    api = huggingface_hub.HfApi(token=token)
    repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as staged:
        write(Path(staged))
        return str(api.upload_folder(repo_id=repo_id, folder_path=staged, **options).commit_url)


def _from_hub(name: str, revision: str | None) -> Path:
    """A folder of the hub's cache: up to date, or as it is where the hub cannot be asked."""
    try:
        # Asked first, since the download itself waits for an answer without limit.
        info = huggingface_hub.HfApi().repo_info(name, revision=revision, timeout=HUB_TIMEOUT_S)
        _require_weights([file.rfilename for file in getattr(info, "siblings", None) or []])
        return _download(name, revision)
    except Exception as error:
        cached = _cached_folder(name, revision)
        if cached is not None and _is_complete(cached):
            log.warning("%s: the hub could not be asked (%s): reading the copy in %s.", name, _cause(error), cached)
            return cached
        raise FileNotFoundError(
            f"{name!r} is no folder here, and fetching it from the hub failed: {_cause(error)}. "
            f"{_state_of_cache(name, revision, cached)}Check the name and the connection, or give a local folder."
        ) from error


def _require_weights(names: list[str]) -> None:
    """Raise FileNotFoundError for a repository whose files are known and hold nothing that is read here."""
    if names and "adapter_config.json" not in names and set(files_to_fetch(names)) <= set(SMALL_FILES):
        shown = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
        raise FileNotFoundError(f"the repository holds no weights of a kind that is read here: {shown}")


def _download(name: str, revision: str | None) -> Path:
    """Config and the first kind of weights that the repository has; a pickle only where there are no safetensors."""
    for patterns in WEIGHTS:
        wanted = [*SMALL_FILES, *patterns]
        folder = Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=wanted))
        if any(True for pattern in patterns for _ in folder.glob(pattern)):
            break
    return folder


def _cached_folder(name: str, revision: str | None) -> Path | None:
    for file in (CONFIG_FILE, PARAMS_FILE):
        cached = huggingface_hub.try_to_load_from_cache(name, file, revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent
    return None


def _is_complete(folder: Path) -> bool:
    try:
        return bool(weight_files(folder))
    except (FileNotFoundError, ValueError):
        return bool(megatron_ranks(folder))


def _state_of_cache(name: str, revision: str | None, cached: Path | None) -> str:
    """What the cache holds of the repository, for an error; empty where it holds nothing."""
    if cached is not None:
        return f"The copy in {cached} is incomplete: its weights, or some of their shards, are missing. "
    repository = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    snapshots = sorted(entry.name for entry in (repository / "snapshots").glob("*"))
    if not snapshots:
        return ""
    wanted = revision or "main"
    if wanted not in snapshots and not (repository / "refs" / wanted).is_file():
        return (
            f"The cache, {repository}, holds {', '.join(snapshots[:3])}, but no refs/{wanted} that says which of them "
            f"is {wanted!r}: give one of these with revision=. "
        )
    return f"The copy in {repository} has no {CONFIG_FILE}. "


def _cause(error: Exception) -> str:
    """The error's own words, with the status of an HTTP answer and the reason of the operating system."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int) and str(status) not in text:
        text = f"HTTP {status}: {text}"
    if isinstance(error, OSError) and error.strerror and error.strerror not in text:
        text = f"{error.strerror}: {text}"
    return text
