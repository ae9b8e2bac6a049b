"""Activations for other tools: by their names in one safetensors file, and in the layout in which SAELens keeps them.

    save_activations(cache, "run.safetensors")
    load_activations("run.safetensors", names="nnsight")["backbone.layers.3.output"]
    cache_for_saelens(model, tokens, "blocks.3.hook_resid_post", "activations")

Our names are TransformerLens' wherever its Mamba bridge (4.3) has the value; nnsight names a value by the module of
transformers' `Mamba2ForCausalLM` (or `MambaForCausalLM`) that takes it in or puts it out. A value that another tool
has no name for, such as a branch's, keeps ours: `name_table` says which.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffmamba_interp.activation_cache import ActivationCache
from diffmamba_interp.argument_checks import Count, checked
from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.files.json_files import json_text, parse_json
from diffmamba_interp.models.language_model import HookedMamba

NamesOf = Literal["ours", "transformer_lens", "nnsight"]
FORMAT = "diffmamba_interp activations 1"
TOKENS, LENGTHS = "tokens", "lengths"

_TRANSFORMER_LENS = (
    (r"blocks\.(\d+)\.mixer\.hook_in_proj", r"blocks.\1.mixer.in_proj.hook_out"),
    (r"blocks\.(\d+)\.mixer\.inner_norm\.hook_gated", r"blocks.\1.mixer.inner_norm.hook_out"),
    (r"blocks\.(\d+)\.mixer\.hook_gated", r"blocks.\1.mixer.out_proj.hook_in"),
    (r"hook_embed|ln_final\.hook_(?:scale|normalized)", r"\g<0>"),
    (r"blocks\.\d+\.(?:hook_(?:resid_pre|resid_post|mixer_in|mixer_out)|norm\.hook_(?:scale|normalized))", r"\g<0>"),
)
_NNSIGHT = (
    (r"hook_embed", r"backbone.embeddings.output"),
    (r"blocks\.(\d+)\.hook_resid_pre", r"backbone.layers.\1.input"),
    (r"blocks\.(\d+)\.hook_resid_post", r"backbone.layers.\1.output"),
    (r"blocks\.(\d+)\.hook_mixer_in", r"backbone.layers.\1.mixer.input"),
    (r"blocks\.(\d+)\.hook_mixer_out", r"backbone.layers.\1.mixer.output"),
    (r"blocks\.(\d+)\.mixer\.hook_in_proj", r"backbone.layers.\1.mixer.in_proj.output"),
    (r"blocks\.(\d+)\.mixer\.(?:inner_norm\.)?hook_gated", r"backbone.layers.\1.mixer.out_proj.input"),
)
_TERMS = {"transformer_lens": _TRANSFORMER_LENS, "nnsight": _NNSIGHT}


def name_table(names: Iterable[str]) -> dict[str, dict[str, str | None]]:
    """Our hook-point names -> the name of the same value elsewhere; None where another tool has none."""
    return {name: {terms: _translated(name, rules) for terms, rules in _TERMS.items()} for name in names}


@checked
def save_activations(cache: ActivationCache, path: str | Path) -> None:
    """Write a cache, its tokens and lengths into one safetensors file, with the table of names as its metadata.

    Any reader of safetensors opens it by our names. Raises ValueError for an empty cache; OSError.
    """
    if not cache:
        raise ValueError("the cache is empty: widen names_filter of the run that made it.")
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in cache.items()}
    extra = {TOKENS: cache.tokens, LENGTHS: cache.lengths}
    tensors |= {name: value.detach().cpu().contiguous().clone() for name, value in extra.items() if value is not None}
    write_bytes(path, save(tensors, {"format": FORMAT, "names": json_text(name_table(cache))}))


@checked
def load_activations(path: str | Path, *, names: NamesOf = "ours") -> ActivationCache:
    """The cache of a file that `save_activations` wrote, by the names of `names`; what has none there keeps ours.

    `transformer_lens.ActivationCache(dict(load_activations(path, names="transformer_lens")), model)` is that library's.
    Raises FileNotFoundError; ValueError for a file of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: give one that save_activations wrote.")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or a damaged one ({error}).") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} holds no activations that save_activations wrote ({metadata.get('format')}).")
    table = parse_json(metadata["names"], source=path)
    tokens, lengths = (tensors.pop(name, None) for name in (TOKENS, LENGTHS))
    # The table has the order in which they were computed; safetensors sorts by size and name.
    values = {(names != "ours" and table[name][names]) or name: tensors[name] for name in table}
    return ActivationCache(values, tokens=tokens, lengths=lengths)


