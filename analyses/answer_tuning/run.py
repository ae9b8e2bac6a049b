"""Fig. 5 as the paper ran it: the pair is fine-tuned on answers alone, each model gets a lens, SNR is read per block.

    python analyses/answer_tuning/run.py --recipe builtin      generated stories and text, a few steps on a CPU
    python analyses/answer_tuning/run.py --recipe paper        bAbI and The Pile, from --data: a GPU

`--prepare-to`, `--material`, `--records-only` and `--from-records` share the work out among machines, as everywhere.
Writes records.parquet, results.json and figures into a folder named after the recipe, then README.md.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyses.answer_tuning import report
from diffmamba_interp.analysis.page import RECORDS
from diffmamba_interp.analysis.question import RECORDS_TABLE, Asked, Options, Parts, Question, Unit, joined
from diffmamba_interp.analysis.results import data_sha256, write_records
from diffmamba_interp.files.archives import arrays_from_bytes, arrays_to_bytes
from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.files.json_files import json_text
from diffmamba_interp.lens import LensRecipe, LensTraining, LogitLens, TunedLens
from diffmamba_interp.lm_training.loop import Trainer
from diffmamba_interp.lm_training.preparation import make_mixture
from diffmamba_interp.lm_training.recipe import (
    DataRecipe,
    ModelRecipe,
    OptimiserRecipe,
    RetrievalPart,
)
from diffmamba_interp.lm_training.recipe import Recipe as LanguageModelRecipe
from diffmamba_interp.models.demo import DEMO_FOLDER, DEMO_NAMES, demo_folder, load_demo_tokenizer
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.needle import TASKS, NeedleSample, generate_stories, needle_trajectory
from diffmamba_interp.needle.babi import heldout_babi_stories
from diffmamba_interp.needle.haystack import Haystack
from diffmamba_interp.needle.records import load_samples, save_samples
from diffmamba_interp.runs.process_group import ProcessGroup
from diffmamba_interp.text import Document, TextSource, documents_of_split, encode_texts
from diffmamba_interp.text.batches import TokenBatches
from diffmamba_interp.text.generated_text import generated_documents
from diffmamba_interp.text.sources import GENERATED
from diffmamba_interp.text.stable_random import StableRandom

STAGES = "stages"
BABI_ARCHIVE = "babi_tasks_v1-2.tar.gz"
REMEDY = "Prepare it again."
_GENERATED_CHARACTERS = 120_000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Fine-tuning, lens and prompts; recipe.toml says what the fields mean."""

    text: str
    seeds: tuple[int, ...]
    seed: int
    steps: int
    warmup: int
    batch_size: int
    length: int
    lr: float
    lens_steps: int
    lens_tokens: int
    lens_length: int
    lens_lr_scale: float
    n_prompts: int


def units(asked: Asked, models: Sequence[str]) -> Sequence[Unit]:
    return [(name, seed) for seed in asked.recipe.seeds for name in models]


def measure(asked: Asked, name: str, seed: int) -> dict[str, dict[str, Any]]:
    """A line per prompt: whether the answer is on top, and SNR through the tuned lens, over the inner stages and at the
    output, there before fine-tuning too. Beside it a line per lens: SNR at every stage, the mean over prompts."""
    held = read_material(asked)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "prompts.xz").write_bytes(held["prompts"].tobytes())
        samples, _ = load_samples(folder / "prompts.xz", load_demo_tokenizer())
        babi = folder / "babi.tar" if len(held["babi"]) else None
        if babi is not None:
            babi.write_bytes(held["babi"].tobytes())
        model = asked.load(name)
        before = needle_trajectory(model, LogitLens.from_model(model), samples).snr_db[0, :, -1]
        model = fine_tuned(asked.recipe, name, seed, babi, folder / "run", model, device=asked.options.device)
        lens = trained_lens(asked.recipe, model, held["tokens"], seed)
        read = needle_trajectory(model, {"tuned": lens, "logit": LogitLens.from_model(model)}, samples)
    snr = dict(zip(read.lenses, read.snr_db, strict=True))
    prompts = {
        "model": [name] * len(samples),
        "seed": [seed] * len(samples),
        "task": [sample.task for sample in samples],
        "story": [sample.story_key for sample in samples],
        "is_right": (read.measure("label_rank")[0, :, -1] == 1).astype(int),
        "snr_db_before": before,
        "snr_db_inner": snr["tuned"][:, 1:-1].mean(axis=1),
        "snr_db_output": snr["tuned"][:, -1],
    }
    means = np.stack([of_lens.mean(axis=0) for of_lens in snr.values()])
    stages = {"model": [name] * len(snr), "seed": [seed] * len(snr), "lens": list(snr)}
    return {RECORDS_TABLE: prompts, STAGES: stages | {f"snr_db_{k}": column for k, column in enumerate(means.T)}}


