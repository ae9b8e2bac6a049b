"""A lens on the hub: its folder as it is, and its card as the page that the hub shows.

push_lens("runs/lens/mine", "me/lens-of-mine", base_model="me/mine")
load_lens("me/lens-of-mine", model)
"""

from __future__ import annotations

import shutil
from pathlib import Path

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.lens.card import CARD_FILE
from diffmamba_interp.lens.folders import lens_kind
from diffmamba_interp.lens.lenses import CONFIG_FILE, LENS_FILE, PARAMS_FILE
from diffmamba_interp.models.checkpoint_hub import upload_folder

README = "README.md"
NEEDED = (CONFIG_FILE, PARAMS_FILE)
KEPT = (*NEEDED, LENS_FILE, "recipe.toml", "metrics.json", "figure.svg")
"""What of a run's folder is uploaded: the lens, what it was made with and how good it is; no log and no snapshot."""


@checked
def hub_card(folder: str | Path, *, base_model: str | None = None) -> str:
    """The page of the lens in `folder`: the head that the hub reads, then the folder's card, if it has one.

    base_model: hub id of the model that it is of; the hub then links the two. Raises FileNotFoundError.
    """
    folder = Path(folder)
    kind = lens_kind(folder)
    head = ["---", "library_name: diffmamba-interp", "tags:", f"- {kind}-lens", "- interpretability", "- mamba"]
    head += [f"base_model: {base_model}"] if base_model else []
    card = folder / CARD_FILE
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {kind.capitalize()} lens\n"
    return "\n".join([*head, "---", "", text])


@checked
def push_lens(
    folder: str | Path,
    repo_id: str,
    *,
    base_model: str | None = None,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Upload the lens in `folder` to the hub, where `load_lens(repo_id, model)` finds it; the commit's address.

    repo_id: "owner/name"; it is made if it is not there. base_model: as in `hub_card`. revision: a branch. token: of an
    account that may write there; None: the one that is logged in.

    Raises FileNotFoundError for a folder that holds no lens, and what the hub's own library raises.
    """
    folder = Path(folder)
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"folder {str(folder)!r} holds no lens: {' and '.join(missing)} missing.")

    def write(staged: Path) -> None:
        for name in KEPT:
            if (folder / name).is_file():
                shutil.copy(folder / name, staged)
        Path(staged, README).write_text(hub_card(folder, base_model=base_model), encoding="utf-8")

    message = "Upload a lens of diffmamba_interp"
    return upload_folder(write, repo_id, private=private, token=token, revision=revision, commit_message=message)
