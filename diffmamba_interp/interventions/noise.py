"""Noise: Gaussian in the residual stream at a given signal-to-noise ratio, and random tokens among the filler.

resid'[t] = resid[t] + sigma[t] n[t],   n[t] ~ N(0, I)
sigma[t]^2 = mean_d resid[t,d]^2 / 10^(snr_db / 10)         so SNR = power of the stream over that of the noise

A generator's numbers depend on the shape that is drawn, so a sample's noise would depend on its batch. Here every
number is a function of (seed, block, tokens up to this position, channel) and of nothing else: SplitMix64's mixing
function (Steele, Lea, Flood 2014) makes 64 bits of it, and Box and Muller's formula a Gaussian of those.

n = sqrt(-2 ln u1) cos(2 pi u2)         u1, u2 uniform in (0, 1) and [0, 1), 24 bits each
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from diffmamba_interp.argument_checks import Count, Share, checked, checked_fields
from diffmamba_interp.hook_names import EMBED, block_point
from diffmamba_interp.interventions.intervention import Hook, Observer
from diffmamba_interp.interventions.targets import Blocks, chosen_blocks
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.ops.precision import upcast
from diffmamba_interp.spans import TokenRange, TokenSpan, positions_in
from diffmamba_interp.text.stable_random import StableRandom

_GOLDEN = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_BITS = 24


@checked_fields
@dataclass(frozen=True, kw_only=True)
class AddNoise:
    """Gaussian noise in the residual stream that enters (or leaves) the chosen blocks, at every position.

    The noise of a position depends on the seed, the block and the prompt's tokens up to there: not on the batch
    that a sample is in, and other prompts get other noise. A call that continues from a state counts its own
    tokens only.

    snr_db: power of the stream over that of the noise, per position, in dB; infinity for no noise.
    blocks: None for all. seed: any whole number. point: "resid_pre" or "resid_post".
    """

    snr_db: float
    blocks: Blocks = None
    seed: int = 0
    point: Literal["resid_pre", "resid_post"] = "resid_pre"

    def __post_init__(self) -> None:
        if math.isnan(self.snr_db) or self.snr_db == -math.inf:
            raise ValueError(f"snr_db is {self.snr_db}: it must be a number of dB, or infinity for no noise.")
        if self.point not in ("resid_pre", "resid_post"):
            raise ValueError(f"point is {self.point!r}: the residual stream is read at 'resid_pre' or 'resid_post'.")

    def hooks(self, model: HookedMamba) -> list[Hook]:
        blocks = {block_point(block, self.point): block for block in chosen_blocks(model, self.blocks)}
        keys: dict[str, Tensor] = {}

        def read_prompt(embedded: Tensor, name: str) -> None:
            keys[EMBED] = prefix_keys(embedded)

        def add(resid: Tensor, name: str) -> Tensor:
            n = gaussian(keys[EMBED], resid.shape[-1], self.seed, blocks[name])
            power = upcast(resid).square().mean(dim=-1, keepdim=True)
            return upcast(resid) + (power * 10 ** (-self.snr_db / 10)).sqrt() * n.to(upcast(resid).dtype)

        return [(EMBED, Observer(read_prompt)), *((name, add) for name in blocks)]


@checked
def randomise_tokens(
    tokens: Int[np.ndarray, " pos"],
    spans: Iterable[TokenSpan | TokenRange],
    *,
    share: Share,
    d_vocab: Count,
    seed: int = 0,
    exclude: Collection[int] = (),
) -> Int[np.ndarray, " pos"]:
    """A copy of a prompt in which a share of some spans, say its filler, is replaced by random tokens.

    Args:
        tokens: the prompt.
        spans: half-open token intervals, as `positions_in` takes them; a position in two of them counts once.
        share: of the spans' positions, in [0, 1]; rounded to a whole number of them.
        d_vocab: tokens are drawn from 0 to d_vocab - 1, each equally likely, never the one that they replace.
        seed: with the prompt it determines the choice.
        exclude: tokens that are never drawn, such as those of the labels.

    Raises:
        ValueError: a share outside [0, 1], a span beyond the prompt, or fewer than two tokens to draw from.
    """
    excluded = {token for token in exclude if 0 <= token < d_vocab}
    if d_vocab - len(excluded) < 2:
        raise ValueError(
            f"d_vocab is {d_vocab} and {len(excluded)} of these tokens are excluded: at least two must be left to draw."
        )
    positions = positions_in(spans)
    if positions and positions[-1] >= len(tokens):
        raise ValueError(f"position {positions[-1]} is beyond the prompt, which has positions 0 to {len(tokens) - 1}.")
    random = StableRandom("random tokens", seed, *tokens.tolist())
    replaced = tokens.copy()
    for position in random.sample(positions, round(share * len(positions))):
        token = int(tokens[position])
        while token == tokens[position] or token in exclude:
            token = random.integer(d_vocab)
        replaced[position] = token
    return replaced


def prefix_keys(embedded: Float[Tensor, "batch pos d"]) -> Int64[Tensor, "batch pos"]:
    """A number for each position of each sample, made from the embeddings up to it.

    It is the same whatever stands after the position, beside the sample, or pads it.
    """
    bits = embedded.detach().float().contiguous().view(torch.int32).long()
    n_pos, d = bits.shape[1:]
    channel, position = (_mix(torch.arange(size, device=bits.device) * _signed(_GOLDEN)) for size in (d, n_pos))
    per_position = _mix((bits * (2 * channel + 1)).sum(dim=-1) + position)
    return per_position.cumsum(dim=1)


def gaussian(keys: Int64[Tensor, "batch pos"], d: int, seed: int, stream: int) -> Float[Tensor, "batch pos {d}"]:
    """Independent standard normal numbers in float32; other seeds and streams give unrelated ones."""
    stream_key = _mix(torch.tensor(seed, device=keys.device) * _signed(_GOLDEN) + stream + 1)
    start = _mix(keys ^ _mix(stream_key))
    counter = torch.arange(1, d + 1, device=keys.device) * _signed(_GOLDEN)
    bits = _mix(start[..., None] + counter)
    u1 = (_shifted(bits, 64 - _BITS).float() + 0.5) / 2**_BITS
    u2 = (bits & (2**_BITS - 1)).float() / 2**_BITS
    return torch.sqrt(-2 * torch.log(u1)) * torch.cos(2 * math.pi * u2)


def _mix(x: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """SplitMix64's finaliser: products modulo 2^64, as int64 wraps around."""
    x = (x ^ _shifted(x, 30)) * _signed(_FACTORS[0])
    x = (x ^ _shifted(x, 27)) * _signed(_FACTORS[1])
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, n: int) -> Tensor:
    """Right by n bits with zeros coming in, where int64's own shift would copy the sign."""
    return (x >> n) & ((1 << (64 - n)) - 1)


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned number below 2^64."""
    return value - (1 << 64) if value >> 63 else value
