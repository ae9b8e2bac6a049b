"""Loading and saving checkpoints in six formats, strictly: every key is used, every key is there.

One two-way table (`checkpoint_fields.KEY_PARTS`) turns our parameter names into the published ones:

    embed.weight                              backbone.embeddings.weight    (or backbone.embedding.weight)
    blocks.3.norm.weight                      backbone.layers.3.norm.weight
    blocks.3.mixer.in_proj.weight             backbone.layers.3.mixer.in_proj.weight
    blocks.3.mixer.inner_norm.weight          backbone.layers.3.mixer.norm.weight
    blocks.3.mixer.minuend.in_proj.weight     backbone.layers.3.mixer_1.in_proj.weight       (subtrahend: mixer_2)
    blocks.3.mixer.lambda_q1                  backbone.layers.3.lambda_q1
    blocks.3.mixer.subnorm.weight             backbone.layers.3.subln.weight
    ln_final.weight, unembed.weight           backbone.norm_f.weight, lm_head.weight

Strangers' layouts are first translated into one of these (`checkpoint_layouts`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from diffmamba_interp.config import HookedMambaConfig
from diffmamba_interp.files.json_files import json_text
from diffmamba_interp.models.checkpoint_configs import detect_format, read_config, write_config
from diffmamba_interp.models.checkpoint_fields import FORMATS, Format, published_name
from diffmamba_interp.models.checkpoint_files import (
    CONFIG_FILE,
    PICKLE_FILE,
    WeightFiles,
    check_shard_size,
    given_path,
    printable,
    remove_stale_weights,
    replacing_files,
    write_weights,
)
from diffmamba_interp.models.checkpoint_hub import resolve_folder
from diffmamba_interp.models.checkpoint_layouts import naming, open_layout
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.loading_options import check_dtype, check_impl, chosen_device, chosen_dtype
from diffmamba_interp.models.read_out_identity import remember_checkpoint
from diffmamba_interp.ops.select import Impl

__all__ = ["FORMATS", "Checkpoint", "Format", "key_table", "load_model", "open_checkpoint", "save_model"]

FLOAT32_PARAMETERS = (
    "A_log",
    "D",
    "dt_bias",
    "dt_proj.bias",
    "lambda_q1",
    "lambda_k1",
    "lambda_q2",
    "lambda_k2",
    "lambda_w",
    "lambda_b",
)
"""Kept in float32 at any dtype: they are few, and exp, softplus and sigmoid magnify their rounding."""

FLOATING_POINT = ("F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16")
"""As safetensors and torch name them."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder, looked into but not read: its format, config, tensors, and how they fit together.

    table: our parameter names to those in the files. missing, unexpected: names in the files' convention that
    the model needs and lacks, and that it has no use for. misshapen: (name, shape in the file, shape needed).
    config_file: where the config was read. layout: whose files they are, where they were translated into `format`.
    """

    folder: Path
    config_file: Path
    layout: str
    format: Format
    cfg: HookedMambaConfig
    files: WeightFiles
    table: dict[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def require_complete(self) -> None:
        """Raise ValueError, naming the keys, unless the files hold just what the model needs."""
        problems = []
        if self.missing:
            problems.append(f"missing: {_first(self.missing)}")
        if self.unexpected:
            problems.append(f"not part of the model: {_first(self.unexpected)}")
        if self.misshapen:
            lines = [f"{name} is {list(given)}, needed {list(needed)}" for name, given, needed in self.misshapen]
            problems.append(f"wrong shape: {_first(lines)}")
        if problems:
            raise ValueError(
                f"the weights in {self.folder} do not fit its {self.config_file.name} (format {self.format}): "
                f"{'; '.join(problems)}.{self._advice()} Nothing was loaded."
            )

    def _advice(self) -> str:
        if not self.unexpected and not self.misshapen and self.missing == ("lm_head.weight",):
            return (
                " It is a model without an unembedding, so it has no logits; where the embedding is meant to serve, "
                f"say so in {self.config_file.name}: tie_word_embeddings (tie_embeddings) true."
            )
        is_embedding = self.missing == (self.table["embed.weight"],)
        if not self.unexpected and not self.misshapen and is_embedding and "lm_head.weight" in self.files.shapes:
            return (
                " Only the unembedding is stored; where it is meant to serve as embedding, too, say so in "
                f"{self.config_file.name}: tie_word_embeddings (tie_embeddings) true."
            )
        return ""


def key_table(cfg: HookedMambaConfig, format: Format) -> dict[str, str]:
    """Our name of every tensor that a checkpoint of this format stores, to its name there; one to one."""
    names = list(_needed_shapes(cfg))
    if cfg.tie_embeddings and format != "state_spaces":
        names.remove("unembed.weight")
    return {name: published_name(name, format) for name in names}


def open_checkpoint(path: str | Path, revision: str | None = None) -> Checkpoint:
    """Look into a checkpoint folder or hub id; reads headers, not tensors (a `.bin` is read whole)."""
    folder = resolve_folder(path, revision)
    opened = open_layout(folder)
    raw, files = opened.raw, opened.files
    _require_floating_point(folder, files)
    with naming(opened.config_file):
        format = detect_format(raw, files.shapes)
        cfg = read_config(raw, format, files.shapes)
        table = key_table(cfg, format)
        needed = _needed_shapes(cfg)
    if format != "diffmamba_interp":
        table["embed.weight"] = _stored_embedding(cfg, files, table["embed.weight"])
    optional = {"lm_head.weight", "unembed.weight"} if cfg.tie_embeddings else set()
    return Checkpoint(
        folder=folder,
        config_file=opened.config_file,
        layout=opened.layout,
        format=format,
        cfg=cfg,
        files=files,
        table=table,
        missing=tuple(name for name in table.values() if name not in files.shapes and name not in optional),
        unexpected=tuple(sorted(set(files.shapes) - set(table.values()) - optional)),
        misshapen=tuple(
            (theirs, files.shapes[theirs], needed[ours])
            for ours, theirs in table.items()
            if theirs in files.shapes and files.shapes[theirs] != needed[ours]
        ),
    )


def load_model(
    path: str | Path,
    *,
    device: torch.device | str | int | None = "cpu",
    dtype: torch.dtype | str | None = torch.float32,
    impl: Impl | str = "auto",
    revision: str | None = None,
) -> HookedMamba:
    """Load a checkpoint folder or hub id in evaluation mode; see `HookedMamba.from_pretrained`.

    Raises FileNotFoundError (no such folder, file or hub id) or ValueError (keys, shapes or config that do not
    fit, files that are not plain tensors, a dtype, device or impl that there is not), or MemoryError; nothing is
    half-loaded.
    """
    check_dtype(dtype)
    check_impl(impl)
    target = chosen_device(device)
    checkpoint = open_checkpoint(path, revision)
    checkpoint.require_complete()
    chosen = chosen_dtype(dtype, checkpoint.files)
    model = _empty_model(checkpoint.cfg)
    with _memory_errors(checkpoint, chosen):
        tensors = _read(checkpoint)
        state = _copies(tensors, target, chosen)
    if checkpoint.cfg.tie_embeddings:
        state["unembed.weight"] = state["embed.weight"]
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_embeddings()
    model.impl = impl  # type: ignore[assignment]
    remember_checkpoint(model, tensors.get("unembed.weight", tensors["embed.weight"]), tensors["ln_final.weight"])
    return model.eval()


def save_model(
    model: HookedMamba, path: str | Path, *, format: Format = "diffmamba_interp", max_shard_size: int | str = "5GB"
) -> None:
    """Write `config.json` and the weights into the folder `path`; files are replaced only once all are written.

    state_spaces writes `pytorch_model.bin` (plain tensors), the others safetensors, sharded above
    `max_shard_size`. Raises ValueError for a model that the format cannot express.
    """
    folder = given_path(path)
    check_shard_size(max_shard_size)
    config, state = write_config(model.cfg, format), model.state_dict()
    tensors = {theirs: state[ours].detach().cpu() for ours, theirs in key_table(model.cfg, format).items()}
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder to save into.")
    with replacing_files(folder) as temporary:
        if format == "state_spaces":
            torch.save(tensors, temporary / PICKLE_FILE)
        else:
            write_weights(tensors, temporary, max_shard_size)
        (temporary / CONFIG_FILE).write_text(json_text(config, indent=1), encoding="utf-8")
        written = {file.name for file in temporary.iterdir()}
    remove_stale_weights(folder, written)


def _copies(tensors: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies: what safetensors returns is a view of the file, which may be written to while the model lives."""
    return {ours: tensor.to(device, parameter_dtype(ours, dtype), copy=True) for ours, tensor in tensors.items()}


