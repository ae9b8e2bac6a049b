"""How much work at a time: tokens per tile of logits, and sequences per forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from diffmamba_interp.config import HookedMambaConfig

# One tile of logits. On a GPU large tiles make large products; on a CPU a tile should stay near the caches.
LOGIT_TILE_BYTES = {"cuda": 448 * 2**20, "cpu": 16 * 2**20}
MAX_CHUNK_TOKENS = {"cuda": 8192, "cpu": 1024}
# Beyond this a larger micro-batch makes nothing faster.
MAX_MICRO_BATCH_TOKENS = {"cuda": 16384, "cpu": 4096}
# The share of the free memory that the kept residual stream may take.
RESIDUAL_SHARE = 0.15


def chunk_tokens(unembedding: Tensor) -> int:
    """Tokens whose logits are held at once: a power of two, the same in every run on a kind of device."""
    kind = unembedding.device.type
    row_bytes = unembedding.shape[0] * unembedding.element_size()
    fitting = LOGIT_TILE_BYTES.get(kind, LOGIT_TILE_BYTES["cpu"]) // row_bytes
    most = MAX_CHUNK_TOKENS.get(kind, MAX_CHUNK_TOKENS["cpu"])
    return _power_of_two_below(min(max(fitting, 16), most))


def first_micro_batch(cfg: HookedMambaConfig, sequence_length: int, unembedding: Tensor, sequences: int) -> int:
    """Sequences per forward pass to begin with; training halves it if memory runs out all the same.

    sequences: those of one step in this process, which is the most that is of use.
    """
    kind = unembedding.device.type
    most = MAX_MICRO_BATCH_TOKENS.get(kind, MAX_MICRO_BATCH_TOKENS["cpu"]) // sequence_length
    if kind == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(unembedding.device)
        stream_bytes = (cfg.n_layers + 1) * sequence_length * cfg.d_model * unembedding.element_size()
        most = min(most, int(RESIDUAL_SHARE * free_bytes) // stream_bytes)
    return _power_of_two_below(min(max(most, 1), sequences))


def _power_of_two_below(n: int) -> int:
    """The largest power of two that is at most n."""
    return 1 << (n.bit_length() - 1)
