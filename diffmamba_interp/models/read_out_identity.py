"""Whether two read-outs, final norm and unembedding, are the same weights, and whether a lens is a model's own.

    sha256    of unembedding U and gain g, every entry in bfloat16
    sketch    S[k, c] = sum_{v = k mod 64} r_v sum_j s_cj U_vj g_j          r, s: fixed random signs, c = 0 .. 3

A hash says that two read-outs are the same, never that they differ: one checkpoint loaded in float16 and in float32
has other bits in bfloat16 too, since rounding twice is not rounding once and float16 ends at 6e-8. So where the hashes
differ and either read-out may have been rounded, their sketches are compared with the tolerance that rounding needs.
Lenses that were saved before there was a sketch hold the hash alone: `remember_checkpoint` serves those.

Rounding to bfloat16 changes an entry w by at most |w| / 256, and by |w| / 680 in the root mean square; with signs that
know nothing of the weights, U g changes S[k, c] by about sigma_k / 480, sigma_k the norm of the rows of bucket k. The
tolerance is sigma_k / 64, more than seven standard deviations. Other weights change S[k, c] by about the norm of what
they change in that bucket, so one new row in a vocabulary of 50,000 is seen (a bucket has 800 rows; four numbers would
all have to fall below half a standard deviation), and so is training that moved all weights by 1 %. A smaller move is
told from no move only where neither side was rounded, so that both are `exact`: there the hash decides.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffmamba_interp.models.language_model import HookedMamba

BUCKETS = 64
SIGN_VECTORS = 4
TOLERANCE = 2.0**-6
# Rows of the unembedding whose float32 copy is alive at a time.
_ROWS_AT_ONCE = 64 * BUCKETS


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadOutIdentity:
    """What is kept of a read-out to know it again in any dtype.

    sha256: of its entries in bfloat16. exact: they are numbers of float32 that no narrower dtype holds, so that they
    were not rounded to one. sketch: S; None if it was not kept, as in lenses that were saved before there was one.
    """

    sha256: str
    exact: bool = False
    sketch: Float[np.ndarray, "bucket vector"] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values for a file that describes a lens."""
        values: dict[str, Any] = {"unembedding_sha256": self.sha256}
        if self.sketch is not None:
            written = base64.b64encode(self.sketch.astype("<f4").tobytes()).decode()
            values |= {"unembedding_exact": self.exact, "unembedding_sketch": written}
        return values

    @classmethod
    def from_dict(cls, values: Any) -> ReadOutIdentity | None:
        """The inverse of `to_dict`, from a dict that may hold more; None if it says nothing. ValueError if garbled."""
        sha256, written = values.get("unembedding_sha256"), values.get("unembedding_sketch")
        if sha256 is None:
            return None
        if written is None:
            return cls(sha256=str(sha256))
        try:
            sketch = np.frombuffer(base64.b64decode(written, validate=True), "<f4").reshape(BUCKETS, SIGN_VECTORS)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"unembedding_sketch is no {BUCKETS} x {SIGN_VECTORS} float32 numbers: {error}."
            ) from error
        return cls(sha256=str(sha256), exact=bool(values.get("unembedding_exact", False)), sketch=sketch)


def read_out_identity(holder: nn.Module, weight: Tensor, gain: Tensor) -> ReadOutIdentity:
    """The identity of unembedding and gain, which is kept on `holder`, a module that has them, until they change."""
    now = [_state(weight), _state(gain)]
    kept = holder.__dict__.get("_read_out_identity")
    if kept is None or kept[0] != now:
        kept = (now, _identity(weight.detach(), gain.detach()))
        holder.__dict__["_read_out_identity"] = kept
    return kept[1]


def is_read_out_of(model: HookedMamba, stored: ReadOutIdentity) -> bool:
    """Whether what was stored is the read-out of `model`, up to rounding."""
    weight, gain = model.unembed.weight, model.ln_final.weight
    identity = read_out_identity(model, weight, gain)
    of_checkpoint, as_loaded = model.__dict__.get("_checkpoint_read_out", ("", ""))
    if stored.sha256 == identity.sha256 or (stored.sha256, identity.sha256) == (of_checkpoint, as_loaded):
        return True
    if stored.sketch is None or identity.sketch is None or (stored.exact and identity.exact):
        return False
    allowed = TOLERANCE * _bucket_norms(weight.detach(), gain.detach())
    return bool((np.abs(stored.sketch - identity.sketch) <= allowed[:, None]).all())


def remember_checkpoint(model: HookedMamba, weight: Tensor, gain: Tensor) -> None:
    """Keep on a model the hash of its read-out in the checkpoint, from before it was rounded to the model's dtype.

    A model in bfloat16 has the checkpoint's hash by itself, so this costs nothing but for float16.
    """
    if model.unembed.weight.dtype == torch.float16 and weight.dtype != torch.float16:
        hashes = (read_out_sha256(weight, gain), read_out_sha256(model.unembed.weight, model.ln_final.weight))
        model.__dict__["_checkpoint_read_out"] = hashes


def read_out_sha256(weight: Tensor, gain: Tensor) -> str:
    """Sha256 of unembedding and gain, every entry in bfloat16."""
    digest = hashlib.sha256()
    for tensor in (weight, gain):
        bits = tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16)
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(bits.numpy().astype("<i2").tobytes())
    return digest.hexdigest()


