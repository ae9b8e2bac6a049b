"""A failed computation is a red box on the page; the app lives on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

MAX_SHOWN = 4000

logger = logging.getLogger(__name__)


@contextmanager
def shown_errors(doing: str) -> Iterator[None]:
    """Show what is raised inside the `with` block as an error box, in the error's own words.

    `doing`: what failed, in words. The traceback goes to the log. What follows the block runs.
    """
    try:
        yield
    except Exception as error:
        logger.exception("%s failed", doing)
        st.error(f"{doing} failed.")
        # st.code shows text as it is: an error may quote a file name or a prompt.
        st.code((str(error) or type(error).__name__)[:MAX_SHOWN], language=None, wrap_lines=True)
