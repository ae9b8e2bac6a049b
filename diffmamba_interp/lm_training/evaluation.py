"""What is measured during a run: bits per byte of held-out text, retrieval accuracy on held-out stories.

bits per byte = sum of nll (nats) / ln 2 / bytes of the documents
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from diffmamba_interp.lm_training.loss import RoleSums, weighted_loss
from diffmamba_interp.lm_training.mixture import Role
from diffmamba_interp.lm_training.preparation import open_stream
from diffmamba_interp.lm_training.recipe import EvaluationRecipe
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.prompt_batches import batches, is_real, padded
from diffmamba_interp.needle.babi import heldout_babi_stories
from diffmamba_interp.needle.filler import Filler
from diffmamba_interp.needle.haystack import Haystack, StoryTooLongError
from diffmamba_interp.needle.records import NeedleSample
from diffmamba_interp.needle.scoring import accuracy, score_labels
from diffmamba_interp.needle.stories import Story
from diffmamba_interp.needle.tasks import generate_stories
from diffmamba_interp.text import DataError, TokenStream
from diffmamba_interp.text.stable_random import StableRandom

logger = logging.getLogger(__name__)

_FILLER_TOKENS = 200_000


@dataclass(frozen=True)
class EvaluationSet:
    """Held-out text by name, and retrieval samples by name such as "real_qa1_1024".

    stage_samples: the prompts that stages are read on (`stage_readings`).
    """

    text: dict[str, TokenStream]
    samples: dict[str, list[NeedleSample]]
    max_tokens: int
    stage_samples: list[NeedleSample] = field(default_factory=list)


def prepare_evaluation(recipe: EvaluationRecipe, tokenizer: PreTrainedTokenizerBase, *, seed: int = 0) -> EvaluationSet:
    """Read the text and hide the stories, once; `seed` decides which stories and where they are hidden."""
    text = {path: open_stream(path, tokenizer) for path in recipe.text}
    filler = None
    if recipe.filler is not None and (recipe.n or recipe.stages):
        tokens = open_stream(recipe.filler, tokenizer).tokens[:_FILLER_TOKENS]
        decoded = tokenizer.backend_tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
        filler = Filler.from_texts(tokenizer, decoded)
    # Training rows have no beginning-of-text token, either.
    haystack = Haystack(tokenizer, filler, bos="never")
    samples: dict[str, list[NeedleSample]] = {}
    for task in recipe.tasks if recipe.n else ():
        kinds = {"generated": _generated(task, recipe.n, seed)}
        if recipe.babi_path is not None:
            kinds["real"] = _real(task, recipe.babi_path, seed)
        for kind, stories in kinds.items():
            for length in recipe.lengths:
                samples[f"{kind}_{task}_{length}"] = _hide(haystack, stories, recipe.n, length)
    return EvaluationSet(
        text=text,
        samples={k: v for k, v in samples.items() if v},
        max_tokens=recipe.max_tokens,
        stage_samples=_stage_samples(recipe, haystack, seed) if recipe.stages else [],
    )


def evaluate(
    model: HookedMamba, data: EvaluationSet, *, length: int, compute_dtype: torch.dtype = torch.float32
) -> dict[str, float]:
    """Bits per byte of each text (`bits_per_byte/<name>`) and accuracy of each set of samples (`accuracy/<name>`).

    length: tokens per row of text; each row starts from an empty state.
    """
    device = model.embed.weight.device
    metrics = text_bits_per_byte(model, data, length=length, compute_dtype=compute_dtype)
    metrics = {f"bits_per_byte/{name}": value for name, value in metrics.items()}
    with (
        torch.no_grad(),
        torch.autocast(device.type, torch.bfloat16, enabled=compute_dtype == torch.bfloat16),
    ):
        for name, samples in data.samples.items():
            metrics[f"accuracy/{name}"] = accuracy(score_labels(model, samples))
    return metrics


def text_bits_per_byte(
    model: HookedMamba, data: EvaluationSet, *, length: int, compute_dtype: torch.dtype = torch.float32
) -> dict[str, float]:
    """Bits per byte of each held-out text, by name."""
    device, limit = model.embed.weight.device.type, data.max_tokens
    with torch.autocast(device, torch.bfloat16, enabled=compute_dtype == torch.bfloat16):
        return {
            name: bits_per_byte(model, stream, length=length, max_tokens=limit, compute_dtype=compute_dtype)
            for name, stream in data.text.items()
        }


@torch.no_grad()
def bits_per_byte(
    model: HookedMamba,
    stream: TokenStream,
    *,
    length: int,
    max_tokens: int | None = None,
    batch_tokens: int = 32_768,
    compute_dtype: torch.dtype = torch.float32,
) -> float:
    """Bits per UTF-8 byte of the stream, or of documents spread over it that hold about `max_tokens` (at least one).

    Rows of `length` tokens, each from an empty state. Predicting end-of-text costs bits and counts no bytes;
    the first token is not predicted.
    """
    device = model.embed.weight.device
    if max_tokens is not None:
        stream = spread_documents(stream, max_tokens)
    tokens = torch.from_numpy(stream.tokens.astype(np.int64))
    sums = RoleSums(device)
    ones = torch.ones(len(Role), device=device)
    n_rows = max(batch_tokens // length, 1)
    for start in range(0, len(tokens) - 1, n_rows * length):
        piece = tokens[start : start + n_rows * length + 1]
        n_whole = (len(piece) - 1) // length
        whole, rest = piece[: n_whole * length + 1], piece[n_whole * length :]
        for part, shape in ((whole, (n_whole, length)), (rest, (1, len(rest) - 1))):
            if len(part) > 1:
                inputs, targets = part[:-1].view(shape).to(device), part[1:].view(shape).to(device)
                roles = torch.full_like(inputs, Role.TEXT, dtype=torch.uint8)
                weighted_loss(model, inputs, targets, roles, ones, sums, scale=0.0, compute_dtype=compute_dtype)
    nats = sums.values[0, Role.TEXT].item()
    return nats / math.log(2) / int(stream.n_bytes.sum())


@torch.no_grad()
def document_bits(
    model: HookedMamba, documents: Sequence[np.ndarray], *, before: int, length: int, batch_tokens: int
) -> np.ndarray:
    """Bits of all tokens of each document, the first one predicted from the token `before`.

    Rows predict `length` tokens at most, each from an empty state and the token that stands before it.
    """
    rows, owners = [], []
    for owner, document in enumerate(documents):
        whole = np.concatenate([[before], document])
        for start in range(0, len(document), length):
            rows.append(whole[start : start + length + 1].tolist())
            owners.append(owner)
    device, nats = model.embed.weight.device, np.zeros(len(documents))
    for indices in batches([len(row) for row in rows], batch_tokens):
        chosen = [rows[index] for index in indices]
        tokens = padded(chosen)
        logits = model(tokens[:, :-1].to(device))[..., : model.cfg.d_vocab - model.cfg.d_vocab_padding]
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten().to(device), reduction="none")
        # What stands on the right of a row's end is padding: it changes nothing before it and is not counted.
        of_row = (loss.view(len(chosen), -1).cpu().double() * is_real(chosen, tokens.shape[1])[:, 1:]).sum(dim=1)
        np.add.at(nats, [owners[index] for index in indices], of_row.numpy())
    return nats / math.log(2)


def spread_documents(stream: TokenStream, max_tokens: int) -> TokenStream:
    """Every n-th document, so that about `max_tokens` tokens are left; all if they are fewer, and at least one."""
    share = min(max_tokens / max(len(stream.tokens), 1), 1.0)
    starts = np.concatenate([[0], stream.ends[:-1]])
    turns = np.floor(np.arange(1, len(stream.ends) + 1) * share) > np.floor(np.arange(len(stream.ends)) * share)
    chosen = np.flatnonzero(turns) if turns.any() else np.array([0])
    parts = [stream.tokens[starts[i] : stream.ends[i]] for i in chosen]
    return TokenStream(
        tokens=np.concatenate(parts), ends=np.cumsum([len(part) for part in parts]), n_bytes=stream.n_bytes[chosen]
    )


def _stage_samples(recipe: EvaluationRecipe, haystack: Haystack, seed: int) -> list[NeedleSample]:
    """Task by task the prompts of each length; a task has the same stories at every length where they fit."""
    stages, samples = recipe.stages, []
    assert stages is not None
    for task in stages.tasks:
        babi = recipe.babi_path
        stories = _generated(task, max(stages.n), seed) if babi is None else _real(task, babi, seed)
        # A prompt that came twice would count twice: in bare stories of qa4 some do.
        stories = list({(story.facts, story.question): story for story in stories}.values())
        for length, n in zip(stages.lengths, stages.n, strict=True):
            samples += _hide(haystack, stories, n, length)
    if not samples:
        raise DataError(f"no story of {', '.join(stages.tasks)} fits evaluation.stages.lengths: give a greater length.")
    return samples


def _generated(task: str, n: int, seed: int) -> list[Story]:
    return generate_stories(task, n=_n_to_draw(task, n), split="eval", seed=seed)


def _real(task: str, path: str, seed: int) -> list[Story]:
    return StableRandom("evaluation", seed, task).shuffled(heldout_babi_stories(path, task))


def _n_to_draw(task: str, n: int) -> int:
    # qa4 in bAbI's words has few different stories in the evaluation split; long stories do not fit every length.
    return min(n, 60) if task == "qa4" else n


def _hide(haystack: Haystack, stories: list[Story], n: int, length: int) -> list[NeedleSample]:
    """The first n stories that fit the length."""
    samples: list[NeedleSample] = []
    for story in stories:
        if len(samples) == n:
            break
        try:
            samples.append(haystack.hide(story, length=length))
        except StoryTooLongError:
            continue
    return samples
