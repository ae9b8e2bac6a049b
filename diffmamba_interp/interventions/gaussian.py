"""Gaussian numbers that depend on a seed and on what a prompt holds so far, and on nothing else.

A generator's numbers depend on the shape that is drawn, so a sample's noise would depend on its batch. Here
every number is a function of (seed, block, tokens up to this position, channel): SplitMix64's mixing function
(Steele, Lea, Flood 2014) makes 64 bits of it, and Box and Muller's formula a Gaussian of those.

    n = sqrt(-2 ln u1) cos(2 pi u2)         u1, u2 uniform in (0, 1) and [0, 1), 24 bits each
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_BITS = 24


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
