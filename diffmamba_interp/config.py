"""Configuration of a hooked model: sizes, numerics and the differential blocks.

    lambda_init(i) = 0.8 - 0.6 exp(-0.3 i)          i: 0-based block index (Diff-Mamba, arXiv 2507.06204, Eq. 10)

Everything here is plain data: frozen, keyword-only, without torch, and checked when it is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from diffmamba_interp.mixer_sizes import MIXERS, BlockKind, MixerEntry, MixerSizes

LambdaForm = Literal["sigmoid_sum", "sigmoid", "exp_dot", "one", "token_gate", "token_head_gate"]
SubtractAt = Literal["mixer", "gated", "scan"]
Normalisation = Literal["post", "pre", "none"]
HeadDivision = Literal["d_head", "n_heads"]
LambdaInitialisation = Literal["small", "published"]
Placement = Literal["all", "alternate", "quarter"] | tuple[int, ...]
Alignment = Literal["published", "by_component"]
"""How a plain mixer is divided into branches; see `models.conversion`."""

UNPUBLISHED_LAMBDAS = ("one", "token_gate", "token_head_gate")
NAMED_PLACEMENTS = ("all", "alternate", "quarter")
POSITIVE_INTEGERS = (
    "d_model",
    "n_layers",
    "d_vocab",
    "d_state",
    "d_conv",
    "expand",
    "d_head",
    "n_groups",
    "chunk_size",
)
UNSAID = ("mixer", "dt_rank", "scan_norm_eps")
"""Fields that a config in a file leaves out at their default: files of plain Mamba-2 stay what they were."""


def lambda_init(block: int) -> float:
    """Depth-dependent constant of block `block` (0-based, counted in the whole model), in [0.2, 0.8)."""
    return 0.8 - 0.6 * math.exp(-0.3 * block)


def differential_blocks(placement: Placement, n_layers: int) -> tuple[int, ...]:
    """Indices of the differential blocks that `placement` names in a model of `n_layers` blocks.

    `"all"`: every block. `"alternate"`: the even blocks (the published 370M checkpoint). `"quarter"`: the
    last quarter, rounded down (the published retrieval experiment). A tuple: those indices.
    """
    if placement == "all":
        return tuple(range(n_layers))
    if placement == "alternate":
        return tuple(range(0, n_layers, 2))
    if placement == "quarter":
        return tuple(range(n_layers - n_layers // 4, n_layers))
    if not isinstance(placement, tuple):
        raise ValueError(
            f"placement {placement!r} is unknown: give one of {', '.join(NAMED_PLACEMENTS)}, "
            "or a tuple of block indices."
        )
    unfit = [block for block in placement if not isinstance(block, int) or isinstance(block, bool)]
    if unfit:
        raise ValueError(f"placement holds {unfit}: block indices are whole numbers.")
    blocks = tuple(sorted(set(placement)))
    outside = [block for block in blocks if not 0 <= block < n_layers]
    if outside:
        raise ValueError(f"placement names blocks {outside}, but the model has blocks 0 to {n_layers - 1}.")
    return blocks


@dataclass(frozen=True, kw_only=True)
class DifferentialConfig:
    """How the differential blocks are built."""

    placement: Placement = "all"
    """Which blocks are differential (see `differential_blocks`)."""
    subtract_at: SubtractAt = "mixer"
    """What is subtracted. mixer (Diff-Mamba): the outputs of two whole mixers. gated and scan (Diff-S6): inside one
    mixer with two scans, their outputs behind gate and inner norm (as published over Mamba-2), or the scans' own (the
    paper's Fig. 1; see `models.diff_s6_mixer`)."""
    lambda_form: LambdaForm = "sigmoid_sum"
    """sigmoid_sum (Eq. 16, published Diff-Mamba-2), sigmoid (Eq. 16 of one number, published Diff-S6 over Mamba-2),
    exp_dot (Eq. 10, "re-parameterised"), one (lambda = 1, published Diff-S6 over Mamba-1), or one of two departures
    from the paper. token_gate: a score of every token, sigmoid(w . u[t] + b) + lambda_init, after a popular summary of
    the method. token_head_gate: a score of every token and head, sigmoid(W u[t] + b)[h], after the successor of the
    differential Transformer (2026); the scans are subtracted, and there is no norm on the difference (subtract_at scan,
    normalisation none)."""
    normalisation: Normalisation = "post"
    """RMSNorm after the subtraction (post, published), on each branch before it (pre), or none."""
    head_division: HeadDivision = "d_head"
    """Of Diff-Mamba, where a branch has half the inner width of a plain mixer, either by halving d_head (published
    checkpoints) or by halving the number of heads (n_heads, paper's Table 5). The branches of a Diff-S6 are as wide as
    a plain mixer."""
    lambda_initialisation: LambdaInitialisation = "small"
    """Distribution of the lambda parameters of a new model. small is zero-mean with a small spread; published is N(0,
    1) per entry, which saturates the sigmoid in most blocks."""
    subnorm_eps: float = 1e-5
    """Added to the mean square in the norm on the difference (1e-5 in the published code, whatever the other norms
    use)."""

    def __post_init__(self) -> None:
        if isinstance(self.placement, str):
            _require_one_of("placement", self.placement, NAMED_PLACEMENTS)
        elif isinstance(self.placement, tuple | list | set | frozenset | range):
            object.__setattr__(self, "placement", tuple(self.placement))
        else:
            raise ValueError(f"placement is {self.placement!r}: give a name or a tuple of block indices.")
        _require_one_of("subtract_at", self.subtract_at, get_args(SubtractAt))
        _require_one_of("lambda_form", self.lambda_form, get_args(LambdaForm))
        _require_one_of("normalisation", self.normalisation, ("post", "pre", "none"))
        _require_one_of("head_division", self.head_division, ("d_head", "n_heads"))
        _require_one_of("lambda_initialisation", self.lambda_initialisation, ("small", "published"))
        if self.lambda_initialisation == "published" and self.lambda_form in UNPUBLISHED_LAMBDAS:
            raise ValueError(
                f"lambda_form {self.lambda_form!r} has no published parameters (two forms were never published, and "
                "'one' has none): use lambda_initialisation 'small'."
            )
        if self.lambda_form == "token_head_gate" and (self.subtract_at, self.normalisation) != ("scan", "none"):
            raise ValueError(
                "lambda_form 'token_head_gate' weighs the scans' heads and has no norm on the difference: give "
                f"subtract_at 'scan' (not {self.subtract_at!r}) and normalisation 'none' (not {self.normalisation!r})."
            )
        if self.subtract_at != "mixer" and self.head_division != "d_head":
            raise ValueError(
                f"head_division is {self.head_division!r}, but with subtract_at {self.subtract_at!r} the branches are "
                "as wide as a plain mixer: leave head_division out."
            )
        _require_number("subnorm_eps", self.subnorm_eps, at_least=0.0)


