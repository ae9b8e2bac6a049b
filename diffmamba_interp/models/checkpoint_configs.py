"""`config.json` in every format, to and from `HookedMambaConfig`.

diffmamba_interp: ours. diff_mamba: the published Diff-Mamba-2 models (Hugging Face `mamba2` fields plus
`diffmamba` and `diffmamba_settings`). hf_mamba2: Hugging Face `mamba2`, also as flash-linear-attention spells it.
state_spaces: the `mamba_ssm` models. Mamba-1 models, in the formats that hold them: `checkpoint_mamba1`.

What decides whether a block is differential is the weights (their names and shapes); a config that says
otherwise is an error, and one that says nothing a warning. Sizes on which the config is silent are the weights';
of those that it says, `num_heads`, `head_dim` and `expand` (which only divide what the tensors hold) and `n_groups` are
corrected with a warning, and the others are errors where they are wrong.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diffmamba_interp.config import HookedMambaConfig
from diffmamba_interp.models.checkpoint_fields import (
    FLA_SPELLINGS,
    FORMATS,
    HF_FIELDS,
    HF_HARMLESS,
    MAMBA1_KINDS,
    SSM_FIELDS,
    SSM_HARMLESS,
    STATE_SPACES_HARMLESS,
    Format,
    is_fla,
    published_name,
    require_supported_kind,
    vocabulary_fields,
)
from diffmamba_interp.models.checkpoint_files import printable
from diffmamba_interp.models.checkpoint_mamba1 import read_hf_mamba1, read_state_spaces_mamba1, write_mamba1
from diffmamba_interp.models.checkpoint_sizes import (
    OUR_BRANCH,
    OUR_LAYER,
    Shapes,
    StoredSizes,
    differential_from_shapes,
    differential_indices,
    groups_and_state,
    heads_and_expand,
    padded_vocabulary,
    require_layers,
    require_said_placement,
    stored_sizes,
)
from diffmamba_interp.models.config_fields import MISSING, ConfigFields, json_limits, warn_of_unknown

FORMAT_VERSION = 1

log = logging.getLogger(__name__)


def detect_format(raw: Mapping[str, Any], shapes: Shapes) -> Format:
    """The format of a checkpoint from its config and the names of its tensors."""
    require_supported_kind(raw)
    if raw.get("format") == "diffmamba_interp":
        return "diffmamba_interp"
    if format := MAMBA1_KINDS.get(str(raw.get("model_type"))):
        return format
    if raw.get("model_type") == "mamba2":
        return "diff_mamba" if raw.get("diffmamba") or differential_indices(shapes) else "hf_mamba2"
    return "state_spaces"


def read_config(raw: Mapping[str, Any], format: Format, shapes: Shapes) -> HookedMambaConfig:
    """The model's config from `config.json` and the shapes of its tensors. Raises ValueError if they disagree."""
    if format == "diffmamba_interp":
        if raw.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"format_version {raw.get('format_version')!r} is not the {FORMAT_VERSION} that this version of "
                "diffmamba_interp reads. Load it with the version that wrote it."
            )
        return _read_ours(raw, shapes)
    if format in MAMBA1_KINDS.values():
        return read_hf_mamba1(raw, shapes)
    if format == "state_spaces":
        return _read_state_spaces(raw, shapes)
    return _read_hf(raw, shapes)


def write_config(cfg: HookedMambaConfig, format: Format) -> dict[str, Any]:
    """What `config.json` holds. Raises ValueError for a model that the format cannot express."""
    if format == "diffmamba_interp":
        return {"format": "diffmamba_interp", "format_version": FORMAT_VERSION, "model": cfg.to_dict()}
    if cfg.mixer == "mamba1" and format in (*MAMBA1_KINDS.values(), "state_spaces"):
        return write_mamba1(cfg, format)
    if cfg.mixer == "mamba2" and format == "state_spaces":
        return _write_state_spaces(cfg)
    if cfg.mixer == "mamba2" and format in ("hf_mamba2", "diff_mamba"):
        return _write_hf(cfg, format)
    if format in FORMATS:
        raise ValueError(f"format {format!r} cannot hold a model of mixer {cfg.mixer!r}: use 'diffmamba_interp'.")
    raise ValueError(f"format is {format!r}: it must be one of {', '.join(FORMATS)}.")


