"""Before a long run: what it will take, and a button to press."""

from __future__ import annotations

from collections.abc import Hashable

import streamlit as st

from app.estimates import LONG_S, forward_seconds, require_feasible
from app.loading import ModelKey

_AGREED = "long_runs_agreed"


def agreed(key: ModelKey, n_tokens: int, n_read_outs: int = 0, *, what: Hashable, reduce: str) -> bool:
    """Whether to run: at once if it is short, otherwise when the button was pressed for just this run.

    what: tells this run from others. reduce: what makes it shorter, in words. Raises ValueError for a run that is
    far too long.
    """
    seconds = forward_seconds(key, n_tokens, n_read_outs)
    require_feasible(seconds, reduce)
    if seconds <= LONG_S or st.session_state.get(_AGREED) == (key, what):
        return True
    st.info(f"This will take at least {seconds:.0f} s here. {reduce} to make it quicker.")
    if st.button("Run", key="run_long", type="primary"):
        st.session_state[_AGREED] = (key, what)
        return True
    return False
