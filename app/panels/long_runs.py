"""Before a long run: what it will take, and a button to press."""

from __future__ import annotations

from collections.abc import Hashable

import streamlit as st

from app.estimates import LONG_S, forward_seconds, require_feasible
from app.loading import ModelKey

_AGREED = "long_runs_agreed"


def agreed(
    key: ModelKey, n_tokens: int, n_read_outs: int = 0, *, what: Hashable, reduce: str, slot: str = "long"
) -> bool:
    """Whether to run: at once if it is short, otherwise when the button was pressed for just this run.

    what: tells this run from others. reduce: what makes it shorter, in words. slot: tells the places of one page
    apart, each of which has a button. Raises ValueError for a run that is far too long.
    """
    seconds = forward_seconds(key, n_tokens, n_read_outs)
    require_feasible(seconds, reduce)
    if seconds <= LONG_S or st.session_state.get(f"{_AGREED}_{slot}") == (key, what):
        return True
    st.info(f"This will take about {seconds:.0f} s here. {reduce} to make it quicker.")
    if st.button("Run", key=f"run_{slot}", type="primary"):
        st.session_state[f"{_AGREED}_{slot}"] = (key, what)
        return True
    return False
