"""Whose folder a checkpoint is, translated into one of the four formats: its config's fields, its tensors' names.

    our formats     config.json and model.safetensors or pytorch_model.bin; names may stand below a wrapper's prefix
    Mistral         params.json and consolidated*.safetensors: mamba_ssm's names below `model.`
    Megatron        [release/]mp_rank_00/model_optim_rng.pt: other names, and the config in the file

What else is taken for a checkpoint (adapters, GGUF, other libraries' files) is refused with what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffmamba_interp.models.checkpoint_fields import is_fla, require_supported_kind
from diffmamba_interp.models.checkpoint_files import (
    CONFIG_FILE,
    PARAMS_FILE,
    WeightFiles,
    listing,
    megatron_ranks,
    printable,
    read_json,
)
from diffmamba_interp.models.checkpoint_pickles import load_megatron
from diffmamba_interp.models.checkpoint_sizes import require_layers, stored_sizes
from diffmamba_interp.models.config_fields import ConfigFields

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""Parts of a name that data-parallel training and torch.compile add, anywhere in it."""

TOP = r"(backbone\.)?(embeddings?\.weight|layers\.\d+\..+|norm_f\.weight)|lm_head\.weight"
OUR_TOP = r"embed\.weight|blocks\.\d+\..+|ln_final\.weight|unembed\.weight"

MEGATRON_PARTS = (
    (r"embedding\.word_embeddings\.weight", "backbone.embeddings.weight"),
    (r"output_layer\.weight", "lm_head.weight"),
    (r"decoder\.final_(?:layer)?norm\.weight", "backbone.norm_f.weight"),
    (r"decoder\.layers\.(\d+)\.(?:mixer\.in_proj\.layer_norm_weight|norm\.weight)", r"backbone.layers.\1.norm.weight"),
    (r"decoder\.layers\.(\d+)\.mixer\.(.+)", r"backbone.layers.\1.mixer.\2"),
)
"""Megatron's names, the first that matches counts: ours in the Hugging Face format."""

FOREIGN_FILES = (
    ("*.gguf", "GGUF files hold quantised weights for llama.cpp: load the original checkpoint instead"),
    ("*.nemo", "a .nemo archive is NeMo's: convert it to Hugging Face's layout with NeMo's own scripts"),
    ("*.distcp", "these are torch's distributed shards: gather them with torch.distributed.checkpoint.format_utils, "
     "then save safetensors"),
    ("*.onnx", "ONNX files hold a graph, not a checkpoint: load the original checkpoint instead"),
    ("*.msgpack", "Flax weights are not read: save them from transformers as safetensors"),
    ("*.h5", "TensorFlow weights are not read: save them from transformers as safetensors"),
    ("*.mlpackage", "Core ML packages are not read: load the original checkpoint instead"),
)  # fmt: skip


@dataclass(frozen=True)
class OpenedLayout:
    """A folder as one of the four formats. config_file: where `raw` comes from; layout: whose it is, in words."""

    config_file: Path
    raw: dict[str, Any]
    files: WeightFiles
    layout: str


def open_layout(folder: Path) -> OpenedLayout:
    """The folder's config and weights in the terms of one of the four formats; no tensor is read from safetensors.

    Raises FileNotFoundError where the config or the weights are missing, and ValueError for what is not supported.
    """
    config_file = folder / CONFIG_FILE
    if not config_file.is_file():
        return _open_without_config(folder)
    raw = read_json(config_file)
    if _is_mistral(raw):
        return _open_mistral(folder, config_file, raw)
    with naming(config_file):
        require_supported_kind(raw)
    _refuse_adapter(folder)
    try:
        files = WeightFiles.in_folder(folder)
    except FileNotFoundError:
        _refuse_foreign_files(folder)
        raise
    ours = raw.get("format") == "diffmamba_interp"
    files = files.renamed(_published_names(files.shapes, ours))
    _refuse_adapter_tensors(folder, files)
    return OpenedLayout(config_file, raw, files, "flash-linear-attention" if is_fla(raw) else "")


class naming:
    """Context: what is wrong inside is said of the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError):
            raise ValueError(f"{self.path}: {error}") from error
        if isinstance(error, KeyError | TypeError | IndexError | ArithmeticError | AttributeError):
            raise ValueError(f"{self.path} is incomplete or malformed: {error}.") from error


def _open_without_config(folder: Path) -> OpenedLayout:
    params = folder / PARAMS_FILE
    if params.is_file():
        return _open_mistral(folder, params, read_json(params))
    if ranks := megatron_ranks(folder):
        return _open_megatron(ranks)
    _refuse_adapter(folder)
    _refuse_foreign_files(folder)
    raise FileNotFoundError(f"{folder / CONFIG_FILE} is missing. The folder holds: {listing(folder)}.")


def _refuse_foreign_files(folder: Path) -> None:
    for pattern, advice in FOREIGN_FILES:
        if file := next(iter(sorted(folder.glob(pattern))), None):
            raise ValueError(f"{folder} holds {printable(file.name)}, and no weights that are read here: {advice}.")


def _refuse_adapter(folder: Path) -> None:
    adapter = folder / "adapter_config.json"
    if not adapter.is_file() or any(folder.glob("model*.safetensors")) or any(folder.glob("pytorch_model*.bin")):
        return
    try:
        base = read_json(adapter).get("base_model_name_or_path")
    except ValueError:
        base = None
    raise ValueError(
        f"{folder} is a PEFT adapter{f' of {base!r}' if base else ''}, not a whole model: merge it first (with peft: "
        "PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)) and load the result."
    )


def _refuse_adapter_tensors(folder: Path, files: WeightFiles) -> None:
    parts = [name for name in files.shapes if ".lora_" in name or ".base_layer." in name]
    if parts:
        raise ValueError(
            f"the weights in {folder} are those of a model with an adapter that was not merged "
            f"({printable(parts[0])}): merge it (with peft: merge_and_unload()), save the model and load the result."
        )


def _published_names(names: Iterable[str], ours: bool) -> dict[str, str]:
    """A name in the files: without what wrappers put before it, and with `backbone.` where a base model has none."""
    bare = {name: ".".join(part for part in name.split(".") if part not in WRAPPERS) for name in names}
    prefix = _common_prefix(list(bare.values()), OUR_TOP if ours else TOP)
    renamed = {name: short.removeprefix(prefix) for name, short in bare.items()}
    if ours or any(name.startswith("backbone.") for name in renamed.values()):
        return renamed
    in_backbone = re.compile(r"^(embeddings?|layers|norm_f)\.")
    return {name: f"backbone.{short}" if in_backbone.match(short) else short for name, short in renamed.items()}


def _common_prefix(names: list[str], top: str) -> str:
    """What stands before the model's own names in all of them, such as `model.`; nothing where they differ in it."""
    pattern = re.compile(rf"^(?P<prefix>(?:\w+\.)*?)(?:{top})$")
    prefixes = {match["prefix"] for name in names if (match := pattern.match(name))}
    (prefix,) = prefixes if len(prefixes) == 1 else ("",)
    return prefix if all(name.startswith(prefix) for name in names) else ""