@contextmanager
def _memory_errors(checkpoint: Checkpoint, dtype: torch.dtype) -> Iterator[None]:
    """The allocators' errors as one MemoryError that says how much was asked for."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = str(error)
        if isinstance(error, RuntimeError) and not any(word in words for word in ("alloc", "memory", "Storage size")):
            raise
        entries = sum(math.prod(shape) for shape in checkpoint.files.shapes.values())
        raise MemoryError(
            f"the weights in {checkpoint.folder} take {entries * dtype.itemsize / 2**30:.1f} GiB in {dtype}, more than "
            "there is: load them in a smaller dtype (dtype='bfloat16') or on a device with more memory."
        ) from error


def _stored_embedding(cfg: HookedMambaConfig, files: WeightFiles, usual: str) -> str:
    """The name of the embedding in the files: published code has two, and a tied matrix may be stored as lm_head."""
    names = [usual, "backbone.embeddings.weight", "backbone.embedding.weight"]
    names += ["lm_head.weight"] if cfg.tie_embeddings else []
    return next((name for name in names if name in files.shapes), usual)


def parameter_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of the parameter `name` in a model of `dtype`: some stay in float32 (`FLOAT32_PARAMETERS`)."""
    if f".{name}".endswith(tuple(f".{kept}" for kept in FLOAT32_PARAMETERS)):
        return torch.promote_types(dtype, torch.float32)
    return dtype