def fine_tuned(
    recipe: Recipe, name: str, seed: int, babi: Path | None, folder: Path, model: HookedMamba, *, device: str
) -> HookedMamba:
    """The model after the steps of A.3.2, its loss on the answers of stories without filler."""
    run = LanguageModelRecipe(
        model=ModelRecipe(init_from=str(demo_folder(name))),  # type: ignore[arg-type]
        data=DataRecipe(
            tokenizer=str(DEMO_FOLDER / "tokenizer"),
            length=recipe.length,
            retrieval=RetrievalPart(
                weight=1.0,
                babi_words=0.0 if babi else 1.0,
                own_words=0.0,
                real=1.0 if babi else 0.0,
                babi_path=str(babi) if babi else None,
            ),
        ),
        optimiser=OptimiserRecipe(lr=recipe.lr, betas=(0.9, 0.999), weight_decay=0.1, warmup=recipe.warmup, floor=0.0),
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        loss="answer",
        seed=seed,
        log_every=max(recipe.steps // 10, 1),
        snapshot_every=recipe.steps,
    )
    mixture = make_mixture(run, load_demo_tokenizer())
    group = ProcessGroup(device=torch.device(device))
    trainer = Trainer(run, model.requires_grad_(True), mixture, folder, group=group)
    trainer.run()
    return trainer.model.eval().requires_grad_(False)


def trained_lens(recipe: Recipe, model: HookedMamba, tokens: np.ndarray, seed: int) -> TunedLens:
    """A tuned lens of the model, by the schedule of the recipe."""
    how = LensRecipe(
        steps=recipe.lens_steps,
        tokens_per_step=recipe.lens_tokens,
        sequence_length=recipe.lens_length,
        lr_scale=recipe.lens_lr_scale,
        seed=seed,
    )
    batches = TokenBatches(tokens, length=recipe.lens_length, batch_size=how.sequences_per_step, seed=seed)
    training = LensTraining(model, TunedLens.from_model(model), batches, how)
    for _ in training.run():
        pass
    return training.lens


def prepare(recipe: Recipe, options: Options, path: Path) -> None:
    """Tokens of the lens' text, the prompts, bAbI's files and the sums of the data in a file."""
    tokenizer, archive = load_demo_tokenizer(), options.data / BABI_ARCHIVE
    is_generated = recipe.text == GENERATED
    if is_generated:
        documents = [
            Document(text, "") for text in generated_documents(n_chars=_GENERATED_CHARACTERS, seed=recipe.seed)
        ]
        sums: dict[str, str] = {}
    else:
        folder = options.data / recipe.text
        documents = list(documents_of_split(TextSource(location=str(folder)).documents(), "lens_train"))
        sums = data_sha256({recipe.text: folder, "babi": archive})
    ids = [[*one, tokenizer.eos_token_id] for one in encode_texts(tokenizer, [one.text for one in documents])]
    with tempfile.TemporaryDirectory() as temporary:
        prompts = Path(temporary) / "prompts.xz"
        save_samples(prompts, prompts_of(recipe, tokenizer, None if is_generated else archive))
        arrays = {
            "tokens": np.concatenate(ids).astype(np.uint16),
            "prompts": np.frombuffer(prompts.read_bytes(), np.uint8),
            "babi": np.frombuffer(b"" if is_generated else babi_files(archive), np.uint8),
            "recipe": np.array(json_text(asdict(recipe))),
            "sums": np.array(json_text(sums)),
        }
    write_bytes(path, arrays_to_bytes(arrays))


def read_material(asked: Asked) -> dict[str, np.ndarray]:
    """What `prepare` wrote. Raises ValueError for another recipe's."""
    path = asked.material
    assert path is not None
    held = arrays_from_bytes(path.read_bytes(), source=path, remedy=REMEDY, kind="material of this question")
    if held["recipe"].item() != json_text(asdict(asked.recipe)):
        raise ValueError(f"{path} was made for {held['recipe']}, not for {asked.recipe}: prepare it again.")
    return held


def prompts_of(recipe: Recipe, tokenizer: Any, babi: Path | None) -> list[NeedleSample]:
    """Held-out stories, each different, without filler."""
    haystack, samples = Haystack(tokenizer, None, bos="never"), []
    for task in TASKS:
        if babi is None:
            stories = generate_stories(task, n=recipe.n_prompts, split="eval", seed=recipe.seed)
        else:
            stories = StableRandom("answer tuning", recipe.seed, task).shuffled(heldout_babi_stories(babi, task))
        different = list({(story.facts, story.question): story for story in stories}.values())
        samples += [haystack.hide(story, length=0) for story in different[: recipe.n_prompts]]
    return samples


def babi_files(archive: Path) -> bytes:
    """The English files of the five tasks, as a tar."""
    packed = io.BytesIO()
    with tarfile.open(archive) as source, tarfile.open(fileobj=packed, mode="w") as target:
        for member in source:
            *_, folder, name = ("", *member.name.split("/"))
            if folder.startswith("en") and name.startswith(tuple(f"{task}_" for task in TASKS)):
                target.addfile(member, source.extractfile(member))
    return packed.getvalue()


def sums_of(asked: Asked) -> Mapping[str, str]:
    return json.loads(read_material(asked)["sums"].item())


def keep(folder: Path, recipe: Recipe, parts: Parts) -> None:
    """SNR of prompts to a tenth of a dB, the lines of a prompt neighbours; the means by stage beside them."""
    write_records(folder / RECORDS, joined(parts, order=("task", "story", "model", "seed")), decimals=1)
    write_records(
        folder / report.STAGE_RECORDS, joined(parts, table=STAGES, order=("lens", "model", "seed")), decimals=2
    )


QUESTION = Question(
    recipe=Recipe,
    models=DEMO_NAMES,
    units=units,
    prepare=prepare,
    sums=sums_of,
    measure=measure,
    keep=keep,
    page=report.PAGE,
)


if __name__ == "__main__":
    sys.exit(QUESTION.main())
