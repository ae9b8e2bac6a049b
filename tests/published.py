"""The published conversion, whose two checkpoints share all layers but the last."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

LAST_MIXER = "backbone.layers.3.mixer."


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