def _read_ours(raw: Mapping[str, Any], shapes: Shapes) -> HookedMambaConfig:
    model = ConfigFields(raw).value("model", MISSING)
    if not isinstance(model, Mapping):
        raise ValueError(f"model is malformed: {model!r} is no object of settings.")
    fields = ConfigFields(model, within="model.")
    known = {field.name for field in dataclasses.fields(HookedMambaConfig)}
    if unknown := fields.unknown(known):
        raise ValueError(f"unknown keys: {', '.join(map(printable, unknown))}. Known: {', '.join(sorted(known))}.")
    _require_our_sizes(fields, shapes)
    if not isinstance(fields.mapping("differential").get("placement", "all"), str | list):
        raise ValueError("model.differential.placement is malformed: it must be a name or a list of block indices.")
    fields.limits("dt_limit")
    fields.integer("dt_rank", None)
    numbers = ("norm_eps", "dt_min", "dt_max", "dt_floor", "initializer_range")
    cfg = HookedMambaConfig.from_dict({**model, **{name: fields.number(name) for name in numbers if name in model}})
    blocks = tuple(sorted({int(match[1]) for name in shapes if (match := OUR_BRANCH.match(name))}))
    if shapes and blocks != cfg.differential_blocks:
        raise ValueError(
            f"it contradicts the weights: model.differential (its placement) makes blocks "
            f"{list(cfg.differential_blocks)} differential, but the weights make it blocks {list(blocks)}."
        )
    return cfg


