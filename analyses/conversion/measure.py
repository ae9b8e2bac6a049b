"""What is measured of every model: answers to held-out bAbI prompts, bits per byte of held-out text, lambda."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from diffmamba_interp.lm_training.evaluation import bits_per_byte
from diffmamba_interp.lm_training.preparation import open_stream
from diffmamba_interp.lm_training.recipe import Recipe
from diffmamba_interp.models.differential_mixer import DifferentialMixer
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.needle import TASKS, Filler, Haystack, NeedleSample, heldout_babi_stories
from diffmamba_interp.needle.accuracy_grid import PromptRow, hide_stories, prompt_rows
from diffmamba_interp.needle.scoring import score_labels
from diffmamba_interp.text.stable_random import StableRandom

NAMES = ("plain", "published", "by_component")
BEFORE, AFTER = "before", "after"
SEED = 13
N_GENERATED = 3
FILLER_TOKENS = 200_000
BATCH_TOKENS = {"cpu": 8_192, "cuda": 131_072}
TEXT_BATCH_TOKENS = {"cpu": 8_192, "cuda": 65_536}


def model_name(name: str, stage: str) -> str:
    """What records call a model: such as "published before"."""
    return f"{name} {stage}"


def prompts(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, n: int) -> list[list[NeedleSample]]:
    """Held-out bAbI stories, bare and in held-out novels: a list per task and length of the recipe's evaluation."""
    evaluation = recipe.evaluation
    assert evaluation is not None
    assert evaluation.filler is not None
    assert evaluation.babi_path is not None
    tokens = open_stream(evaluation.filler, tokenizer).tokens[:FILLER_TOKENS]
    novels = tokenizer.backend_tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
    haystack = Haystack(tokenizer, Filler.from_texts(tokenizer, novels))
    cells = []
    for task in TASKS:
        stories = StableRandom("conversion", SEED, task).shuffled(heldout_babi_stories(evaluation.babi_path, task))
        for length in evaluation.lengths:
            cells.append(hide_stories(haystack, stories, n=n, length=length, seed=SEED))
    return cells


def answers(
    model: HookedMamba, name: str, cells: list[list[NeedleSample]], tokenizer: PreTrainedTokenizerBase
) -> list[PromptRow]:
    """The model's row of every prompt."""
    batch_tokens = BATCH_TOKENS[model.embed.weight.device.type]
    rows = []
    for samples in cells:
        scores = score_labels(model, samples, batch_tokens=batch_tokens, n_generated=N_GENERATED)
        rows += prompt_rows(name, samples, scores, tokenizer, keep_log_probs=False)
    return rows


def about(
    model: HookedMamba, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, text_tokens: int | None
) -> dict[str, Any]:
    """n_parameters; lambda of each differential block, by its index; bits_per_byte of each held-out text."""
    assert recipe.evaluation is not None
    sizes = {
        "length": recipe.data.length,
        "max_tokens": text_tokens,
        "batch_tokens": TEXT_BATCH_TOKENS[model.embed.weight.device.type],
    }
    mixers = [(index, block.mixer) for index, block in enumerate(model.blocks)]
    texts = {Path(path).stem: open_stream(path, tokenizer) for path in recipe.evaluation.text}
    return {
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "lambda": {str(i): mixer.lambda_().item() for i, mixer in mixers if isinstance(mixer, DifferentialMixer)},
        "bits_per_byte": {name: bits_per_byte(model, stream, **sizes) for name, stream in texts.items()},
    }
