"""The published checkpoints among the fixtures: how they are packed, and the conversion's two, which share layers."""

import json
import lzma
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

LAST_MIXER = "backbone.layers.3.mixer."
PACKED = ".xz"


def unpack(source: Path, folder: Path) -> None:
    """The files of `source` in `folder`, those that are packed as they were: xz of first bytes, second bytes and so on.

    Random float32 weights have little to squeeze but their first bytes, which are much alike.
    """
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix == PACKED:
            planes = lzma.decompress(file.read_bytes())
            whole = len(planes) // 4 * 4
            words = np.frombuffer(planes[:whole], np.uint8).reshape(4, -1).T.tobytes()
            (folder / file.stem).write_bytes(words + planes[whole:])
        else:
            (folder / file.name).symlink_to(file)


def converted_tensors(source: Path) -> dict[str, Tensor]:
    """The converted checkpoint: the plain one's tensors, its last mixer replaced."""
    plain = load_file(source / "plain.safetensors")
    kept = {name: tensor for name, tensor in plain.items() if not name.startswith(LAST_MIXER)}
    return kept | load_file(source / "converted_last_quarter.safetensors")


def write_converted(source: Path, folder: Path) -> None:
    """The converted checkpoint as a folder, with `input_ids` and `logits` in expected.safetensors."""
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    named = {"architectures": ["DiffMamba2ForCausalLM"], "diffmamba": True, "diffmamba_settings": "quarter"}
    (folder / "config.json").write_text(json.dumps(config | named))
    save_file(converted_tensors(source), folder / "model.safetensors")
    expected = load_file(source / "expected.safetensors")
    kept = {"input_ids": expected["input_ids"], "logits": expected["converted_logits"]}
    save_file(kept, folder / "expected.safetensors")
