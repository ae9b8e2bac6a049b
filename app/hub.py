"""Models of the hub: `hub:owner/name`, fetched once, with an answer within seconds where there is no network."""

from __future__ import annotations

from pathlib import Path

from diffmamba_interp.models.checkpoint_hub import HUB_ID, files_to_fetch, resolve_folder

HUB = "hub:"
TIMEOUT_S = 5.0
"""How long the hub may take to answer the first question about a model."""


def is_hub_name(name: str) -> bool:
    return name.startswith(HUB)


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
