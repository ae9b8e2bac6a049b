"""Sizes of a model read from the shapes of its tensors, where `config.json` is silent or wrong.

The shapes tell every size but two: of `n_groups` and `d_state` they tell the product, since B and C have
n_groups x d_state channels each.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffmamba_interp.config import (
    NAMED_PLACEMENTS,
    DifferentialConfig,
    HookedMambaConfig,
    Placement,
    differential_blocks,
)
from diffmamba_interp.models.checkpoint_files import printable
from diffmamba_interp.models.config_fields import ConfigFields

Shapes = Mapping[str, tuple[int, ...]]

OUR_LAYER = re.compile(r"^blocks\.(\d+)\.")
OUR_BRANCH = re.compile(r"^blocks\.(\d+)\.mixer\.minuend\.")
LAYER = re.compile(r"^backbone\.layers\.(\d+)\.")
BRANCH = re.compile(r"^backbone\.layers\.(\d+)\.mixer_1\.A_log$")
EMBEDDINGS = ("backbone.embeddings.weight", "backbone.embedding.weight", "lm_head.weight")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StoredSizes:
    """What the tensors of a checkpoint with published names say; None where they do not.

    n_heads, d_bc (n_groups x d_state): of Mamba-2 mixers. d_state, dt_rank: of Mamba-1 mixers.
    d_inner: of a plain mixer, also where only branches, which have half of it but in a Diff-S6, are stored.
    """

    d_vocab: int | None = None
    d_model: int | None = None
    n_layers: int | None = None
    d_inner: int | None = None
    n_heads: int | None = None
    d_bc: int | None = None
    d_conv: int | None = None
    d_state: int | None = None
    dt_rank: int | None = None
    proj_bias: bool | None = None
    conv_bias: bool | None = None


def stored_sizes(shapes: Shapes, mixer: str = "mamba2", *, has_whole_branches: bool = False) -> StoredSizes:
    """The sizes that the tensors tell. Raises ValueError for tensors whose number of dimensions is wrong."""
    layers = {int(match[1]) for name in shapes if (match := LAYER.match(name))}
    embedding = next((name for name in EMBEDDINGS if name in shapes), None)
    d_vocab, d_model = _of(shapes, embedding, 2) if embedding else (None, None)
    sizes = StoredSizes(d_vocab=d_vocab, d_model=d_model, n_layers=len(layers) or None)
    prefix = _a_mixer(shapes)
    if prefix is None:
        return sizes
    _, d_inner = _of(shapes, f"{prefix}.out_proj.weight", 2)
    channels, _, d_conv = _of(shapes, f"{prefix}.conv1d.weight", 3)
    A_log = shapes[f"{prefix}.A_log"]
    if len(A_log) == (1 if mixer == "mamba1" else 2):
        given, stored = ("Mamba1", "Mamba2") if mixer == "mamba1" else ("Mamba2", "Mamba1")
        raise ValueError(
            f"it describes {given} blocks, but the weights are those of {stored} blocks. Correct the config."
        )
    A_log = _of(shapes, f"{prefix}.A_log", 2 if mixer == "mamba1" else 1)
    is_branch = not prefix.endswith(".mixer")
    dt_proj = f"{prefix}.dt_proj.weight"
    return StoredSizes(
        d_vocab=d_vocab,
        d_model=d_model,
        n_layers=len(layers),
        d_inner=2 * d_inner if is_branch and not has_whole_branches else d_inner,
        # A branch alone does not tell whether it has half the heads or heads of half the width.
        n_heads=None if is_branch or mixer != "mamba2" else A_log[0],
        d_bc=(channels - d_inner) // 2 if channels > d_inner else None,
        d_conv=d_conv,
        d_state=A_log[1] if mixer == "mamba1" else None,
        dt_rank=_of(shapes, dt_proj, 2)[1] if mixer == "mamba1" and dt_proj in shapes else None,
        proj_bias=f"{prefix}.in_proj.bias" in shapes,
        conv_bias=f"{prefix}.conv1d.bias" in shapes,
    )


def require_layers(said: int, shapes: Shapes, pattern: re.Pattern[str] = LAYER, *, name: str) -> None:
    """Compare the number of blocks that the config says with the tensors' names, before anything of that size is made.

    Raises ValueError, with the config's `name` for it, where they are not blocks 0 to `said` - 1.
    """
    stored = {int(match[1]) for key in shapes if (match := pattern.match(key))}
    if len(stored) != said or max(stored) >= said:
        held = f"{len(stored)} block{'s' * (len(stored) != 1)}, the last of number {max(stored)}" if stored else "none"
        raise ValueError(f"{name} is {said}, but the weights hold tensors of {held}.")


def padded_vocabulary(fields: ConfigFields, stored: int | None) -> tuple[int, int]:
    """(d_vocab, tokens in use) of a `mamba_ssm` config. Raises ValueError where the tensors have other rows."""
    multiple, n_tokens = fields.integer("pad_vocab_size_multiple", 8), fields.integer("vocab_size")
    d_vocab = -(-n_tokens // multiple) * multiple
    if stored not in (None, d_vocab):
        raise ValueError(
            f"it contradicts the weights: vocab_size {n_tokens} padded to a multiple of {multiple} "
            f"(pad_vocab_size_multiple) is {d_vocab}, but the embedding has {stored} rows."
        )
    return d_vocab, n_tokens


def differential_indices(shapes: Shapes) -> tuple[int, ...]:
    """The blocks whose tensors are those of two branches."""
    return tuple(sorted(int(match[1]) for name in shapes if (match := BRANCH.match(name))))


def heads_and_expand(
    names: Mapping[str, str],
    stored: StoredSizes,
    d_model: int,
    expand: int | None,
    d_head: int | None,
    n_heads: int | None,
) -> dict[str, int]:
    """expand and d_head, from what the config says of them and of the number of heads, and from the tensors."""
    said = {names["expand"]: expand, names["d_head"]: d_head, "num_heads": n_heads}
    if stored.d_inner is None or stored.d_model is None:
        expand = expand or 2
        if n_heads and d_head and n_heads * d_head != expand * d_model:
            raise ValueError(
                f"num_heads {n_heads} x {names['d_head']} {d_head} is not {names['expand']} {expand} x "
                f"{names.get('d_model', 'd_model')} {d_model}. Correct the config."
            )
        return {"expand": expand, "d_head": d_head or (expand * d_model // n_heads if n_heads else 64)}
    if stored.d_inner % stored.d_model:
        raise ValueError(
            f"the weights have d_inner {stored.d_inner}, no multiple of their width {stored.d_model}: not supported."
        )
    true_heads = stored.n_heads
    if true_heads is None:  # only branches are stored: the config says how a plain mixer would be divided
        true_heads = stored.d_inner // d_head if d_head else n_heads or stored.d_inner // 64
    if true_heads < 1 or stored.d_inner % true_heads:
        raise ValueError(f"the weights have d_inner {stored.d_inner}, which {true_heads} heads do not divide.")
    true = {"expand": stored.d_inner // stored.d_model, "d_head": stored.d_inner // true_heads}
    actual = dict(zip(said, (true["expand"], true["d_head"], true_heads), strict=True))
    wrong = [f"{name} {value}" for name, value in said.items() if value not in (None, actual[name])]
    if wrong:
        log.warning(
            "config.json says %s, but the weights are those of %s: taking the weights'.",
            ", ".join(wrong),
            ", ".join(f"{name} {value}" for name, value in actual.items()),
        )
    return true


def groups_and_state(
    d_bc: int | None, n_heads: int, *, groups: int | None, state: int | None, names: tuple[str, str], usual: int
) -> tuple[int, int]:
    """(n_groups, d_state) that the weights' product allows and the config says, as far as it says it.

    groups, state: what the config says; None where it is silent. names: of the two fields there. usual: the number of
    groups that its library writes when nobody chose one. Raises ValueError where both are said, the weights contradict
    them, and they leave more than one reading.
    """
    said_state = 128 if state is None else state
    if d_bc is None:
        return usual if groups is None else groups, said_state
    if groups is not None and groups * said_state == d_bc:
        return groups, said_state
    by_groups = groups is not None and d_bc % groups == 0 and n_heads % groups == 0
    if state is None and by_groups:
        assert groups is not None
        return groups, d_bc // groups
    by_state = d_bc % said_state == 0 and n_heads % (d_bc // said_state) == 0
    derived = d_bc // said_state
    if not by_state or not (groups in (None, usual) or derived == 1 or not by_groups):
        readings = f" or {names[0]} {groups} with {names[1]} {d_bc // groups}" if by_groups and groups else ""
        first = f"{names[0]} {derived} with {names[1]} {said_state}" if by_state else ""
        could = (first + readings).removeprefix(" or ")
        said = f"{names[0]} {groups} x {names[1]} {said_state} contradicts the weights, whose B and C have"
        if groups is None and state is None:
            said = f"{names[0]} and {names[1]} are missing, and the weights tell only their product,"
        raise ValueError(
            f"{said} {d_bc}{'' if said.endswith(',') else ' channels each'}{': that is ' + could if could else ''}. "
            "Correct the config."
        )
    if groups is not None:
        log.warning(
            "config.json says %s %s, but the weights are those of %d: taking the weights'.", names[0], groups, derived
        )
    return derived, said_state


def _a_mixer(shapes: Shapes) -> str | None:
    """The name of a mixer that is stored with all that its sizes are read from; a plain one if there is one."""
    parts = (".A_log", ".out_proj.weight", ".conv1d.weight")
    for kind in (".mixer", ".mixer_1"):
        for name in shapes:
            if name.endswith(kind + parts[0]):
                mixer = name.removesuffix(parts[0])
                if all(mixer + part in shapes for part in parts):
                    return mixer
    return None


def _of(shapes: Shapes, name: str, n_dimensions: int) -> tuple[int, ...]:
    shape = shapes[name]
    if len(shape) != n_dimensions or 0 in shape:
        raise ValueError(f"the weights are malformed: {printable(name)} has the shape {list(shape)}.")
    return shape


def require_said_placement(raw: Mapping[str, Any], found: tuple[int, ...], n_layers: int) -> None:
    """Compare the differential blocks in the weights with those that the config names, if it names any."""
    if not raw.get("diffmamba"):
        if found and raw.get("diffmamba") is not None:
            raise ValueError(
                f"it contradicts the weights: diffmamba is {raw['diffmamba']!r}, but the weights of blocks "
                f"{list(found)} are differential. Correct the config, or remove the field."
            )
        if found:
            log.warning(
                "config.json does not say that the model is differential, but the weights of blocks %s are: "
                "loading it as Diff-Mamba.",
                list(found),
            )
        return
    said = _said_placement(raw.get("diffmamba_settings", "alternate"), n_layers)
    if said != found:
        raise ValueError(
            f"it contradicts the weights: diffmamba_settings {raw.get('diffmamba_settings')!r} makes blocks "
            f"{list(said)} differential, but the weights make it blocks {list(found)}. Correct the config."
        )


def _said_placement(setting: object, n_layers: int) -> tuple[int, ...]:
    """The published setting: a named placement, a number of last blocks, or (ours) a list of blocks."""
    try:
        if isinstance(setting, list):
            return differential_blocks(tuple(setting), n_layers)
        if str(setting).isdecimal():
            return tuple(range(n_layers - min(int(str(setting)), n_layers), n_layers))
        if setting not in NAMED_PLACEMENTS:
            raise ValueError(f"it must be one of {', '.join(NAMED_PLACEMENTS)}, a number of last blocks, or a list.")
        return differential_blocks(setting, n_layers)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"diffmamba_settings is {setting!r}: {error}") from error


def differential_from_shapes(found: tuple[int, ...], shapes: Shapes, plain: HookedMambaConfig) -> DifferentialConfig:
    """Placement, lambda form and division of heads as the weights have them. Raises ValueError for malformed ones."""
    prefix = f"backbone.layers.{found[0]}"
    shape = shapes[f"{prefix}.mixer_1.A_log"]
    if len(shape) != 1:
        raise ValueError(f"the weights are malformed: {prefix}.mixer_1.A_log has the shape {list(shape)}.")
    return DifferentialConfig(
        placement=_named_if_possible(found, plain.n_layers),
        lambda_form="exp_dot" if f"{prefix}.lambda_k1" in shapes else "sigmoid_sum",
        head_division="d_head" if shape[0] == plain.mixer_sizes("plain").n_heads else "n_heads",
    )


def _named_if_possible(blocks: tuple[int, ...], n_layers: int) -> Placement:
    names: tuple[Placement, ...] = ("all", "alternate", "quarter")
    return next((name for name in names if differential_blocks(name, n_layers) == blocks), blocks)
