"""Models as a command's options name them, each with the tokenizer and the lens that belong to it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from diffmamba_interp.lens.folders import demo_lens_folder, load_lens, read_description
from diffmamba_interp.lens.lenses import LogitLens
from diffmamba_interp.models.checkpoint_hub import resolve_folder
from diffmamba_interp.models.demo import DemoName, bundled_folder, load_demo_tokenizer
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out import Lens
from diffmamba_interp.text import DataError, load_tokenizer, tokenizer_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AUTO = "auto"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model with what reads it.

    given: the option that named it. name: what it is called in results. folder: of the checkpoint. tokenizer: its own;
    None where its folder holds none. lens_folder: of its lens, if it has one. lenses: that one by its kind, "tuned" or
    "jacobian", and "logit".
    """

    given: str
    name: str
    model: HookedMamba
    folder: Path
    tokenizer: PreTrainedTokenizerBase | None
    lens_folder: str | None
    lenses: dict[str, Lens]


def load_subject(given: str, *, lens: str | None, device: torch.device | str, dtype: torch.dtype) -> Subject:
    """The model of a folder, a hub id or a bundled one's name, and its lenses.

    lens: folder of its tuned or Jacobian lens; "auto": the bundled tuned one of a bundled model, else none; None: none.
    Raises FileNotFoundError or ValueError if one cannot be had or they do not fit each other.
    """
    model, folder = load_checkpoint(given, device=device, dtype=dtype)
    if lens == AUTO:
        is_bundled = bundled_folder(given) is not None
        lens = str(demo_lens_folder(cast(DemoName, given))) if is_bundled else None
        if not is_bundled:
            logger.warning("%s: no tuned lens was given, so the logit lens reads alone", given)
    lenses: dict[str, Lens] = {}
    if lens is not None:
        opened = load_lens(lens, model)
        lenses[opened.kind] = opened
    return Subject(
        given=given,
        name=Path(given).name,
        model=model,
        folder=folder,
        tokenizer=own_tokenizer(given, folder),
        lens_folder=lens,
        lenses=lenses | {"logit": LogitLens.from_model(model)},
    )


def require_comparable(baseline: Subject, subject: Subject) -> None:
    """Raise ValueError unless the two have equally many blocks, one vocabulary and, if each has one, lenses alike."""
    reasons = {"n_layers": "stage by stage, only models of equally many blocks", "d_vocab": "only one vocabulary"}
    for size, reason in reasons.items():
        theirs, ours = (getattr(one.model.cfg, size) for one in (baseline, subject))
        if theirs != ours:
            raise ValueError(
                f"{subject.given} has {size} {ours}, but the baseline {baseline.given} has {theirs}: {reason} can be "
                "compared. Give another --baseline, or --baseline none."
            )
    of_baseline, of_subject = (next(iter(one.lenses)) for one in (baseline, subject))
    if of_baseline != of_subject and None not in (baseline.lens_folder, subject.lens_folder):
        raise ValueError(
            f"{subject.given} is read by a {of_subject} lens, but {baseline.given} by a {of_baseline} lens, "
            "which say different things: give lenses of one kind, or none."
        )


def common_tokenizer(subjects: Sequence[Subject], given: str | None) -> PreTrainedTokenizerBase:
    """The given one, or the one that all subjects have.

    Raises ValueError if there are several, none, or it does not fit a model or a lens.
    """
    subject = subjects[-1]
    if given is not None:
        tokenizer = load_tokenizer(given)
    else:
        tokenizers = {tokenizer_hash(one.tokenizer): one.tokenizer for one in subjects if one.tokenizer is not None}
        if len(tokenizers) > 1:
            raise ValueError(
                f"{subject.given} and {subjects[0].given} have different tokenizers, so they would not read the same "
                "prompts. Give another --baseline, or --tokenizer if you know that one serves both."
            )
        try:
            (tokenizer,) = tokenizers.values() or [load_tokenizer(subject.folder)]
        except DataError as error:
            raise ValueError(
                f"{subject.given} holds no tokenizer: give --tokenizer FOLDER_OR_HUB_ID ({error})"
            ) from error
    d_vocab = subject.model.cfg.d_vocab
    if len(tokenizer) > d_vocab:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, but {subject.given} a vocabulary of {d_vocab}.")
    for one in subjects:
        stored = None if one.lens_folder is None else read_description(one.lens_folder).get("tokenizer_sha256")
        if stored not in (None, tokenizer_hash(tokenizer)):
            raise ValueError(f"the lens in {one.lens_folder} was trained with another tokenizer than this one.")
    return tokenizer


def load_checkpoint(given: str, *, device: torch.device | str, dtype: torch.dtype) -> tuple[HookedMamba, Path]:
    """The model that asks for no gradients, and its folder."""
    folder = bundled_folder(given) or resolve_folder(given)
    return HookedMamba.from_pretrained(folder, device=device, dtype=dtype).requires_grad_(False), folder


def own_tokenizer(given: str, folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer that comes with a model; None if there is none in its folder."""
    if bundled_folder(given) is not None:
        return load_demo_tokenizer()
    return load_tokenizer(folder) if (folder / "tokenizer.json").is_file() else None
