"""Text for training and measuring: sources, splits, a tokenizer, token streams and batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffmamba_interp.lazy_names import lazy_names

if TYPE_CHECKING:
    from diffmamba_interp.text.batches import TokenBatches, pack_tokens
    from diffmamba_interp.text.documents import (
        Bos,
        DataError,
        Document,
        documents_of_split,
        documents_sha256,
        shuffle_documents,
    )
    from diffmamba_interp.text.files import read_file
    from diffmamba_interp.text.sources import TextSource
    from diffmamba_interp.text.token_stream import TokenStream, cached_tokens, encode_texts, write_tokens
    from diffmamba_interp.text.tokenizer import (
        bos_tokens,
        boundary_tokens,
        load_tokenizer,
        save_tokenizer,
        tokenizer_hash,
        train_tokenizer,
    )

__all__ = [
    "Bos",
    "DataError",
    "Document",
    "TextSource",
    "TokenBatches",
    "TokenStream",
    "bos_tokens",
    "boundary_tokens",
    "cached_tokens",
    "documents_of_split",
    "documents_sha256",
    "encode_texts",
    "load_tokenizer",
    "pack_tokens",
    "read_file",
    "save_tokenizer",
    "shuffle_documents",
    "tokenizer_hash",
    "train_tokenizer",
    "write_tokens",
]

__getattr__, __dir__ = lazy_names(__name__)
