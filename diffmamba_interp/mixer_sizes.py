"""Kinds of mixer as the config knows them: their sizes, the fields that only some kinds have, and what must fit.

A new kind is one entry of `MIXERS` here, beside its file in `models/` and its checkpoint table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

BlockKind = Literal["plain", "differential"]


@runtime_checkable
class SizedConfig(Protocol):
    """What of a `HookedMambaConfig` sizes are made of."""

    @property
    def mixer(self) -> str: ...

    @property
    def d_model(self) -> int: ...

    @property
    def n_layers(self) -> int: ...

    @property
    def d_state(self) -> int: ...

    @property
    def d_conv(self) -> int: ...

    @property
    def expand(self) -> int: ...

    @property
    def d_head(self) -> int: ...

    @property
    def n_groups(self) -> int: ...

    @property
    def dt_rank(self) -> int | None: ...

    @property
    def differential(self) -> Any: ...

    @property
    def differential_blocks(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, kw_only=True)
class MixerSizes:
    """What every kind of mixer has, a plain one or one branch: all counts, no units.

    A head is what has a hidden attention of its own: `d_head` channels of a Mamba-2 mixer, one channel of Mamba-1.
    has_gate: False for a scan whose output meets another one's gate, and which has neither z nor a norm behind it.
    """

    d_model: int
    d_inner: int
    d_head: int
    d_state: int
    d_conv: int
    has_gate: bool = True

    @property
    def n_heads(self) -> int:
        return self.d_inner // self.d_head

    @property
    def d_in_proj(self) -> int:
        """Rows of in_proj: x | z."""
        return 2 * self.d_inner

    @property
    def convolved(self) -> slice:
        """The columns of in_proj's output that pass through the convolution."""
        return slice(0, self.d_inner)

    @property
    def heads(self) -> str:
        """What has a hidden attention of its own, in words."""
        return f"{self.n_heads} heads of {self.d_head}"

    @property
    def conventions(self) -> tuple[str, ...]:
        """What else a reader of a checkpoint should know, a sentence each."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Mamba2Sizes(MixerSizes):
    """Sizes of a Mamba-2 mixer."""

    n_groups: int

    @property
    def conventions(self) -> tuple[str, ...]:
        groups = f"{self.n_groups} group{'s' if self.n_groups > 1 else ''} of B and C"
        return (groups + ("; gated norm per group, as in the GPU kernels" if self.n_groups > 1 else ""),)

    @property
    def convolved(self) -> slice:
        return slice(self.d_gate, self.d_gate + self.d_conv_channels)

    @property
    def d_gate(self) -> int:
        """Channels of z."""
        return self.d_inner if self.has_gate else 0

    @property
    def d_conv_channels(self) -> int:
        """Channels of x | B | C, which pass through the convolution."""
        return self.d_inner + 2 * self.n_groups * self.d_state

    @property
    def d_in_proj(self) -> int:
        """Rows of in_proj: z | x | B | C | dt."""
        return self.d_gate + self.d_conv_channels + self.n_heads


@dataclass(frozen=True, kw_only=True)
class Mamba1Sizes(MixerSizes):
    """Sizes of a Mamba-1 mixer. dt_rank: width of the projection from which every channel's dt is made."""

    dt_rank: int

    @property
    def heads(self) -> str:
        return f"{self.d_inner} channels"

    @property
    def conventions(self) -> tuple[str, ...]:
        return (f"Mamba-1: every channel has {self.d_state} states, and a dt made from {self.dt_rank} numbers",)


@dataclass(frozen=True, kw_only=True)
class MixerEntry:
    """What the config knows of a kind of mixer.

    sizes: of a plain block's mixer, or of one branch. fields: those of the config that only some kinds have, this one
    among them. require: raises ValueError for sizes that do not fit each other, beyond what is true of every kind.
    shows_scan: whether its class is a `models.mixer.ScanMixer`, of which a Diff-S6 can be made.
    """

    sizes: Callable[[SizedConfig, BlockKind], MixerSizes]
    fields: frozenset[str] = frozenset()
    require: Callable[[SizedConfig], None] = lambda cfg: None
    shows_scan: bool = False


