import pytest
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.data.tokenizer import train_tokenizer
from diffmamba_interp.generated_text import generated_documents


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return generated_documents(n_chars=60_000)


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    return train_tokenizer(texts, 400)
