"""What every test shares: fixed seeds, one thread, no network, and where the fixtures are.

The package is imported nowhere here: jaxtyping's import hook instruments only what is imported after it.
"""

import gc
import os
import random
from importlib.util import find_spec
from pathlib import Path

# Read once, when huggingface_hub is imported: a test that would download fails at once.
os.environ["HF_HUB_OFFLINE"] = "1"
# Fast tokenizers warn when a process that has used them forks.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch

from tests.published import unpack, write_converted

# `make lowest` goes without the type hook.
if find_spec("beartype"):
    from tests import type_checks

    type_checks.install()

# Read once, when Triton is imported: without a GPU its kernels run in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The first run on a GPU compiles every kernel, which a slow host takes minutes for.
    mark = pytest.mark.timeout(600)
    if not torch.cuda.is_available():
        mark = pytest.mark.skip(reason="needs a CUDA device, and torch sees none")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(mark)


def pytest_collection_finish() -> None:
    # Libraries and tests are here to stay: looking through them for garbage took a twentieth of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The folder that holds pyproject.toml."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def fixtures_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tests/fixtures`, unpacked: small checkpoints, with what their published implementation computes for them."""
    source, folder = Path(__file__).resolve().parent / "fixtures", tmp_path_factory.mktemp("fixtures")
    for name in ("published_conversion", "published_diffmamba2/all", "published_diffmamba2/alternate"):
        unpack(source / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def published_models(tmp_path_factory: pytest.TempPathFactory, fixtures_dir: Path) -> Path:
    """Published checkpoints by placement: alternate, all, and quarter, which is the published conversion's."""
    folder = tmp_path_factory.mktemp("published")
    for name in ("alternate", "all"):
        (folder / name).symlink_to(fixtures_dir / "published_diffmamba2" / name, target_is_directory=True)
    write_converted(fixtures_dir / "published_conversion", folder / "quarter")
    return folder
