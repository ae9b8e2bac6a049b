"""A model known in closed form at every stage: what it writes next depends on the last token only.

Every mixer writes nothing, so the residual stream is the last token's embedding e_v at every block. The embeddings are
the rows of a Hadamard matrix, orthogonal and of root mean square 1, so the final norm keeps them, and

    unembed = log(table).T @ E / d_model      gives      logits(v) = log(table[v])

A lens that reads block i with table_i in place of table predicts softmax(log table_i[v]) = table_i[v].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import hadamard
from torch import Tensor

from diffmamba_interp import HookedMamba, HookedMambaConfig
from diffmamba_interp.needle.records import NeedleSample, Span

D = 16
N_TOKENS = 16
N_BLOCKS = 3


class TableLens:
    """Predicts `tables[idx][last token]` at block `idx`."""

    def __init__(self, tables: Sequence[np.ndarray]) -> None:
        self.weights = [_weight(table) for table in tables]

    def __call__(self, h: Tensor, idx: int) -> Tensor:
        return h @ self.weights[idx].T


def table_model(table: np.ndarray) -> HookedMamba:
    """Predicts `table[v]` after token v, at its output; float64."""
    cfg = HookedMambaConfig(d_model=D, n_layers=N_BLOCKS, d_vocab=N_TOKENS, d_state=4, d_head=8, norm_eps=1e-15)
    model = HookedMamba(cfg).double().requires_grad_(False)
    for block in model.blocks:
        for weight in block.mixer.writing_weights():
            weight.zero_()
    model.embed.weight.copy_(torch.from_numpy(hadamard(D).astype(float)))
    model.unembed.weight.copy_(_weight(table))
    return model.eval()


def random_tables(n: int = N_BLOCKS + 1, seed: int = 0) -> list[np.ndarray]:
    """Conditional distributions p(next | last), one per stage; the last one is the output's."""
    return list(np.random.default_rng(seed).dirichlet(np.ones(N_TOKENS), size=(n, N_TOKENS)))


def sample_of(
    tokens: Sequence[int],
    labels: Sequence[tuple[int, ...]],
    *,
    answer: int = 0,
    task: str = "qa1",
    length: int = 0,
    depth: float | None = None,
    seed: int = 0,
    mark: str = "",
) -> NeedleSample:
    """A prompt of these tokens with labels a, b, c, ... of these tokens; `mark` makes it another prompt."""
    names = tuple("abcdefgh"[: len(labels)])
    whole = Span(0, 1, 0, len(tokens))
    return NeedleSample(
        task=task,
        prompt=f"{tuple(tokens)}{mark}",
        tokens=np.array(tokens, dtype=np.int32),
        question="?",
        answer=names[answer],
        labels=names,
        answer_tokens=tuple(labels[answer]),
        label_tokens=tuple(map(tuple, labels)),
        context_span=whole,
        fact_spans=(Span(0, 1, len(tokens) // 2, len(tokens)),),
        supporting=(0,),
        question_span=whole,
        filler_spans=(),
        mentions=(),
        length=length,
        depth=depth,
        seed=seed,
        story_hash="story",
        source="test",
    )


def _weight(table: np.ndarray) -> Tensor:
    return torch.from_numpy(np.log(table).T @ hadamard(D) / D)
