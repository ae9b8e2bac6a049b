"""A failed computation is a red box on the page; the app lives on."""

from __future__ import annotations

import logging
from types import TracebackType

import streamlit as st

MAX_SHOWN = 4000
"""Characters of an error's message that a page shows; the log has them all."""

logger = logging.getLogger(__name__)


class shown_errors:  # lower case: used as `with shown_errors(...)`, as contextlib names such classes
    """Show what is raised inside the `with` block as an error box, in the error's own words.

    `doing`: what failed, in words. `memory_advice`: what to do on the page where memory is short. The traceback goes
    to the log. What follows the block runs.
    """

    def __init__(self, doing: str, memory_advice: str = "") -> None:
        self.doing, self.memory_advice = doing, memory_advice

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        # Streamlit stops and reruns pages by exceptions that are no Exception: they pass.
        if not isinstance(error, Exception):
            return False
        logger.error("%s failed", self.doing, exc_info=error)
        st.error(f"{self.doing} failed.")
        # st.code shows text as it is: an error may quote a file name or a prompt.
        st.code((str(error) or type(error).__name__)[:MAX_SHOWN], language=None, wrap_lines=True)
        if isinstance(error, MemoryError) and self.memory_advice:
            st.info(self.memory_advice)
        return True
