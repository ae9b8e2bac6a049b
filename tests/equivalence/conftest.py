import logging
from collections.abc import Iterator

import pytest
from transformers.utils import logging as transformers_logging


@pytest.fixture(autouse=True, scope="session")
def _quiet_transformers() -> Iterator[None]:
    """It says at every first call that the GPU kernels are missing, and shows a bar for every file."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    yield
    transformers_logging.set_verbosity(level)
    transformers_logging.enable_progress_bar()
