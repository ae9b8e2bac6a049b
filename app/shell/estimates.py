"""What a run will take, before it is made: seconds and bytes, and a refusal that says what to reduce.

    forward    tokens * sum over blocks of the seconds that one block of its kind takes for a token
    read-out   positions * the seconds that the vocabulary's probabilities take for one
    norms      rows * positions * the seconds that a block takes for the norm of what one gives to another

All are measured once per sizes, dtype and device, on random weights: no checkpoint is opened for it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable
from typing import TypeVar

import streamlit as st
import torch

from app.shell import loading, state
from app.shell.folders import ModelKey
from app.shell.loading import DTYPES
from diffmamba_interp import HookedMamba, HookedMambaConfig
from diffmamba_interp.mixer_sizes import BlockKind

LONG_S = 10.0
"""A run that is expected to take longer waits for a press on a button."""

ASKED_S = 90.0
"""What a question of the start page opens runs at once up to this: that press was the one on Run."""

TOO_LONG_S = 900.0
MEASURED_TOKENS, MEASURED_READ_OUTS, MEASURED_SOURCES, N_MEASURED = 256, 8, 2048, 5
ACTIVATION_WIDTHS = 10
"""A forward pass holds about so many arrays of float32 as wide as in_proj's output; measured: 7 to 10."""

_AGREED, _RAN, _STOPPED = "long_runs_agreed", "runs_made", "runs_stopped"
Made = TypeVar("Made")


def forward_seconds(key: ModelKey, n_tokens: int, n_read_outs: int = 0) -> float:
    """About so many seconds. n_read_outs: how often the whole vocabulary is computed, as a lens does per stage and
    position."""
    blocks_s = n_tokens * block_seconds(key)
    return blocks_s + n_read_outs * read_out_seconds(key) if n_read_outs else blocks_s


def block_seconds(key: ModelKey) -> float:
    """Seconds per token of all blocks together."""
    cfg = loading.config(key)
    kinds = Counter(cfg.block_kind(block) for block in range(cfg.n_layers))
    return sum(n * _kind_seconds(key, cfg, kind) for kind, n in kinds.items())


def read_out_seconds(key: ModelKey) -> float:
    """Seconds for the probabilities of the whole vocabulary at one position."""
    cfg = loading.config(key)
    device, dtype = key.device, DTYPES[key.dtype]

    def measured() -> float:
        weight = torch.ones(cfg.d_vocab, cfg.d_model, device=device, dtype=dtype)
        resid = torch.ones(MEASURED_READ_OUTS, cfg.d_model, device=device, dtype=dtype)
        return _seconds(lambda: torch.log_softmax((resid @ weight.T).float(), dim=-1)) / MEASURED_READ_OUTS

    return _once(("read-out seconds", cfg.d_model, cfg.d_vocab, key.dtype, key.device), measured)


def norm_seconds(key: ModelKey, block: int) -> float:
    """Seconds per row and source for the norms of the contributions in a block."""
    cfg = loading.config(key)
    single = _single_block(cfg, cfg.block_kind(block))

    def measured() -> float:
        from diffmamba_interp.implicit_attention import contribution_norms
        from diffmamba_interp.implicit_attention.activations import run_to_block

        with torch.no_grad():
            _, seen = run_to_block(*_random_run(key, single, MEASURED_SOURCES), 0, None)
            return _seconds(lambda: contribution_norms(seen, [-1])[-1]) / MEASURED_SOURCES

    return _once(("norm seconds", single, key.dtype, key.device), measured)


def forward_bytes(key: ModelKey, n_tokens: int, n_prompts: int = 1) -> int:
    """About so many bytes for the activations of one forward pass, and its recurrent states."""
    cfg = loading.config(key)
    width, state = 0, 0
    for block in range(cfg.n_layers):
        kind = cfg.block_kind(block)
        sizes, branches = cfg.mixer_sizes(kind), 2 if kind == "differential" else 1
        width = max(width, branches * sizes.d_in_proj)
        state += branches * sizes.d_inner * sizes.d_state
    return 4 * (n_tokens * ACTIVATION_WIDTHS * width + n_prompts * state)


def model_bytes(key: ModelKey) -> int:
    return loading.report(key).n_parameters * DTYPES[key.dtype].itemsize


def require_feasible(seconds: float, advice: str) -> None:
    """Raise ValueError if a run would take longer than 15 minutes; `advice` names what to reduce."""
    if seconds > TOO_LONG_S:
        raise ValueError(
            f"this would take about {seconds / 60:,.0f} minutes here, more than the limit of "
            f"{TOO_LONG_S / 60:.0f}. {advice}."
        )


