import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from diffmamba_interp.needle.filler import Filler
from diffmamba_interp.needle.stories import Story
from diffmamba_interp.needle.tasks import generate_stories
from diffmamba_interp.text.generated_text import generated_documents
from diffmamba_interp.text.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Generated prose, with some things that make tokenizers stumble."""
    odd = 'He paid 3.50 dollars (or 12?) to "Anne." Well... "No!" she cried; naïve cafés — done.\n\n'
    return [odd * 20, *generated_documents(n_chars=60_000)]


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    """Byte-level, splits at spaces; a label has several tokens."""
    return train_tokenizer(texts, 400)


@pytest.fixture(scope="session")
def unsplit_tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    """Merges tokens across spaces, so no prompt may be spliced."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    backend.decoder = decoders.Fuse()
    sentences = [sentence for text in texts[:3] for sentence in text.split(". ")][:60]
    stories = [fact for story in generate_stories("qa1", n=20) for fact in story.facts]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=[chr(code) for code in range(32, 127)],
        show_progress=False,
    )
    backend.train_from_iterator([*sentences, *stories], trainer=trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)


@pytest.fixture(scope="session")
def filler(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Filler:
    return Filler.from_texts(tokenizer, texts)


@pytest.fixture
def story() -> Story:
    return Story(
        task="qa1",
        facts=("Mary moved to the bathroom.", "John went to the office.", "Mary went back to the garden."),
        question="Where is Mary?",
        answer="garden",
        labels=("bathroom", "bedroom", "garden", "hallway", "kitchen", "office"),
        supporting=(2,),
        source="test",
    )


@pytest.fixture
def babi_archive(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Writes files (name -> text) into an archive such as the published one."""

    def write(files: dict[str, str]) -> Path:
        path = tmp_path / "babi.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, text in files.items():
                content = text.encode()
                member = tarfile.TarInfo(f"babi/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path

    return write


@pytest.fixture(scope="session")
def babi_text() -> Callable[[list[Story]], str]:
    """Stories in the format of a bAbI file, one question each."""

    def write(stories: list[Story]) -> str:
        lines = []
        for story in stories:
            lines += [f"{number} {fact}" for number, fact in enumerate(story.facts, start=1)]
            references = " ".join(str(index + 1) for index in story.supporting)
            lines.append(f"{len(story.facts) + 1} {story.question} \t{story.answer}\t{references}")
        return "\n".join(lines) + "\n"

    return write
