"""How good a lens is on held-out documents: divergence from the final output and bits per byte, per stage.

    KL_i            = sum over documents and positions of KL(p || q_i) / number of positions          nats
    bits_per_byte_i = sum of -log q_i(next token) / (ln 2 * bytes of the predicted text)

Every position that predicts a token of its document counts once. Intervals are 95 % percentile bootstrap
intervals over documents, since the positions of one document are not independent. Sums are in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from diffmamba_interp.argument_checks import Natural, Seed, checked, checked_fields
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.lens.lenses import JacobianLens, TunedLens
from diffmamba_interp.lens.objective import ReadOut, log_probabilities
from diffmamba_interp.lens.stream import residual_stream
from diffmamba_interp.lens.unembedding import ModelUnembed, chunk_tokens
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.prompt_batches import batches, padded
from diffmamba_interp.models.read_out_identity import require_lens_of
from diffmamba_interp.stages import stage_name
from diffmamba_interp.statistics import Estimate, bootstrap_of, ratio_of

N_RESAMPLES = 2000
# Documents are grouped up to about so many tokens, padding included, per forward pass.
BATCH_TOKENS = {"cuda": 16384, "cpu": 2048}


@checked_fields
@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutDocument:
    """One document to measure on.

    tokens: [pos]; the first one is only context (end-of-text, say), every further one is predicted.
    n_bytes: UTF-8 bytes of the predicted tokens; None where there is no text.
    """

    tokens: Int64[Tensor, " pos"]
    n_bytes: Natural | None

    def __post_init__(self) -> None:
        if len(self.tokens) < 2:
            raise ValueError("a held-out document needs two tokens: one to read and one to predict.")


@dataclass(frozen=True, kw_only=True)
class StageMeasurement:
    """One stage, with the lens that is measured and with the logit lens.

    kl_nats, logit_lens_kl_nats: divergence from the model's final output. kl_saved_nats: the second minus the
    first, paired by document. bits_per_byte, logit_lens_bits_per_byte: of the next token; None without text.
    """

    stage: str
    kl_nats: Estimate
    logit_lens_kl_nats: Estimate
    kl_saved_nats: Estimate
    bits_per_byte: Estimate | None
    logit_lens_bits_per_byte: Estimate | None


@dataclass(frozen=True, kw_only=True)
class LensMeasurement(JsonRecord):
    """A lens on held-out documents. model_bits_per_byte: of the model's own output, the floor of the stages'."""

    stages: tuple[StageMeasurement, ...]
    model_bits_per_byte: Estimate | None
    n_documents: int
    n_tokens: int
    n_bytes: int | None


@checked
@torch.no_grad()
def measure_lens(
    model: HookedMamba,
    lens: TunedLens | JacobianLens,
    documents: Sequence[HeldOutDocument],
    *,
    seed: Seed = 0,
    force: bool = False,
) -> LensMeasurement:
    """Measure a tuned or a Jacobian lens, and the logit lens beside it, on held-out documents.

    seed: of the bootstrap. force: measure a lens of another model of the same sizes.
    Raises ValueError if there are no documents, and for a lens of another model.
    """
    require_lens_of(model, lens, force=force)
    if not documents:
        raise ValueError("there is no held-out document to measure the lens on: give more text.")
    sums = _Sums(len(documents), model.cfg.n_layers)
    batch_tokens = BATCH_TOKENS.get(lens.unembed.weight.device.type, BATCH_TOKENS["cpu"])
    for indices in batches([len(document.tokens) for document in documents], batch_tokens):
        _add_batch(sums, model, lens, documents, indices)
    has_bytes = all(document.n_bytes is not None for document in documents)
    n_bytes = np.array([document.n_bytes or 0 for document in documents], dtype=np.float64)
    n_tokens = np.array([len(document.tokens) - 1 for document in documents], dtype=np.float64)
    counts = _resampled_counts(len(documents), seed)

    def estimate(values: np.ndarray, sizes: np.ndarray) -> Estimate:
        return bootstrap_of(ratio_of(values, sizes), len(documents), counts=counts).estimates[0]

    def per_token(values: np.ndarray) -> Estimate:
        return estimate(values, n_tokens)

    def per_byte(values: np.ndarray) -> Estimate | None:
        return estimate(values / math.log(2), n_bytes) if has_bytes else None

    stages = tuple(
        StageMeasurement(
            stage=stage_name(i),
            kl_nats=per_token(sums.kl[:, i, 0]),
            logit_lens_kl_nats=per_token(sums.kl[:, i, 1]),
            kl_saved_nats=per_token(sums.kl[:, i, 1] - sums.kl[:, i, 0]),
            bits_per_byte=per_byte(sums.ce[:, i, 0]),
            logit_lens_bits_per_byte=per_byte(sums.ce[:, i, 1]),
        )
        for i in range(model.cfg.n_layers)
    )
    return LensMeasurement(
        stages=stages,
        model_bits_per_byte=per_byte(sums.model_ce),
        n_documents=len(documents),
        n_tokens=int(n_tokens.sum()),
        n_bytes=int(n_bytes.sum()) if has_bytes else None,
    )


class _Sums:
    """Sums in nats by document; kl and ce are [document, stage, (the lens, logit)]."""

    def __init__(self, n_documents: int, n_layers: int) -> None:
        self.kl = np.zeros((n_documents, n_layers, 2))
        self.ce = np.zeros((n_documents, n_layers, 2))
        self.model_ce = np.zeros(n_documents)


def _add_batch(
    sums: _Sums,
    model: HookedMamba,
    lens: TunedLens | JacobianLens,
    documents: Sequence[HeldOutDocument],
    indices: list[int],
) -> None:
    device = lens.unembed.weight.device
    read_out, of_model = ReadOut.of(lens.unembed), ReadOut.of(ModelUnembed(model))
    tokens = padded([documents[i].tokens for i in indices]).to(device)
    lengths = torch.tensor([len(documents[i].tokens) for i in indices], device=device)
    stream = residual_stream(model, tokens, lengths=lengths)
    predicts = torch.arange(tokens.shape[1], device=device) < lengths[:, None] - 1
    row, _ = predicts.nonzero(as_tuple=True)
    next_tokens = torch.roll(tokens, -1, dims=1)[predicts]
    final, entering = stream.final[predicts], [resid[predicts] for resid in stream.entering]
    size = max(chunk_tokens(read_out.weight) // 2, 1)

    def add(to: np.ndarray, values: Tensor, chunk: slice) -> None:
        np.add.at(to, np.array(indices)[row[chunk].cpu().numpy()], values.double().cpu().numpy())

    for first in range(0, len(final), size):
        chunk = slice(first, first + size)
        p, following = log_probabilities(of_model, final[chunk]), next_tokens[chunk, None]
        add(sums.model_ce, -p.gather(-1, following)[:, 0], chunk)
        for i, resid in enumerate(entering):
            for kind, x in enumerate((lens.transform_hidden(resid[chunk], i), resid[chunk])):
                q = log_probabilities(read_out, x)
                add(sums.kl[:, i, kind], (p.exp() * (p - q)).sum(dim=-1), chunk)
                add(sums.ce[:, i, kind], -q.gather(-1, following)[:, 0], chunk)


def _resampled_counts(n_documents: int, seed: int) -> Float64[np.ndarray, "resample document"]:
    """How often each document occurs in each bootstrap resample."""
    # RandomState, unlike numpy's newer generators, keeps its sequences in all versions.
    counts = np.random.RandomState(seed).multinomial(n_documents, np.full(n_documents, 1 / n_documents), N_RESAMPLES)
    return counts.astype(np.float64)