def _require_our_sizes(fields: ConfigFields, shapes: Shapes) -> None:
    """Compare what sizes the model has with the tensors, before anything of these sizes is made."""
    n_layers = fields.integer("n_layers")
    for name in ("d_model", "d_vocab", "d_state", "d_head", "chunk_size"):
        fields.integer(name, MISSING if name in ("d_model", "d_vocab") else None)
    if not shapes:
        return
    require_layers(n_layers, shapes, OUR_LAYER, name="model.n_layers")
    mixer = fields.value("mixer", "mamba2")
    whole = fields.mapping("differential").get("subtract_at", "mixer") != "mixer"
    stored = stored_sizes(_published_shapes(shapes), mixer, has_whole_branches=whole)
    for name, size in (("d_model", stored.d_model), ("d_vocab", stored.d_vocab), ("d_conv", stored.d_conv)):
        fields.stored_size(name, size, 1)
    fields.stored_flag("proj_bias", stored.proj_bias, False)
    fields.stored_flag("conv_bias", stored.conv_bias, True)
    if stored.d_inner is not None and stored.d_model is not None:
        fields.stored_size("expand", stored.d_inner // stored.d_model, 2)
    if mixer != "mamba2":
        return  # the rest shows in the tensors' shapes
    n_groups, d_state = fields.integer("n_groups", 1), fields.integer("d_state", 128)
    if stored.d_bc not in (None, n_groups * d_state):
        raise ValueError(
            f"model.n_groups {n_groups} x model.d_state {d_state} contradicts the weights, whose B and C have "
            f"{stored.d_bc} channels each. Correct the config."
        )


def _published_shapes(shapes: Shapes) -> Shapes:
    """Those of our own names by the published ones."""
    return {published_name(name, "diff_mamba"): shape for name, shape in shapes.items()}


def _read_hf(raw: Mapping[str, Any], shapes: Shapes) -> HookedMambaConfig:
    fla = is_fla(raw)
    fields = ConfigFields(raw, spellings=FLA_SPELLINGS if fla else None)
    _refuse_other_mixers(fields, fla)
    stored = stored_sizes(shapes)
    d_model = fields.stored_size("hidden_size", stored.d_model, 4096)
    n_layers = fields.integer("num_hidden_layers", stored.n_layers or 64)
    if shapes:
        require_layers(n_layers, shapes, name="num_hidden_layers")
    plain = HookedMambaConfig(
        **_sizes(fields, HF_FIELDS, stored, usual_groups=1 if fla else 8, d_model=d_model),
        d_model=d_model,
        n_layers=n_layers,
        d_vocab=fields.stored_size("vocab_size", stored.d_vocab, 32768),
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        residual_in_fp32=fields.flag("residual_in_fp32", True),
        chunk_size=fields.integer("chunk_size", 256),
        tie_embeddings=fields.flag("tie_word_embeddings", False),
        dt_min=fields.number("time_step_min", 0.001),
        dt_max=fields.number("time_step_max", 0.1),
        dt_floor=fields.number("time_step_floor", 1e-4),
        initializer_range=fields.number("initializer_range", 0.02 if fla else 0.1),
        dt_limit=fields.limits("time_step_limit"),
    )
    if fla and plain.n_groups > 1 and not any(name in raw for name in ("dt_limit", "rmsnorm")):
        log.warning(
            "config.json is of a version of flash-linear-attention before April 2026, which trained with the gated "
            "norm per group of n_groups where mamba_ssm was installed and evaluated without groups: here it is per "
            "group."
        )
    warn_of_unknown(fields.unknown(HF_HARMLESS))
    blocks = differential_indices(shapes)
    fields.flag("diffmamba", None)
    require_said_placement(raw, blocks, plain.n_layers)
    return replace(plain, differential=differential_from_shapes(blocks, shapes, plain)) if blocks else plain


def _refuse_other_mixers(fields: ConfigFields, fla: bool) -> None:
    if fields.value("hidden_act", "silu") not in ("silu", "swish"):
        raise fields.error("hidden_act", fields.raw["hidden_act"], "silu: other activations are not Mamba-2's")
    if fields.flag("rms_norm", True) is False:
        raise fields.error("rms_norm", False, "true: only Mamba-2's gated RMSNorm is supported")
    # transformers never reads it: Codestral's config says true, and its weights are those of a norm after the gate.
    if fla and fields.flag("norm_before_gate", False):
        raise fields.error("norm_before_gate", True, "false: a norm before the gate is other maths, not supported here")
    if fields.flag("D_has_hdim", False):
        raise fields.error("D_has_hdim", True, "false: a D of every channel is not supported")


def _sizes(
    fields: ConfigFields, names: Mapping[str, str], stored: StoredSizes, *, usual_groups: int, d_model: int
) -> dict[str, Any]:
    """The sizes of a mixer: those that the config says, completed from the tensors."""
    expand, d_head = fields.integer(names["expand"], None), fields.integer(names["d_head"], None)
    n_heads = fields.integer("num_heads", None)  # Hugging Face's only
    sizes: dict[str, Any] = heads_and_expand(names, stored, d_model, expand, d_head, n_heads)
    heads = max(sizes["expand"] * d_model // sizes["d_head"], 1)
    sizes["n_groups"], sizes["d_state"] = groups_and_state(
        stored.d_bc,
        heads,
        groups=fields.integer(names["n_groups"], None),
        state=fields.integer(names["d_state"], None),
        names=(fields.within + names["n_groups"], fields.within + names["d_state"]),
        usual=usual_groups,
    )
    sizes["d_conv"] = fields.stored_size(names["d_conv"], stored.d_conv, 4)
    sizes["proj_bias"] = fields.stored_flag(names["proj_bias"], stored.proj_bias, False)
    sizes["conv_bias"] = fields.stored_flag(names["conv_bias"], stored.conv_bias, True)
    return sizes


def _write_hf(cfg: HookedMambaConfig, format: Format) -> dict[str, Any]:
    differential = cfg.differential if cfg.differential_blocks else None
    if (differential is not None) != (format == "diff_mamba"):
        kind, right = ("differential", "diff_mamba") if differential else ("plain", "hf_mamba2")
        raise ValueError(f"format {format!r} cannot hold a {kind} model: use {right!r} or 'diffmamba_interp'.")
    if cfg.d_vocab_padding:
        log.warning(
            "format %r does not record that the last %d rows of the vocabulary are padding: a model loaded from it may "
            "generate their ids.",
            format,
            cfg.d_vocab_padding,
        )
    values: dict[str, Any] = {theirs: getattr(cfg, ours) for ours, theirs in HF_FIELDS.items()}
    values |= {
        "model_type": "mamba2",
        "architectures": ["DiffMamba2ForCausalLM" if differential else "Mamba2ForCausalLM"],
        "num_heads": cfg.mixer_sizes("plain").n_heads,
        "hidden_act": "silu",
        "rms_norm": True,
        **_limits_field("time_step_limit", cfg),
    }
    if differential is not None:
        if differential.normalisation != "post" or differential.subnorm_eps != 1e-5 or cfg.expand != 2:
            raise ValueError(
                "format 'diff_mamba' knows only normalisation 'post', subnorm_eps 1e-5 and expand 2; the model has "
                f"{differential.normalisation!r}, {differential.subnorm_eps} and {cfg.expand}: use 'diffmamba_interp'."
            )
        if differential.lambda_form not in ("sigmoid_sum", "exp_dot") or differential.subtract_at != "mixer":
            raise ValueError(
                f"format 'diff_mamba' knows only lambda_form 'sigmoid_sum' and 'exp_dot' and subtract_at 'mixer'; the "
                f"model has {differential.lambda_form!r} and {differential.subtract_at!r}: use 'diffmamba_interp'."
            )
        placement = differential.placement
        values |= {
            "diffmamba": True,
            "diffmamba_settings": placement if isinstance(placement, str) else list(placement),
        }
    return values


def _read_state_spaces(raw: Mapping[str, Any], shapes: Shapes) -> HookedMambaConfig:
    fields = ConfigFields(raw)
    ssm = ConfigFields(fields.mapping("ssm_cfg"), within="ssm_cfg.")
    layer = ssm.value("layer", "Mamba1")
    if layer == "Mamba1":
        return read_state_spaces_mamba1(fields, ssm, shapes)
    if layer != "Mamba2":
        shown = printable(layer) if isinstance(layer, str) else repr(layer)
        raise ValueError(f"it describes {shown} blocks: only Mamba1 and Mamba2 blocks are supported (ssm_cfg.layer).")
    stored = stored_sizes(shapes)
    fields.integer("d_model")
    d_model = fields.stored_size("d_model", stored.d_model, 0)
    _refuse_other_blocks(fields, ssm, stored, d_model)
    n_layers = fields.integer("n_layer")
    if shapes:
        require_layers(n_layers, shapes, name="n_layer")
    d_vocab, n_tokens = padded_vocabulary(fields, stored.d_vocab)
    cfg = HookedMambaConfig(
        **_sizes(ssm, SSM_FIELDS, stored, usual_groups=1, d_model=d_model),
        d_model=d_model,
        n_layers=n_layers,
        d_vocab=d_vocab,
        d_vocab_padding=d_vocab - n_tokens,
        tie_embeddings=fields.flag("tie_embeddings", True),
        residual_in_fp32=fields.flag("residual_in_fp32", True),
        chunk_size=ssm.integer("chunk_size", 256),
        dt_min=ssm.number("dt_min", 0.001),
        dt_max=ssm.number("dt_max", 0.1),
        dt_floor=ssm.number("dt_init_floor", 1e-4),
        dt_limit=ssm.limits("dt_limit"),
    )
    warn_of_unknown(fields.unknown(STATE_SPACES_HARMLESS) + ssm.unknown(SSM_HARMLESS))
    return cfg


def _refuse_other_blocks(fields: ConfigFields, ssm: ConfigFields, stored: StoredSizes, d_model: int) -> None:
    expand = ssm.integer("expand", stored.d_inner // d_model if stored.d_inner else 2)
    needed: list[tuple[ConfigFields, str, tuple[Any, ...]]] = [
        (fields, "d_intermediate", (0,)),
        (fields, "rms_norm", (True,)),
        (fields, "attn_layer_idx", ([],)),
        (ssm, "rmsnorm", (True,)),
        (ssm, "norm_before_gate", (False,)),
        (ssm, "D_has_hdim", (False,)),
        (ssm, "d_ssm", (expand * d_model,)),
        (ssm, "activation", ("swish", "silu")),
    ]
    values = [(within, name, within.value(name, allowed[0]), allowed) for within, name, allowed in needed]
    wrong = [f"{within.within}{name}={value!r}" for within, name, value, allowed in values if value not in allowed]
    if wrong:
        raise ValueError(f"it asks for what is not a pure Mamba-2 stack: {', '.join(wrong)}.")


def _write_state_spaces(cfg: HookedMambaConfig) -> dict[str, Any]:
    if cfg.differential_blocks:
        raise ValueError("format 'state_spaces' cannot hold a differential model: use 'diff_mamba' or our own.")
    if cfg.norm_eps != 1e-5:
        raise ValueError(f"format 'state_spaces' fixes norm_eps at 1e-5; the model has {cfg.norm_eps}.")
    vocabulary = vocabulary_fields(cfg)
    ssm: dict[str, Any] = {theirs: getattr(cfg, ours) for ours, theirs in SSM_FIELDS.items()}
    return {
        "d_model": cfg.d_model,
        "d_intermediate": 0,
        "n_layer": cfg.n_layers,
        **vocabulary,
        "ssm_cfg": {"layer": "Mamba2", **ssm, **_limits_field("dt_limit", cfg)},
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": cfg.residual_in_fp32,
        "fused_add_norm": True,
        "tie_embeddings": cfg.tie_embeddings,
    }


def _limits_field(name: str, cfg: HookedMambaConfig) -> dict[str, list[float]]:
    """dt's limits; nothing where they are every library's default, (0, infinity), which JSON has no number for."""
    return {} if cfg.dt_limit == (0.0, math.inf) else {name: json_limits(cfg.dt_limit)}
