import io
import tarfile
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.needle.stories import TASKS, Story
from diffmamba_interp.needle.tasks import generate_story
from diffmamba_interp.text import Document, save_tokenizer, train_tokenizer, write_tokens
from diffmamba_interp.text.generated_text import generated_documents

ORDINALS = ("first", "second", "third", "next", "last", "other", "old", "new")
FILLER = " ".join(f"Filler goes on for the {ordinal} time." for ordinal in ORDINALS * 60)


def short_stories(n: int, *, seed: int, vocabulary: str = "babi") -> list[Story]:
    """`n` stories of each task with few facts."""
    return [
        generate_story(task, seed=seed, index=i, vocabulary=vocabulary, n_facts=None if task == "qa4" else (2, 5))
        for task in TASKS
        for i in range(n)
    ]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """Byte-level, splits at spaces; most words of the stories are one token."""
    told = [
        f"<context>{' '.join(story.facts)}</context> Question: {story.question} Answer: {story.answer}"
        for words in ("babi", "own")
        for story in short_stories(60, seed=5, vocabulary=words)
    ]
    return train_tokenizer([*generated_documents(n_chars=20_000), *told * 3, FILLER], 640)


@pytest.fixture(scope="session")
def data(tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer, token streams (train, eval, filler) and a bAbI archive of our own."""
    folder = tmp_path_factory.mktemp("data")
    save_tokenizer(tokenizer, folder / "tokenizer")  # type: ignore[arg-type]
    for name, seed in (("train", 1), ("eval", 2)):
        texts = generated_documents(n_chars=12_000, seed=seed)
        write_tokens([Document(text, name) for text in texts], tokenizer, folder / f"{name}.npy")
    write_tokens([Document(FILLER, "filler")], tokenizer, folder / "filler.npy")
    with tarfile.open(folder / "babi.tar", "w") as archive:
        for part, seed in (("train", 1), ("test", 2)):
            for task in TASKS:
                stories = [story for story in short_stories(25, seed=seed) if story.task == task]
                content = "".join(map(babi_lines, stories)).encode()
                member = tarfile.TarInfo(f"babi/en-10k/{task}_kind_{part}.txt")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return folder


def babi_lines(story: Story) -> str:
    lines = [f"{number} {fact}" for number, fact in enumerate(story.facts, start=1)]
    references = " ".join(str(index + 1) for index in story.supporting)
    lines.append(f"{len(story.facts) + 1} {story.question} \t{story.answer}\t{references}")
    return "\n".join(lines) + "\n"
