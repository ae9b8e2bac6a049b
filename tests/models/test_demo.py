"""The demo pair loads without a network, matches in size, answers a question, and its cards are of its weights."""

import hashlib
import inspect
import time

import pytest
import torch

from diffmamba_interp import load_demo
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName, demo_folder, load_demo_tokenizer
from diffmamba_interp.models.inspection import inspect_checkpoint
from diffmamba_interp.needle.haystack import Haystack
from diffmamba_interp.needle.scoring import score_labels
from diffmamba_interp.needle.stories import Story
from diffmamba_interp.text.generated_text import generated_documents

MAX_BYTES = 8 * 2**20
STORY = Story(
    task="qa1",
    facts=("Mary moved to the bathroom.", "John went to the hallway.", "Sandra went back to the garden."),
    question="Where is John?",
    answer="hallway",
    labels=("bathroom", "bedroom", "garden", "hallway", "kitchen", "office"),
    supporting=(1,),
    source="test",
)


@pytest.mark.parametrize("name", DEMO_NAMES)
def test_a_demo_model_loads_offline_within_seconds_and_predicts_the_tokenizer_s_tokens(name: DemoName) -> None:
    start = time.perf_counter()
    model, tokenizer = load_demo(name)
    assert time.perf_counter() - start < 20
    assert model.cfg.d_vocab >= len(tokenizer)
    with torch.no_grad():
        assert model(torch.tensor([[5, 6, 7]])).isfinite().all()


def test_the_pair_is_one_plain_and_one_wholly_differential_model() -> None:
    kinds = {name: {block.kind for block in inspect_checkpoint(demo_folder(name)).blocks} for name in DEMO_NAMES}
    assert kinds == {"mamba2": {"plain"}, "diff-mamba2": {"differential"}}


def test_an_unknown_name_is_told_the_known_ones() -> None:
    # Without the type checks that tests switch on, which would refuse the name first.
    with pytest.raises(ValueError, match="no demo model 'mamba3': choose one of diff-mamba2, mamba2"):
        inspect.unwrap(demo_folder)("mamba3")
    with pytest.raises(Exception, match="mamba3"):
        load_demo("mamba3")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", DEMO_NAMES)
def test_a_demo_model_s_folder_has_at_most_8_mib(name: DemoName) -> None:
    assert sum(file.stat().st_size for file in demo_folder(name).iterdir()) <= MAX_BYTES


def test_the_parameters_of_the_pair_agree_within_one_per_cent() -> None:
    counts = {name: sum(p.numel() for p in load_demo(name)[0].parameters()) for name in DEMO_NAMES}
    assert abs(counts["diff-mamba2"] / counts["mamba2"] - 1) < 0.01
    for name, count in counts.items():
        assert inspect_checkpoint(demo_folder(name)).n_parameters == count


@pytest.mark.parametrize(
    "text", ["Mary went to the garden.", " naïve cafés — 3.50\n\n\tdef f(x):", "数学 🙂 <|pad|>", ""]
)
def test_the_tokenizer_gives_text_back_as_it_was(text: str) -> None:
    tokenizer = load_demo_tokenizer()
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_the_tokenizer_was_trained_on_prose() -> None:
    (text,) = generated_documents(n_chars=2_000)[:1]
    ids = load_demo_tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert len(text.encode()) / len(ids) > 2.5


def test_the_differential_model_finds_a_fact_in_a_short_prompt() -> None:
    model, tokenizer = load_demo("diff-mamba2")
    sample = Haystack(tokenizer).hide(STORY, length=0)
    (scores,) = score_labels(model, [sample], n_generated=1)
    assert sample.labels[scores.predicted] == "hallway"
    assert tokenizer.decode(list(scores.generated)) == " hallway"


@pytest.mark.parametrize("name", DEMO_NAMES)
def test_the_card_names_the_weights_that_are_shipped(name: DemoName) -> None:
    digest = hashlib.sha256((demo_folder(name) / "model.safetensors").read_bytes()).hexdigest()
    assert f"sha256 of weights: `{digest}`" in (demo_folder(name) / "CARD.md").read_text(encoding="utf-8")