def _is_mistral(raw: Mapping[str, Any]) -> bool:
    return raw.get("model_type") == "mamba" and "dim" in raw and "n_layers" in raw


def _open_mistral(folder: Path, config_file: Path, raw: dict[str, Any]) -> OpenedLayout:
    """Mistral's own Codestral: mamba_ssm's model with few of its settings."""
    with naming(config_file):
        fields = ConfigFields(raw)
        kind = fields.value("model_type", "transformer")
        if kind != "mamba":
            raise ValueError(
                f"it describes a Mistral model of kind {kind!r}: only 'mamba' (Codestral Mamba) is one here."
            )
        translated = {
            "d_model": fields.integer("dim"),
            "n_layer": fields.integer("n_layers"),
            "vocab_size": fields.integer("vocab_size"),
            "ssm_cfg": {"layer": "Mamba2", "ngroups": fields.integer("n_groups", None)},
            "rms_norm": fields.flag("rms_norm", True),
            "residual_in_fp32": fields.flag("residual_in_fp32", True),
            "pad_vocab_size_multiple": fields.integer("pad_vocab_size_multiple", 1),
            "tie_embeddings": fields.flag("tie_embeddings", False),
        }
        unknown = {name: raw[name] for name in fields.unknown(("fused_add_norm", "max_batch_size"))}
    files = WeightFiles.in_folder(folder)
    files = files.renamed(_published_names(files.shapes, ours=False))
    with naming(config_file):
        require_layers(translated["n_layer"], files.shapes, name="n_layers")
        if (d_model := stored_sizes(files.shapes).d_model) not in (None, translated["d_model"]):
            raise ValueError(f"dim is {translated['d_model']}, but the weights are those of {d_model}.")
    return OpenedLayout(config_file, translated | unknown, files, "Mistral")


def _open_megatron(ranks: list[Path]) -> OpenedLayout:
    if len(ranks) > 1:
        raise ValueError(
            f"{ranks[0].parent.parent} holds a Megatron model in {len(ranks)} parts. Join them first with "
            "Megatron-LM's tools/checkpoint/hybrid_conversion.py --target-tp-size 1 --target-pp-size 1."
        )
    (file,) = ranks
    tensors, args = load_megatron(file)
    files = WeightFiles.of_tensors(file, tensors)
    bare = {name: ".".join(part for part in name.split(".") if part not in WRAPPERS) for name in files.shapes}
    _refuse_hybrid(file, bare.values())
    files = files.renamed({name: _from_megatron(short) for name, short in bare.items()})
    with naming(file):
        return OpenedLayout(file, _megatron_config(args, files), files, "Megatron")


def _refuse_hybrid(file: Path, names: Iterable[str]) -> None:
    other = [name for name in names if ".self_attention." in name or ".mlp." in name or "_norm_bias" in name]
    if other:
        raise ValueError(
            f"{file} holds {printable(other[0])}: attention, feed-forward blocks or LayerNorms are not part of a pure "
            "Mamba-2 stack."
        )


def _from_megatron(name: str) -> str:
    for pattern, ours in MEGATRON_PARTS:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    return name


def _megatron_config(args: Mapping[str, Any], files: WeightFiles) -> dict[str, Any]:
    """Hugging Face's fields from the arguments of the run, as far as the numbers depend on them."""
    fields = ConfigFields(args, within="args.")
    needed = {
        "normalization": ("RMSNorm",),
        "apply_layernorm_1p": (False,),
        "norm_epsilon": (1e-5,),
        "tensor_model_parallel_size": (1,),
        "pipeline_model_parallel_size": (1,),
        "add_bias_linear": (False, True),
    }
    wrong = [
        f"{name}={args[name]!r}" for name, allowed in needed.items() if fields.value(name, allowed[0]) not in allowed
    ]
    if wrong:
        raise ValueError(f"the run's arguments are not those of a Mamba-2 that is supported: {', '.join(wrong)}.")
    return {
        "model_type": "mamba2",
        "layer_norm_epsilon": 1e-5,
        "state_size": fields.integer("mamba_state_dim", None),
        "n_groups": fields.integer("mamba_num_groups", None),
        "head_dim": fields.integer("mamba_head_dim", None),
        "residual_in_fp32": fields.flag("fp32_residual_connection", False),
        "tie_word_embeddings": "lm_head.weight" not in files.shapes,
    }