def require_lens_of(model: HookedMamba, lens: Any, name: str = "lens", *, force: bool = False) -> None:
    """Raise ValueError, saying what differs, if `lens` was made for another model than `model`.

    lens: any lens with the attributes of the tuned-lens library's, `unembed.unembedding` and `unembed.final_norm`, and
        as many translators as it has a length, if it has one. Of any other function nothing can be compared.
    name: what the caller calls it. force: allow other weights of the same sizes, and translators of further blocks.
    """
    unembed = getattr(lens, "unembed", None)
    weight = getattr(getattr(unembed, "unembedding", None), "weight", None)
    gain = getattr(getattr(unembed, "final_norm", None), "weight", None)
    if not isinstance(weight, Tensor) or not isinstance(gain, Tensor):
        return
    n_blocks = len(lens) if isinstance(lens, Sized) else model.cfg.n_layers
    d_vocab, d_model = model.unembed.weight.shape
    sizes = {
        "width (d_model)": (weight.shape[1], d_model),
        "vocabulary (d_vocab)": (weight.shape[0], d_vocab),
        "number of blocks": (n_blocks, model.cfg.n_layers),
    }
    differing = [f"its {size} is {of_lens}, the model's {of_model}" for size, (of_lens, of_model) in sizes.items()
                 if of_lens != of_model]  # fmt: skip
    can_be_forced = weight.shape == (d_vocab, d_model) and n_blocks >= model.cfg.n_layers
    if can_be_forced and force:
        return
    if not differing and not _same_weights(model, lens.unembed, weight, gain):
        differing = ["its unembedding or final norm holds other weights than the model's"]
    if differing:
        remedy = ", or pass force=True if you mean to read this model with it" if can_be_forced else ""
        raise ValueError(
            f"{name} is a lens of another model: {'; '.join(differing)}. Give the lens that was made for this model "
            f"(load_lens(folder, model), TunedLens.from_model(model) or LogitLens.from_model(model)){remedy}."
        )


def _state(tensor: Tensor) -> tuple[Any, ...]:
    """What is cheap to know of a tensor and changes with its values; the sum sees what `.data` hides from torch."""
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), tensor.dtype, version, float(tensor.detach().sum(dtype=torch.float32))


def _same_weights(model: HookedMamba, unembed: nn.Module, weight: Tensor, gain: Tensor) -> bool:
    """Whether a lens reads as the model does; one that shares the model's memory costs nothing to know."""
    of_model = (model.unembed.weight, model.ln_final.weight)
    eps = getattr(unembed.final_norm, "eps", model.ln_final.eps)
    if eps != model.ln_final.eps:
        return False
    if all(_is_same_memory(a, b) for a, b in zip((weight, gain), of_model, strict=True)):
        return True
    return is_read_out_of(model, read_out_identity(unembed, weight, gain))


def _is_same_memory(a: Tensor, b: Tensor) -> bool:
    return (a.data_ptr(), a.shape, a.dtype, a.device) == (b.data_ptr(), b.shape, b.dtype, b.device)


def _identity(weight: Tensor, gain: Tensor) -> ReadOutIdentity:
    def hold(dtype: torch.dtype) -> bool:
        return all(bool((tensor.to(dtype).to(tensor.dtype) == tensor).all()) for tensor in (weight, gain))

    exact = hold(torch.float32) and not (hold(torch.bfloat16) or hold(torch.float16))
    return ReadOutIdentity(sha256=read_out_sha256(weight, gain), exact=exact, sketch=_sketch(weight, gain))


def _sketch(weight: Tensor, gain: Tensor) -> Float[np.ndarray, "bucket vector"]:
    # RandomState, unlike numpy's newer generators, keeps its sequences in all versions.
    d_vocab, d_model = weight.shape
    row_signs = 2.0 * np.random.RandomState(0).randint(0, 2, d_vocab) - 1
    column_signs = 2.0 * np.random.RandomState(1).randint(0, 2, (d_model, SIGN_VECTORS)) - 1
    columns = gain.float().cpu()[:, None] * torch.from_numpy(column_signs).float()
    sums = np.zeros((BUCKETS, SIGN_VECTORS))
    for first, rows in _chunks(weight):
        projected = (rows @ columns).double().numpy() * row_signs[first : first + len(rows), None]
        np.add.at(sums, (first + np.arange(len(rows))) % BUCKETS, projected)
    return sums.astype(np.float32)


def _bucket_norms(weight: Tensor, gain: Tensor) -> Float[np.ndarray, " bucket"]:
    """sigma: the Frobenius norm of U g over the rows of each bucket."""
    squares = np.zeros(BUCKETS)
    for first, rows in _chunks(weight):
        of_rows = (rows * gain.float().cpu()).square().sum(dim=-1).double().numpy()
        np.add.at(squares, (first + np.arange(len(rows))) % BUCKETS, of_rows)
    return np.sqrt(squares)


def _chunks(weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    for first in range(0, len(weight), _ROWS_AT_ONCE):
        yield first, weight[first : first + _ROWS_AT_ONCE].float().cpu()