def _require_floating_point(folder: Path, files: WeightFiles) -> None:
    """Quantised weights would become other numbers without their scales."""
    others = [f"{printable(name)} ({dtype})" for name, dtype in files.dtypes.items() if dtype not in FLOATING_POINT]
    if others:
        raise ValueError(
            f"the weights in {folder} are not all plain floating-point numbers: {_first(others)}. Quantised "
            "checkpoints are not supported: load the original weights, with dtype=torch.bfloat16 to save memory."
        )


def _read(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All tensors by our names; a stored copy of a tied unembedding is checked and dropped."""
    present = {ours: theirs for ours, theirs in checkpoint.table.items() if theirs in checkpoint.files.shapes}
    by_file_name = checkpoint.files.read(list(present.values()))
    tensors = {ours: by_file_name[theirs] for ours, theirs in present.items()}
    if checkpoint.cfg.tie_embeddings:
        copies = [name for name in ("lm_head.weight", "unembed.weight") if name in checkpoint.files.shapes]
        for copy in checkpoint.files.read(copies).values():
            if not torch.equal(copy, tensors["embed.weight"]):
                raise ValueError(
                    f"{checkpoint.config_file} says that embedding and unembedding are tied, but the weights "
                    "hold two different matrices. Correct the config (tie_word_embeddings or tie_embeddings)."
                )
        tensors.pop("unembed.weight", None)
    return tensors


@functools.lru_cache(maxsize=32)
def _needed_shapes(cfg: HookedMambaConfig) -> Mapping[str, tuple[int, ...]]:
    """Name and shape of every tensor of such a model; kept, since a checkpoint is looked into before it is loaded."""
    return MappingProxyType({name: tuple(tensor.shape) for name, tensor in _empty_model(cfg).state_dict().items()})


def _empty_model(cfg: HookedMambaConfig) -> HookedMamba:
    """The model without memory or values, to read names and shapes from or to assign tensors to."""
    try:
        with torch.device("meta"):
            return HookedMamba(cfg)
    except (RuntimeError, OverflowError) as error:  # torch counts bytes in 64 bits
        raise ValueError(f"its sizes are more than any memory holds ({str(error).splitlines()[0]}).") from error


def _first(items: tuple[str, ...] | list[str], n: int = 5) -> str:
    more = f" and {len(items) - n} more" if len(items) > n else ""
    return ", ".join(map(printable, items[:n])) + more
