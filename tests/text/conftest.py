import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.text.generated_text import generated_documents
from diffmamba_interp.text.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return generated_documents(n_chars=60_000)


@pytest.fixture(scope="session")
def bos_tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    """Of the same words, with a template that begins every text as Llama's does."""
    tokenizer = train_tokenizer(texts, 400)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|pad|> $A", special_tokens=[("<|pad|>", 1)]
    )
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    return train_tokenizer(texts, 400)