@checked
@torch.no_grad()
def cache_for_saelens(
    model: HookedMamba,
    tokens: Int[Tensor, "sequence pos"],
    name: str,
    folder: str | Path,
    *,
    batch_size: Count = 8,
) -> Path:
    """Run sequences and keep one value of each position as SAELens' `cached_activations_path` wants it.

    A saved data set with a row per sequence: the column `name`, [pos, d], in float32, and `token_ids`, [pos]. In the
    training's config, `hook_name` is `name`, `context_size` the length of the sequences, and `d_in` is d.

    Args:
        model, tokens: what is run; no sequence is padded.
        name: a hook point with a vector at each position, such as `blocks.3.hook_resid_post`.
        folder: a new one. batch_size: sequences per forward pass.

    Raises ValueError for a value that is no vector per position, FileExistsError for a folder with something in it.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already, with something in it: give a new folder.")
    parts = folder.with_name(f".{folder.name}.parts")
    try:
        _write_rows(_batches_of(model, tokens, name, batch_size), name, parts, folder)
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    return folder


def _batches_of(model: HookedMamba, tokens: Tensor, name: str, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    block = re.match(r"blocks\.(\d+)\.", name)
    stop = None if block is None else int(block[1]) + 1
    for batch in tokens.split(batch_size):
        _, cache = model.run_with_cache(batch, [name], stop_at_block=stop)
        value = cache[name]
        if value.ndim != 3 or value.shape[:2] != batch.shape:
            raise ValueError(
                f"{name} has the shape {list(value.shape)}, and SAELens keeps one vector for each position, [batch, "
                "pos, d]: name a point such as blocks.0.hook_resid_post."
            )
        yield value.float().cpu(), batch.cpu()


def _write_rows(batches: Iterator[tuple[Tensor, Tensor]], name: str, parts: Path, folder: Path) -> None:
    # Here, since it takes longer to load than all the rest.
    import datasets

    with _without_progress(datasets.utils):
        _write_parts(batches, name, parts)
        rows = [datasets.Dataset.load_from_disk(part) for part in sorted(parts.iterdir())]
        datasets.concatenate_datasets(rows).save_to_disk(folder)


def _write_parts(batches: Iterator[tuple[Tensor, Tensor]], name: str, parts: Path) -> None:
    import datasets

    for number, (values, tokens) in enumerate(batches):
        shape, n_pos = tuple(values.shape[1:]), tokens.shape[1]
        columns: dict[str, Any] = {
            name: datasets.Array2D(shape=shape, dtype="float32"),
            "token_ids": datasets.Sequence(datasets.Value(dtype="int32"), length=n_pos),
        }
        rows = {name: values.numpy(), "token_ids": tokens.int().numpy()}
        part = datasets.Dataset.from_dict(rows, features=datasets.Features(columns))
        part.save_to_disk(parts / f"{number:05d}")


@contextmanager
def _without_progress(library: Any) -> Iterator[None]:
    """Without the bars that datasets draws for every file."""
    were_shown = not library.are_progress_bars_disabled()
    library.disable_progress_bars()
    try:
        yield
    finally:
        if were_shown:
            library.enable_progress_bars()


def _translated(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    for pattern, there in rules:
        match = re.fullmatch(pattern, name)
        if match is not None:
            return match.expand(there)
    return None