@dataclass(frozen=True, kw_only=True)
class HookedMambaConfig:
    """Sizes and numerics of a Mamba or Diff-Mamba language model."""

    d_model: int
    """Width of the residual stream."""
    n_layers: int
    """Number of blocks."""
    d_vocab: int
    """Rows of the embedding; the last `d_vocab_padding` of them belong to no token."""
    d_state: int = 128
    """Width of a scan's state."""
    d_conv: int = 4
    """Positions that the convolution sees."""
    expand: int = 2
    """d_inner / d_model of a plain mixer."""
    d_head: int = 64
    """Channels per head; of mamba2 only."""
    n_groups: int = 1
    """Groups of heads that share B and C; of mamba2 only."""
    norm_eps: float = 1e-5
    """Added to the mean square in every RMSNorm."""
    dt_limit: tuple[float, float] = (0.0, math.inf)
    """Interval to which dt is clamped after the softplus; of mamba2 only."""
    proj_bias: bool = False
    """Biases in in_proj and out_proj."""
    conv_bias: bool = True
    """A bias in the convolution."""
    tie_embeddings: bool = False
    """The unembedding is the embedding."""
    residual_in_fp32: bool = True
    """Keep the residual stream in float32 whatever the weights' dtype."""
    chunk_size: int = 256
    """Positions per chunk of the scan, as checkpoints state it; kept for saving, while the scans here choose their own
    (it changes speed and memory, not the result). Of mamba2 only."""
    mixer: str = "mamba2"
    """Kind of mixer, a key of `MIXERS`."""
    dt_rank: int | None = None
    """Of mamba1 only: width from which dt is projected; None: d_model / 16, rounded up."""
    scan_norm_eps: float | None = None
    """Of mamba1 only: of norms without gain on B, C and dt, as in Falcon-Mamba; None: no such norms."""
    d_vocab_padding: int = 0
    """Rows of the embedding that belong to no token."""
    dt_min: float = 0.001
    """Smallest dt of a new model, in steps."""
    dt_max: float = 0.1
    """Largest dt of a new model, in steps."""
    dt_floor: float = 1e-4
    """No dt of a new model is smaller."""
    initializer_range: float = 0.02
    """Spread of a new model's weights."""
    differential: DifferentialConfig | None = None
    """How its differential blocks are built; None: a plain model."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dt_limit", _limits("dt_limit", self.dt_limit))
        _require_one_of("mixer", self.mixer, tuple(MIXERS))
        self._require_fields_of_mixer()
        for name in POSITIVE_INTEGERS:
            _require_integer(name, getattr(self, name), at_least=1)
        for name in ("norm_eps", "dt_min", "dt_max", "dt_floor", "initializer_range"):
            _require_number(name, getattr(self, name), at_least=0.0)
        if self.dt_rank is not None:
            _require_integer("dt_rank", self.dt_rank, at_least=1)
        if self.scan_norm_eps is not None:
            _require_number("scan_norm_eps", self.scan_norm_eps, at_least=0.0)
        for name in ("proj_bias", "conv_bias", "tie_embeddings", "residual_in_fp32"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be true or false.")
        if self.differential is not None:
            if not isinstance(self.differential, DifferentialConfig):
                raise ValueError(f"differential is {self.differential!r}: give a DifferentialConfig, or None.")
            differential_blocks(self.differential.placement, self.n_layers)
            if self.differential.subtract_at != "mixer" and not self._entry.shows_scan:
                raise ValueError(
                    f"subtract_at is {self.differential.subtract_at!r}, but a mixer {self.mixer!r} does not show its "
                    "scan apart from the rest: use subtract_at 'mixer'."
                )
        _require_integer("d_vocab_padding", self.d_vocab_padding, at_least=0)
        if self.d_vocab_padding >= self.d_vocab:
            raise ValueError(f"d_vocab_padding is {self.d_vocab_padding}: it must lie in [0, {self.d_vocab}).")
        self._entry.require(self)

    @property
    def _entry(self) -> MixerEntry:
        return MIXERS[self.mixer]

    def _require_fields_of_mixer(self) -> None:
        """A field that this kind of mixer lacks would change nothing: refuse it."""
        strange = [field for field in fields(self) if field.name in self._fields_of_other_mixers()]
        said = [field.name for field in strange if getattr(self, field.name) != field.default]
        if said:
            raise ValueError(f"a model of mixer {self.mixer!r} has no {', '.join(said)}: leave it out.")

    def _fields_of_other_mixers(self) -> frozenset[str]:
        return frozenset().union(*(entry.fields for entry in MIXERS.values())) - self._entry.fields

    @property
    def differential_blocks(self) -> tuple[int, ...]:
        """Indices of the differential blocks; empty for a plain model."""
        if self.differential is None:
            return ()
        return differential_blocks(self.differential.placement, self.n_layers)

    def block_kind(self, block: int) -> BlockKind:
        """`"plain"` or `"differential"`."""
        return "differential" if block in self.differential_blocks else "plain"

    def mixer_sizes(self, kind: BlockKind) -> MixerSizes:
        """Sizes of a plain block's mixer, or of one branch of a differential block's."""
        return self._entry.sizes(self, kind)

    def with_placement(self, placement: Placement | None) -> HookedMambaConfig:
        """The same model with other differential blocks; `None` makes it plain."""
        if placement is None:
            return replace(self, differential=None)
        return replace(self, differential=replace(self.differential or DifferentialConfig(), placement=placement))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; infinity is written as the string `"inf"`."""
        values = asdict(self)
        values["dt_limit"] = [_json_number(bound) for bound in self.dt_limit]
        silent = {field.name for field in fields(self) if field.name in UNSAID and values[field.name] == field.default}
        for name in self._fields_of_other_mixers() | silent:
            del values[name]
        if self.differential is not None:
            if self.differential.subtract_at == "mixer":
                del values["differential"]["subtract_at"]
            if not isinstance(self.differential.placement, str):
                values["differential"]["placement"] = list(self.differential.placement)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HookedMambaConfig:
        """The inverse of `to_dict`. Raises ValueError on unknown and missing keys."""
        if not isinstance(values, Mapping):
            raise ValueError(f"the model config is {values!r}: it must be an object of settings.")
        values = dict(values)
        _require_known_keys("model config", values, {field.name for field in fields(cls)})
        if values.get("differential") is not None:
            if not isinstance(values["differential"], Mapping):
                raise ValueError(f"differential is {values['differential']!r}: it must be an object of settings.")
            inner = dict(values["differential"])
            _require_known_keys("differential config", inner, {field.name for field in fields(DifferentialConfig)})
            if isinstance(inner.get("placement"), list):
                inner["placement"] = tuple(inner["placement"])
            values["differential"] = DifferentialConfig(**inner)
        if "dt_limit" in values:
            values["dt_limit"] = _limits("dt_limit", values["dt_limit"])
        missing = [name for name in ("d_model", "n_layers", "d_vocab") if name not in values]
        if missing:
            raise ValueError(f"the model config is incomplete: {', '.join(missing)} missing.")
        return cls(**values)


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _require_known_keys(what: str, values: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown keys in the {what}: {', '.join(unknown)}. Known: {', '.join(sorted(known))}.")


def _require_integer(name: str, value: object, *, at_least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name} is {value!r}: it must be a whole number of at least {at_least}.")


def _require_number(name: str, value: object, *, at_least: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not at_least <= value < math.inf:  # type: ignore[operator]
        raise ValueError(f"{name} is {value!r}: it must be a finite number of at least {at_least:g}.")


def _limits(name: str, value: Any) -> tuple[float, float]:
    """(low, high); `"inf"` stands for infinity."""
    try:
        low, high = (float(bound) for bound in value)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not 0 <= low < high:
        raise ValueError(f"{name} is {value!r}: it must be (low, high) with 0 <= low < high.")
    return low, high


def _require_one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(choices)}.")
