"""A byte-level BPE tokenizer of our own: small, lossless, the same after every training on the same text.

Text is first cut into words: letters, a single digit, punctuation (each with one space before it at most) or
white space. The space before a word belongs to the word's token, so the answer to a prompt that ends in
"Answer:" is " bathroom" and its tokens do not depend on the prompt. Digits stand alone, as numbers have no
words. All 256 bytes are tokens, so decode(encode(text)) == text for every text.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from diffmamba_interp.files.json_files import read_json_object
from diffmamba_interp.text.documents import Bos, DataError
from diffmamba_interp.text.stable_random import StableRandom

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
SPECIAL_TOKENS = (END_OF_TEXT, PAD)
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)

TOKENIZER_FILES = ("tokenizer*.json", "vocab.*", "*.model", "tokenizer.model*", "tekken.json")
"""What a folder that has a tokenizer of its own holds at least one of."""

GPT_NEOX = "EleutherAI/gpt-neox-20b"
GPT_NEOX_SIZES = range(50254, 50305)
"""Vocabularies that configs give for it: its 50,254 tokens, its 50,277 with the added ones, and paddings of them."""

logger = logging.getLogger(__name__)

_WORD = r"'(?:s|t|re|ve|m|ll|d)\b| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def text_of_token(token: int, tokenizer: Tokenizer) -> str:
    """The text of one token; of one that ends inside a character, its bytes, as in `\\xe2\\x80`."""
    text = tokenizer.decode([token], skip_special_tokens=False)
    if "\ufffd" not in text:
        return text
    letters = tokenizer.id_to_token(token) or text
    if not all(letter in _BYTES for letter in letters):
        return letters
    return bytes(_BYTES[letter] for letter in letters).decode("utf-8", errors="backslashreplace")


# Byte-level BPE writes each byte as a letter: itself where it can be seen in Latin-1, the others from U+0100 on.
_SEEN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_UNSEEN = [byte for byte in range(256) if byte not in _SEEN]
_BYTES = {chr(byte): byte for byte in _SEEN} | {chr(0x100 + place): byte for place, byte in enumerate(_UNSEEN)}


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int = 4096,
    seed: int = 0,
    *,
    max_bytes: int | None = None,
) -> PreTrainedTokenizerFast:
    """A tokenizer with `vocab_size` tokens: end-of-text (id 0), pad (id 1), 256 bytes and merges.

    texts: documents; their order does not matter when all are read.
    max_bytes: stop after about so many bytes of UTF-8, documents taken in an order drawn by `seed` (which
        changes nothing otherwise); `None` reads all.
    Raises ValueError if `vocab_size` leaves no room for merges; DataError if the text holds too few
    different words to reach it.
    """
    if vocab_size <= MIN_VOCAB_SIZE:
        raise ValueError(
            f"vocab_size is {vocab_size}: it must be greater than {MIN_VOCAB_SIZE} (256 bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens)."
        )
    if max_bytes is not None:
        texts = _sample(list(texts), max_bytes, seed)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer=trainer)
    if backend.get_vocab_size() < vocab_size:
        raise DataError(
            f"the text gave only {backend.get_vocab_size()} tokens of the {vocab_size} asked for: give more "
            "text or a smaller vocab_size."
        )
    return wrap_tokenizer(backend)


def wrap_tokenizer(backend: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer of the `tokenizers` library with our special tokens, as a transformers one."""
    return _of_transformers(backend, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, pad_token=PAD)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into `folder`; an existing pair is replaced."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        names = tokenizer.save_pretrained(temporary)
        # Again without blanks, which are more than half of it.
        tokenizer.backend_tokenizer.save(str(Path(temporary) / "tokenizer.json"), pretty=False)
        for name in names:
            Path(name).replace(folder / Path(name).name)


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder, a `tokenizer.json` file, or a hub id; code of a tokenizer's own is never run.

    A folder of a state-spaces model, which come without, gets the one that they were trained with, GPT-NeoX's, from the
    hub or its cache. Raises OSError if there is nothing at `source`; DataError if it cannot be read, needs code of its
    own, is no fast tokenizer or has no end-of-text token.
    """
    path = Path(source).expanduser()
    if path.is_file():
        tokenizer = _from_file(path)
    elif path.is_dir() and not any(next(path.glob(pattern), None) for pattern in TOKENIZER_FILES):
        tokenizer = _of_state_spaces(path)
    else:
        tokenizer = _from_transformers(str(path if path.is_dir() else source))
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise DataError(f"the tokenizer of {source} must be a fast one with an end-of-text token.")
    return tokenizer


def bos_tokens(tokenizer: PreTrainedTokenizerBase | Tokenizer, bos: Bos = "auto") -> tuple[int, ...]:
    """The ids that stand before a text: those of a beginning-of-text token (BOS), or none.

    bos: "auto" is the tokenizer's own habit, what its template puts before a text (`<s>` for Llama's and Mistral's,
        nothing for GPT-2's and GPT-NeoX's); "always" is that, or else its `bos_token`; "never" is nothing.
    Raises ValueError for another word, DataError for "always" where the tokenizer knows no such token.
    """
    if bos not in get_args(Bos):
        raise ValueError(f"bos is {bos!r}: it must be one of {', '.join(get_args(Bos))}.")
    if bos == "never":
        return ()
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    encoded = backend.encode("a")
    columns = zip(encoded.ids, encoded.special_tokens_mask, encoded.attention_mask, strict=True)
    # Padding on the left is special, too, but not attended to.
    tokens = [(token, special) for token, special, attended in columns if attended]
    before = tuple(token for token, _ in itertools.takewhile(lambda pair: pair[1], tokens))
    if before or bos == "auto":
        return before
    token = getattr(tokenizer, "bos_token_id", None)
    if token is None:
        raise DataError("bos is 'always', but the tokenizer has no beginning-of-text token (bos_token).")
    return (int(token),)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Sha256 of everything that decides how text becomes tokens: 64 hexadecimal digits.

    Padding and truncation, which callers switch on and off, are left out.
    """
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    description.pop("padding", None)
    description.pop("truncation", None)
    canonical = json.dumps(description, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def _from_file(path: Path) -> PreTrainedTokenizerBase:
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{path} is no tokenizer.json of the tokenizers library ({_first_line(error)}).") from error
    if backend.token_to_id(END_OF_TEXT) is None:
        raise DataError(f"{path} has no token {END_OF_TEXT}, which separates documents.")
    return _of_transformers(backend, eos_token=END_OF_TEXT)


def _of_transformers(backend: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    """The tokenizer in a class of transformers, half a second of importing that few who read text here need."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)


def _from_transformers(name: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except OSError:
        if name.startswith("state-spaces/"):
            return _of_state_spaces(name)
        raise
    except Exception as error:  # a damaged file, or code of its own, can make the reader fail in any way
        if "trust_remote_code" in str(error):
            raise DataError(
                f"the tokenizer of {name} asks for code of its own (auto_map in tokenizer_config.json), which is never "
                "run here: give another tokenizer, or its tokenizer.json if it has one."
            ) from error
        raise DataError(f"the tokenizer of {name} cannot be read ({_first_line(error)}).") from error


def _of_state_spaces(source: str | Path) -> PreTrainedTokenizerBase:
    """GPT-NeoX's tokenizer for a state-spaces model. Raises DataError for other models and where it is not at hand."""
    if isinstance(source, Path) and not _is_state_spaces(source):
        raise DataError(f"{source} holds no tokenizer: give a folder or a hub id that has one.")
    logger.info("%s holds no tokenizer: taking %s, with which state-spaces models were trained", source, GPT_NEOX)
    try:
        return _from_transformers(GPT_NEOX)
    except (OSError, DataError) as error:
        raise DataError(
            f"{source} holds no tokenizer; it was trained with {GPT_NEOX}, which could not be fetched "
            f"({_first_line(error)}). Fetch it once where there is a network (hf download {GPT_NEOX} tokenizer.json "
            "tokenizer_config.json), or give its folder or tokenizer.json."
        ) from error


def boundary_tokens(tokenizer: PreTrainedTokenizerBase | Tokenizer) -> tuple[int, ...]:
    """Tokens at which a piece of text begins or ends: beginning of text, and whatever is a full stop or a line break.

    White space around these does not matter; a token that holds anything else, as "</" behind a stop, is none.
    """
    beginning = getattr(tokenizer, "bos_token_id", None)
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    every = [[token] for token in range(backend.get_vocab_size())]
    return tuple(
        token
        for token, text in enumerate(backend.decode_batch(every, skip_special_tokens=False))
        if token == beginning or text.strip() == "." or (not text.strip() and ("\n" in text or "\r" in text))
    )


def _is_state_spaces(folder: Path) -> bool:
    try:
        raw = read_json_object(folder / "config.json")
    except (OSError, ValueError):
        return False
    n_tokens = raw.get("vocab_size")
    return "d_model" in raw and "n_layer" in raw and isinstance(n_tokens, int) and n_tokens in GPT_NEOX_SIZES


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _sample(texts: list[str], max_bytes: int, seed: int) -> Iterator[str]:
    total = 0
    for text in StableRandom("tokenizer", seed).shuffled(texts):
        if total >= max_bytes:
            return
        total += len(text.encode("utf-8", "replace"))
        yield text
