"""What goes wrong is a red box on the page, in words that say what to do; the app lives on."""

from __future__ import annotations

import logging
from types import TracebackType

import streamlit as st

from diffmamba_interp.implicit_attention.selection import MemoryLimitError
from diffmamba_interp.runs.command import foreseen, is_out_of_memory

MAX_SHOWN = 4000
"""Characters of an error's message that a page shows; the log has them all."""

LESS_MEMORY = "Shorten the prompt, choose bfloat16 or a smaller model, or close other programs."
OWN_FAULT = (
    "This is a fault of the explorer. Reload the page; if it comes again, open the explorer's address without what "
    "follows the question mark, which is how the page was set. The terminal that runs the explorer shows where it "
    "happened."
)
logger = logging.getLogger(__name__)


class shown_errors:  # lower case: used as `with shown_errors(...)`, as contextlib names such classes
    """Show what is raised inside the `with` block as an error box, in the error's own words.

    `doing`: what failed, in words. `memory_advice`: what to do on the page where memory is short. The traceback goes
    to the log. What follows the block runs.
    """

    def __init__(self, doing: str, memory_advice: str = LESS_MEMORY) -> None:
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
        st.code(in_words(error)[:MAX_SHOWN], language=None, wrap_lines=True)
        if is_out_of_memory(error):
            st.info(self.memory_advice)
        elif foreseen(error) is None:
            st.info(OWN_FAULT)
        return True


def in_words(error: Exception) -> str:
    """The error's message; with its kind where it was not written for readers."""
    if isinstance(error, MemoryLimitError):
        # The page says what to do; the rest of the message is for who calls the library.
        needed, allowed = (f"{n_bytes / 2**20:,.0f} MiB" for n_bytes in (error.estimate_bytes, error.max_bytes))
        return f"{error.what} would take about {needed}; a page takes at most {allowed} at a time."
    # Where this project says that memory is short, its message says of what, and what to do.
    if isinstance(error, MemoryError) and str(error):
        return str(error)
    return foreseen(error) or f"{type(error).__name__}: {error}".removesuffix(": ")