def require_memory(n_bytes: int, advice: str) -> None:
    """Raise MemoryError if a run would take more than the explorer's budget; `advice` names what to reduce."""
    budget = loading.cache().budget_bytes
    if n_bytes > budget:
        raise MemoryError(
            f"this would take about {n_bytes / 2**30:.2f} GiB, more than the budget of {budget / 2**30:.2f} GiB. "
            f"{advice}, or start the explorer with `-- --memory-gib N`."
        )


def _kind_seconds(key: ModelKey, cfg: HookedMambaConfig, kind: BlockKind) -> float:
    """Seconds per token of one block, on the path that the model itself would take."""
    single = _single_block(cfg, kind)

    def measured() -> float:
        model, tokens = _random_run(key, single, MEASURED_TOKENS)
        return _seconds(lambda: model(tokens, stop_at_block=1)) / MEASURED_TOKENS

    return _once(("block seconds", single, key.dtype, key.device), measured)


def _single_block(cfg: HookedMambaConfig, kind: BlockKind) -> HookedMambaConfig:
    """A model of one such block and hardly any words."""
    single = cfg.with_placement("all" if kind == "differential" else None)
    return HookedMambaConfig.from_dict(single.to_dict() | {"n_layers": 1, "d_vocab": 2, "d_vocab_padding": 0})


def _random_run(key: ModelKey, cfg: HookedMambaConfig, n_tokens: int) -> tuple[HookedMamba, torch.Tensor]:
    """A model on random weights, as the key's would run, and tokens for it."""
    model = HookedMamba(cfg).to(key.device, DTYPES[key.dtype]).eval()
    return model, torch.zeros(1, n_tokens, dtype=torch.long, device=key.device)


@torch.no_grad()
def _seconds(run: Callable[[], torch.Tensor]) -> float:
    """The shortest of a few times, after one that is not counted."""
    run()
    times = []
    for _ in range(N_MEASURED):
        start = time.perf_counter()
        # The number has to come from the device, so the time is that of the work.
        run().sum().item()
        times.append(time.perf_counter() - start)
    return min(times)


def _once(what: Hashable, measure: Callable[[], float]) -> float:
    return loading.cache().get(what, measure, lambda _: 100)


def agreed(
    key: ModelKey,
    n_tokens: int,
    n_read_outs: int = 0,
    *,
    what: Hashable,
    reduce: str,
    slot: str = "long",
    longest_s: float | None = None,
) -> bool:
    """Whether to run: at once if it is short, otherwise when the button was pressed for just this run.

    what: tells this run from others. reduce: what makes it shorter, in words. slot: tells the places of one page
    apart, each of which has a button. longest_s: what is short, else
    `LONG_S`. Raises ValueError for a run that is far too long.
    """
    seconds = forward_seconds(key, n_tokens, n_read_outs)
    require_feasible(seconds, reduce)
    ran = f"{_RAN}_{slot}_{state.visited()}"
    if seconds <= (LONG_S if longest_s is None else longest_s) or st.session_state.get(f"{_AGREED}_{slot}") == (
        key,
        what,
    ):
        st.session_state[ran] = True
        return True
    gone = " What stood here was of other settings and is gone until they are back." if ran in st.session_state else ""
    st.info(f"This will take about {seconds:.0f} s here. {reduce} to make it quicker.{gone}")
    if st.button("Run", key=f"run_{slot}", type="primary"):
        st.session_state[f"{_AGREED}_{slot}"] = (key, what)
        st.session_state[ran] = True
        return True
    return False


def stoppable(
    run: Callable[[Callable[[int], None]], Made], n: int, *, what: Hashable, words: str, slot: str
) -> Made | None:
    """What `run` gives, which tells the function that it is given of how many of `n` parts are done: drawn as a bar,
    beside a button that stops it. None where it was stopped, until it is asked for again.

    what: tells this run from others. words: what is done. slot: as for `agreed`.
    """
    stopped = f"{_STOPPED}_{slot}"
    if st.session_state.get(stopped) == what:
        st.info(f"{words} was stopped.")
        if not st.button("Run", key=f"again_{slot}", type="primary"):
            return None
        del st.session_state[stopped]
    place, done = st.empty(), 0
    with place.container():
        left, right = st.columns([4, 1], vertical_alignment="center")
        bar = left.progress(0.0, words)
        # The press makes Streamlit leave this run at its next drawing.
        right.button("Cancel", key=f"cancel_{slot}", on_click=st.session_state.__setitem__, args=(stopped, what))

    def tell(more: int) -> None:
        nonlocal done
        done += more
        bar.progress(min(done / n, 1.0), words)

    made = run(tell)
    place.empty()
    return made
