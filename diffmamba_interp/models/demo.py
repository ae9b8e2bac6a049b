"""The demo pair: a small Mamba-2 and a Diff-Mamba-2, trained on the same tokens, that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.models.checkpoints import load_model
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.ops.select import Impl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DemoName = Literal["diff-mamba2", "mamba2"]
DEMO_NAMES: tuple[DemoName, ...] = get_args(DemoName)
DEMO_FOLDER = Path(__file__).parent / "demo_files"


def load_demo(
    name: DemoName = "diff-mamba2",
    *,
    device: torch.device | str | int | None = "cpu",
    dtype: torch.dtype | str | None = torch.float32,
    impl: Impl | str = "auto",
) -> tuple[HookedMamba, PreTrainedTokenizerFast]:
    """A model of the demo pair and the pair's tokenizer, from the package's own files: no network.

    `name`: `"diff-mamba2"` or `"mamba2"`. Their cards say how they were made and what they can do:
    `demo_folder(name) / "CARD.md"`. Raises ValueError for another name.
    """
    folder = demo_folder(name)
    return load_model(folder, device=device, dtype=dtype, impl=impl), load_demo_tokenizer()


@checked
def demo_folder(name: DemoName) -> Path:
    """The folder of a demo model: `config.json`, `model.safetensors`, `CARD.md`."""
    if name not in DEMO_NAMES:
        raise ValueError(f"there is no demo model {name!r}: choose one of {', '.join(DEMO_NAMES)}.")
    return DEMO_FOLDER / name


def bundled_folder(name: str) -> Path | None:
    """The folder of the demo model `name`; None where that is no demo model, or something here has the same name."""
    return demo_folder(name) if name in DEMO_NAMES and not Path(name).exists() else None


def load_demo_tokenizer() -> PreTrainedTokenizerFast:
    """The pair's byte-level BPE tokenizer with 4,096 tokens; end of text is id 0, padding (on the right) id 1."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(DEMO_FOLDER / "tokenizer")
