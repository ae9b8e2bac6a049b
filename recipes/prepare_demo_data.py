"""Make runs/demo_data, which the demo recipes read, from text that you have.

    python recipes/prepare_demo_data.py --pile PILE_FOLDER --novels NOVEL_FOLDER --babi tasks_1-20_v1-2.tar.gz

PILE_FOLDER holds .jsonl(.gz) documents, NOVEL_FOLDER .txt(.gz) books, the archive is bAbI v1.2. Written: token streams
of the splits lm_train, lens_train and eval, the tokenizer, and the bAbI files of qa1 to qa5. The tokenizer is the
bundled one; `--train-tokenizer` makes it anew from the lm_train split, generated tasks and bAbI's training stories.
"""

from __future__ import annotations

import argparse
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path

from diffmamba_interp.models.demo import load_demo_tokenizer
from diffmamba_interp.needle import TASKS, answer_text, format_prompt, generate_story, read_babi_training
from diffmamba_interp.text import (
    TextSource,
    documents_of_split,
    save_tokenizer,
    train_tokenizer,
    write_tokens,
)
from diffmamba_interp.text.stable_random import StableRandom

OUT = Path("runs/demo_data")
SPLITS = ("lm_train", "lens_train", "eval")
BABI_FILES = re.compile(
    r"/(en|en-10k)/qa[1-5]_.*_(train|test)\.txt$|/(en-valid|en-valid-10k)/qa[1-5]_(train|valid)\.txt$"
)
TOKENIZER_BYTES = {"pile": 18_000_000, "novels": 9_000_000, "generated": 2_500_000, "babi": 1_000_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pile", "novels", "babi"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--train-tokenizer", action="store_true")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    documents = {
        name: list(TextSource(location=str(getattr(options, name))).documents()) for name in ("pile", "novels")
    }
    tokenizer = load_demo_tokenizer()
    if options.train_tokenizer:
        tokenizer = train_tokenizer(tokenizer_texts(documents, options.babi), 4096)
    save_tokenizer(tokenizer, OUT / "tokenizer")
    copy_babi(options.babi, OUT / "babi.tar")
    for name, texts in documents.items():
        for split in SPLITS:
            stream = write_tokens(documents_of_split(texts, split), tokenizer, OUT / f"{name}_{split}.npy")
            print(f"{name} {split}: {len(stream.ends)} documents, {len(stream.tokens):,} tokens")


def tokenizer_texts(documents: dict, babi: Path) -> Iterable[str]:
    """Texts to train the tokenizer on, by kind up to the bytes of `TOKENIZER_BYTES`."""
    pile = [document.text for document in documents_of_split(documents["pile"], "lm_train")]
    novels = [
        paragraph + "\n\n"
        for document in documents_of_split(documents["novels"], "lm_train")
        for paragraph in document.text.split("\n\n")
    ]
    generated = [
        story_text(generate_story(task, seed=11, index=index, vocabulary=words))
        for task in TASKS
        for words in ("babi", "own")
        for index in range(300 if task == "qa3" else 1000)
    ]
    real = [story_text(s) for task in TASKS for s in read_babi_training(babi, task) if s.split == "lm_train"]
    for name, texts in {"pile": pile, "novels": novels, "generated": generated, "babi": real}.items():
        yield from up_to(StableRandom("demo tokenizer", name).shuffled(texts), TOKENIZER_BYTES[name])


def story_text(story) -> str:
    return format_prompt(" ".join(story.facts), story.question) + answer_text(story.answer) + "\n"


def up_to(texts: Iterable[str], n_bytes: int) -> Iterable[str]:
    for text in texts:
        if n_bytes <= 0:
            return
        n_bytes -= len(text.encode("utf-8"))
        yield text


def copy_babi(archive: Path, out: Path) -> None:
    """The files of qa1 to qa5 alone."""
    with tarfile.open(archive) as source, tarfile.open(out, "w") as target:
        for member in source:
            if BABI_FILES.search(member.name):
                target.addfile(member, source.extractfile(member))


if __name__ == "__main__":
    main()