def has_whole_branches(cfg: SizedConfig) -> bool:
    """Whether each branch of the differential blocks is as wide as a plain mixer, as in Diff-S6."""
    return cfg.differential is not None and cfg.differential.subtract_at != "mixer"


def _mamba2_sizes(cfg: SizedConfig, kind: BlockKind) -> Mamba2Sizes:
    d_inner, d_head = cfg.expand * cfg.d_model, cfg.d_head
    if kind == "differential" and not has_whole_branches(cfg):
        d_inner //= 2
        if cfg.differential is not None and cfg.differential.head_division == "d_head":
            d_head //= 2
    return Mamba2Sizes(
        d_model=cfg.d_model,
        d_inner=d_inner,
        d_head=d_head,
        d_state=cfg.d_state,
        d_conv=cfg.d_conv,
        n_groups=cfg.n_groups,
    )


def _mamba1_sizes(cfg: SizedConfig, kind: BlockKind) -> Mamba1Sizes:
    """A branch of Diff-Mamba has half the channels of a plain mixer."""
    halved = kind == "differential" and not has_whole_branches(cfg)
    return Mamba1Sizes(
        d_model=cfg.d_model,
        d_inner=cfg.expand * cfg.d_model // (2 if halved else 1),
        d_head=1,
        d_state=cfg.d_state,
        d_conv=cfg.d_conv,
        dt_rank=-(-cfg.d_model // 16) if cfg.dt_rank is None else cfg.dt_rank,
    )


def _require_heads(cfg: SizedConfig) -> None:
    """Heads and groups must divide the channels, and branches share a plain mixer's inner width, without rest."""
    n_differential = len(cfg.differential_blocks)
    if n_differential < cfg.n_layers:
        _require_divisible(_mamba2_sizes(cfg, "plain"), "plain", cfg.differential)
    if not n_differential:
        return
    plain, branch = _mamba2_sizes(cfg, "plain"), _mamba2_sizes(cfg, "differential")
    _require_divisible(branch, "differential", cfg.differential)
    if has_whole_branches(cfg):
        return
    if 2 * branch.n_heads * branch.d_head != plain.d_inner or plain.n_heads % branch.n_heads:
        assert cfg.differential is not None
        raise ValueError(
            f"differential blocks halve {cfg.differential.head_division} (head_division), but a plain mixer of "
            f"this model has d_inner {plain.d_inner} as {plain.d_inner / cfg.d_head:g} heads of {cfg.d_head}."
        )


def _require_halves(cfg: SizedConfig) -> None:
    """Without heads there is one way to divide the channels among two branches."""
    if not cfg.differential_blocks or has_whole_branches(cfg):
        return
    assert cfg.differential is not None
    if cfg.differential.head_division != "d_head":
        raise ValueError(
            f"head_division is {cfg.differential.head_division!r}, but a mixer {cfg.mixer!r} has no heads to divide: "
            "its branches have half the channels each. Leave head_division out."
        )
    if cfg.expand * cfg.d_model % 2:
        raise ValueError(f"differential blocks halve d_inner, which is {cfg.expand * cfg.d_model}: it must be even.")


def _require_divisible(sizes: Mamba2Sizes, kind: BlockKind, differential: Any) -> None:
    where = "a plain block" if kind == "plain" else f"a branch (head_division={differential.head_division!r})"
    if sizes.d_head < 1 or sizes.d_inner % sizes.d_head:
        raise ValueError(f"{where} has d_inner {sizes.d_inner}, which d_head {sizes.d_head} does not divide.")
    if sizes.n_heads % sizes.n_groups:
        raise ValueError(f"{where} has {sizes.n_heads} heads, which n_groups {sizes.n_groups} does not divide.")


MIXERS: dict[str, MixerEntry] = {
    "mamba2": MixerEntry(
        sizes=_mamba2_sizes,
        fields=frozenset(("d_head", "n_groups", "dt_limit", "chunk_size")),
        require=_require_heads,
        shows_scan=True,
    ),
    "mamba1": MixerEntry(
        sizes=_mamba1_sizes,
        fields=frozenset(("dt_rank", "scan_norm_eps")),
        require=_require_halves,
        shows_scan=True,
    ),
}
"""Every kind of mixer by its name in a config; `models.mixer.register_mixer` gives each its class."""
