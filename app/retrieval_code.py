"""The retrieval page as Python."""

from __future__ import annotations

from collections.abc import Mapping

from app.loading import ModelKey
from app.python_code import load_model, model_imports, tokenizer_line
from app.retrieval_grid import FILLER_CHARS, SPARE_STORIES, GridRequest


def results_code(name: str) -> str:
    """What reads the shipped results, run from the project's folder."""
    return "\n".join(
        [
            "import json",
            "from pathlib import Path",
            "from diffmamba_interp.figures.retrieval import accuracy_by_length, ratio_heat_map",
            "from diffmamba_interp.needle.accuracy_grid import Cell",
            "",
            f'results = json.loads(Path("analyses/retrieval/{name}/results.json").read_text())',
            'cells = [Cell.from_dict(values) for values in results["cells"]]',
            'others = [[Cell.from_dict(values) for values in seed] for seed in results.get("seeds", [])]',
            "figure, ratio = accuracy_by_length(cells, others=others), ratio_heat_map(cells)",
            "",
        ]
    )


def grid_code(models: Mapping[str, ModelKey], request: GridRequest) -> str:
    """What scores the grid again."""
    keys = list(models.values())
    lines = [
        "import torch",
        *dict.fromkeys(line for key in keys for line in model_imports(key)),
        "from transformers import PreTrainedTokenizerFast",
        "from diffmamba_interp.figures.retrieval import accuracy_by_length, ratio_heat_map",
        "from diffmamba_interp.text.generated_text import generated_documents",
        "from diffmamba_interp.needle import Filler, Haystack, generate_stories",
        "from diffmamba_interp.needle.accuracy_grid import hide_stories, prompt_rows, summarise",
        "from diffmamba_interp.needle.scoring import score_labels",
        "",
        "models = {}",
    ]
    for name, key in models.items():
        lines += [load_model(key), f"models[{name!r}] = model"]
    lines += [
        tokenizer_line(keys[0]),
        f"filler = Filler.from_texts(tokenizer, list(generated_documents(n_chars={FILLER_CHARS})))",
        "haystack, rows = Haystack(tokenizer, filler), []",
        f"for task, length in {request.cells!r}:",
        f'    stories = generate_stories(task, n={request.n + SPARE_STORIES}, seed={request.seed}, split="eval",'
        ' vocabulary="mixed")',
        f"    samples = hide_stories(haystack, stories, n={request.n}, length=length, seed={request.seed})",
        "    for name, model in models.items():",
        "        rows += prompt_rows(name, samples, score_labels(model, samples, n_generated=3), tokenizer)",
        "cells = summarise(rows, list(models))",
        "figure = accuracy_by_length(cells)",
        *(["ratio = ratio_heat_map(cells)"] if len(keys) == 2 else []),
        "",
    ]
    return "\n".join(lines)
