"""The misuse table: public functions called with every wrong kind of every argument, in a process of its own.

`python tests/misuse.py` prints a JSON list of what went wrong: a call that raised something else than it may, or that
was accepted though `RIGHT` and `RIGHT_IN` do not say so. It runs outside of pytest, whose type hook would refuse most
calls in words that users never see.
"""

from __future__ import annotations

import json
import math
import re
import resource
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import diffmamba_interp as package
from diffmamba_interp import implicit_attention, interchange, interventions, lens, needle
from diffmamba_interp.config import DifferentialConfig, HookedMambaConfig
from diffmamba_interp.models.demo import load_demo_tokenizer

Call = Callable[..., Any]

SECONDS_PER_CALL = 5
"""Of the processor, so that a busy machine makes no faults."""
MAX_BYTES = 6 * 2**30
ALLOWED = (ValueError, TypeError, implicit_attention.MemoryLimitError)

WRONG: dict[str, Any] = {
    "none": None,
    "text": "no such thing",
    "fraction": 1.5,
    "nan": math.nan,
    "negative": -7,
    "huge": 10**12,
    "truth": True,
    "empty": [],
    "texts": ["x", "y"],
    "fractions": [0.5, 1.5],
    "mapping": {"x": 1},
    "object": object(),
    "class": dict,
    "function": lambda *_: None,
    "floats": torch.full((2, 3), 0.5),
    "scalar": torch.tensor(0.25),
    "complex": torch.ones(2, 3, dtype=torch.complex64),
    "array": np.full((2, 3), 0.5),
}


HALF = DifferentialConfig(placement=(1,))
"""Block 0 plain, block 1 differential."""


def small_model(differential: DifferentialConfig | None = HALF) -> package.HookedMamba:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_layers": 2, "d_vocab": 4096, "d_state": 4, "d_head": 8}
    return package.HookedMamba(HookedMambaConfig(**sizes, differential=differential)).eval()


def table(folder: Path) -> dict[str, tuple[Call, dict[str, Any]]]:
    """Every public function with arguments that it takes; constructors are used for what they are made for."""
    model, tokenizer = small_model(), load_demo_tokenizer()
    tokens = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])
    of_block, plain = (implicit_attention.capture_block(model, tokens, block) for block in (1, 0))
    branch = plain.branches[0]
    tuned, logit = lens.TunedLens.from_model(model), lens.LogitLens.from_model(model)
    lens.save_lens(tuned, folder / "lens")
    jacobian = lens.fit_jacobian_lens(model, tokens, skip_first=1)
    record = package.extract_attention(model, tokens, 0, reduce="mean")
    spans = implicit_attention.Spans(needle=((0, 2),), filler=((2, 4),))
    stories = needle.generate_stories("qa1", n=2)
    samples = needle.make_needle_samples(tokenizer, n=2, length=0)
    trajectory = needle.needle_trajectory(model, logit, samples)
    needle.save_trajectory(trajectory, folder / "trajectory.json")
    probes = needle.probe_answers(model, needle.make_needle_samples(tokenizer, n=12, length=0), n_folds=3)
    reading = interventions.AnswerReading(tokens=tokens, answers=[3, 4])
    weights = torch.rand(2, 5)
    visible = torch.ones(2, 5, dtype=torch.bool)
    document = lens.HeldOutDocument(tokens=tokens[0], n_bytes=20)
    attention = {"dt": branch.dt, "A": None, "B": branch.B, "C": branch.C, "log_decay": branch.log_decay}
    sizes = {(0, None): np.array([1.0, 2.0, 3.0, 4.0])}
    heads = (torch.randn(*tokens.shape, 2, 4), torch.randn(*tokens.shape, 2, 4))
    _, cache = model.run_with_cache(tokens)
    interchange.save_activations(cache, folder / "run.safetensors")
    grid = interventions.patch_grid(model, tokens, tokens + 1, answers=[3, 4], blocks=0, positions=[1])

    def acting(make: Call) -> Call:
        return lambda **options: model.run_with_hooks(tokens, make(**options).hooks(model))

    return {
        "HookedMamba": (package.HookedMamba, {"cfg": model.cfg}),
        "model": (
            model.__call__,
            {"tokens": tokens, "lengths": None, "attention_mask": None, "stop_at_block": None},
        ),
        "forward_with_state": (
            model.forward_with_state,
            {"tokens": tokens, "state": None, "lengths": None, "attention_mask": None, "last_only": False},
        ),
        "run_with_cache": (
            model.run_with_cache,
            {
                "tokens": tokens,
                "names_filter": None,
                "stop_at_block": None,
                "lengths": None,
                "attention_mask": None,
            },
        ),
        "run_with_hooks": (
            model.run_with_hooks,
            {"tokens": tokens, "fwd_hooks": (), "stop_at_block": None, "lengths": None, "attention_mask": None},
        ),
        "hooks": (model.hooks, {"fwd_hooks": [], "all_threads": False}),
        "generate": (
            model.generate,
            {
                "tokens": tokens,
                "max_new_tokens": 2,
                "temperature": 0.0,
                "top_k": None,
                "stop_token": None,
                "lengths": None,
                "attention_mask": None,
                "generator": None,
            },
        ),
        "ActivationCache": (package.ActivationCache, {"values": dict(cache)}),
        "LogitLens.from_model": (lens.LogitLens.from_model, {"model": model}),
        "TunedLens.from_model": (lens.TunedLens.from_model, {"model": model, "model_revision": None, "name": ""}),
        "convert_to_differential": (
            package.convert_to_differential,
            {
                "model": small_model(None),
                "placement": (0, 1),
                "alignment": "published",
                "differential": None,
                "seed": 0,
            },
        ),
        "load_demo": (package.load_demo, {"name": "mamba2"}),
        "load_demo_lens": (package.load_demo_lens, {"name": "mamba2", "model": None, "kind": "tuned"}),
        "demo_lens_folder": (lens.demo_lens_folder, {"name": "mamba2", "kind": "tuned"}),
        "fit_jacobian_lens": (
            package.fit_jacobian_lens,
            {
                "model": model,
                "prompts": tokens,
                "lengths": None,
                "branches": False,
                "skip_first": 1,
                "micro_batch": 1,
                "name": "",
                "show_progress": False,
            },
        ),
        "load_lens": (
            lens.load_lens,
            {
                "path": folder / "lens",
                "model": model,
                "reads": None,
                "allow_other_unembedding": False,
                "revision": None,
            },
        ),
        "save_lens": (
            lens.save_lens,
            {"lens": jacobian, "path": folder / "saved", "extra": None, "storage": "float16"},
        ),
        "hub_card": (lens.hub_card, {"folder": folder / "lens", "base_model": "me/model"}),
        "lens_trajectory": (
            lens.lens_trajectory,
            {
                "model": model,
                "lens": tuned,
                "tokens": tokens,
                "targets": tokens,
                "positions": slice(None),
                "top_k": 3,
                "lengths": None,
                "keep_log_probs": False,
                "force": False,
            },
        ),
        "residual_stream": (
            lens.residual_stream,
            {"model": model, "tokens": tokens, "lengths": None, "dtype": None},
        ),
        "direction": (lambda token: logit.direction(token)(0), {"token": 3}),
        "measure_lens": (
            lens.measure_lens,
            {"model": model, "lens": tuned, "documents": [document], "seed": 0, "force": False},
        ),
        "HeldOutDocument": (lens.HeldOutDocument, {"tokens": tokens[0], "n_bytes": 3}),
        "stage_name": (lens.stage_name, {"index": 1}),
        "stage_names": (lens.stage_names, {"n_layers": 2}),
        "extract_attention": (
            package.extract_attention,
            {
                "model": model,
                "tokens": tokens,
                "block": 0,
                "kind": "hidden",
                "rows": None,
                "heads": None,
                "reduce": None,
                "sources": "convolved",
                "lengths": None,
                "token_strings": None,
                "grad": False,
                "impl": "auto",
                "max_bytes": 2**30,
                "cache": None,
                "force": False,
            },
        ),
        "extract_attention (contribution)": (
            package.extract_attention,
            {
                "model": model,
                "tokens": tokens,
                "block": 1,
                "kind": "contribution",
                "direction": 5,
                "per_head": False,
                "rows": [-1],
            },
        ),
        "logit_direction": (implicit_attention.logit_direction, {"model": model, "token": 3, "versus": 4}),
        "hidden_attention": (
            implicit_attention.hidden_attention,
            {**attention, "rows": None, "heads": None, "reduce": None, "impl": "auto", "max_bytes": 2**30},
        ),
        "hidden_attention_bytes": (
            implicit_attention.hidden_attention_bytes,
            {"n_batch": 1, "n_pos": 4, "n_rows": 4, "n_heads": 2, "reduce": None, "element_bytes": 4},
        ),
        "differential_attention": (
            implicit_attention.differential_attention,
            {"queries": heads, "keys": heads, "lambda_": 0.5, "tokens": tokens, "block": 0},
        ),
        "effective_attention": (
            implicit_attention.effective_attention,
            {"branch": branch, "rows": [0, -1], "channels": [0], "max_bytes": 2**30},
        ),
        "token_contributions": (
            implicit_attention.token_contributions,
            {"activations": of_block, "rows": [-1], "heads": None, "sources": "input", "max_bytes": 2**30},
        ),
        "contribution_norms": (
            implicit_attention.contribution_norms,
            {"activations": of_block, "rows": [-1], "heads": None, "sources": "convolved"},
        ),
        "contribution_along": (
            implicit_attention.contribution_along,
            {
                "activations": of_block,
                "direction": torch.ones(16),
                "rows": [-1],
                "heads": None,
                "sources": "convolved",
                "per_head": False,
                "impl": "auto",
                "max_bytes": 2**30,
            },
        ),
        "residual_attribution": (
            implicit_attention.residual_attribution,
            {
                "model": model,
                "tokens": tokens,
                "answer": 3,
                "position": -1,
                "versus": 4,
                "sources": "convolved",
                "lengths": None,
                "grad": False,
                "impl": "auto",
                "max_bytes": 2**30,
            },
        ),
        "contribution_graph": (
            implicit_attention.contribution_graph,
            {
                "model": model,
                "tokens": tokens,
                "answer": 3,
                "position": -1,
                "versus": 4,
                "lengths": None,
                "max_bytes": 2**30,
            },
        ),
        "continuations": (
            interventions.continuations,
            {
                "model": model,
                "tokens": tokens[:1],
                "variants": {"as it is": ()},
                "max_new_tokens": 1,
                "top_k": 3,
                "temperature": 0.0,
                "seed": 0,
            },
        ),
        "state_sink": (
            implicit_attention.state_sink,
            {"model": model, "tokens": tokens, "boundary": (5, 7), "lengths": None, "max_bytes": 2**30},
        ),
        "gather_and_aggregate": (
            implicit_attention.gather_and_aggregate,
            {"model": model, "tokens": tokens, "spans": spans, "lengths": None},
        ),
        "needle_share": (
            implicit_attention.needle_share,
            {"model": model, "tokens": tokens, "spans": spans, "lengths": None},
        ),
        "gather_prompts": (
            implicit_attention.gather_prompts,
            {"model": model, "prompts": samples[:1], "batch_tokens": 64, "on_progress": None},
        ),
        "head_contribution_norms": (
            implicit_attention.head_contribution_norms,
            {"branch": branch, "rows": torch.tensor([[0, 4], [1, 2]])},
        ),
        "head_rivals": (
            implicit_attention.head_rivals,
            {"model": model, "tokens": tokens, "lengths": None, "max_bytes": 2**30},
        ),
        "write_logit_shift": (
            implicit_attention.write_logit_shift,
            {
                "model": model,
                "tokens": tokens,
                "block": 0,
                "token": 3,
                "position": -1,
                "branch": None,
                "versus": 4,
                "lengths": None,
                "max_bytes": 2**30,
            },
        ),
        "capture_block": (
            implicit_attention.capture_block,
            {"model": model, "tokens": tokens, "block": 0, "lengths": None},
        ),
        "Spans": (
            implicit_attention.Spans,
            {"needle": ((0, 1),), "question": (), "distractors": (), "filler": ()},
        ),
        "summarise_spans": (implicit_attention.summarise_spans, {"record": record, "spans": spans, "row": -1}),
        "attention_snr": (
            implicit_attention.attention_snr,
            {"weights": weights, "signal": visible, "visible": visible},
        ),
        "branch_cosine": (implicit_attention.branch_cosine, {"first": weights, "second": weights}),
        "removed_share": (
            implicit_attention.removed_share,
            {"minuend": weights, "difference": weights, "masks": visible[:, None]},
        ),
        "memory_half_life": (
            implicit_attention.memory_half_life,
            {"log_decay": branch.log_decay, "lengths": None, "levels": (0.1, 0.9)},
        ),
        "rollout": (
            implicit_attention.rollout,
            {"matrices": [torch.rand(2, 5, 5).tril()], "residual_share": 0.5},
        ),
        "AblateBranch": (acting(interventions.AblateBranch), {"branch": "minuend", "blocks": None, "means": None}),
        "AblateHead": (
            acting(interventions.AblateHead),
            {"block": 1, "heads": 0, "branch": "minuend", "at": "ssm_y", "means": None},
        ),
        "AddNoise": (
            acting(interventions.AddNoise),
            {"snr_db": 3.0, "blocks": None, "seed": 0, "point": "resid_pre"},
        ),
        "KnockOut": (
            acting(interventions.KnockOut),
            {"positions": 1, "level": "write", "blocks": None, "branch": None, "heads": 0},
        ),
        "AtTokens": (
            lambda ids: model.run_with_hooks(
                tokens, interventions.KnockOut(positions=interventions.AtTokens(ids=ids)).hooks(model)
            ),
            {"ids": (5,)},
        ),
        "largest_heads": (interventions.largest_heads, {"scores": sizes, "share": 0.5}),
        "matched_heads": (
            interventions.matched_heads,
            {"chosen": [interventions.Head(0, None, 1)], "sizes": sizes, "seed": 0, "nearest": 2},
        ),
        "ablate_heads": (interventions.ablate_heads, {"heads": [interventions.Head(0, None, 1)], "means": None}),
        "knock_out_heads": (
            interventions.knock_out_heads,
            {"heads": [interventions.Head(0, None, 1)], "positions": 1},
        ),
        "Patch": (
            acting(interventions.Patch),
            {
                "name": "blocks.0.hook_resid_pre",
                "value": cache["blocks.0.hook_resid_pre"],
                "positions": None,
            },
        ),
        "ScaleLambda": (acting(interventions.ScaleLambda), {"factor": 0.5, "blocks": None}),
        "SetLambda": (acting(interventions.SetLambda), {"value": 0.5, "blocks": None}),
        "SwapBranches": (acting(interventions.SwapBranches), {"blocks": None}),
        "SwapHeads": (
            acting(interventions.SwapHeads),
            {"block": 1, "first": 0, "second": 1, "branch": "minuend"},
        ),
        "AnswerReading": (
            lambda **options: interventions.AnswerReading(**options)(model),
            {
                "tokens": tokens,
                "answers": [3, 4],
                "labels": [3, 4],
                "lenses": {"it": logit},
                "lengths": None,
                "batch_size": 1,
                "force": False,
            },
        ),
        "answer_readings": (
            interventions.answer_readings,
            {"logits": torch.rand(2, 9), "answers": torch.tensor([1, 2]), "labels": None},
        ),
        "collect_means": (interventions.collect_means, {"model": model, "prompts": [tokens], "names": None}),
        "interventions.compare": (
            interventions.compare,
            {"read": reading, "model": model, "interventions": interventions.SetLambda(value=0.0)},
        ),
        "compare_each": (
            interventions.compare_each,
            {
                "read": lambda model, samples: [1.0] * len(samples),
                "model": model,
                "samples": [1, 2],
                "interventions_for": lambda sample: interventions.SetLambda(value=0.0),
                "on_progress": None,
            },
        ),
        "describe": (interventions.describe, {"intervention": interventions.SetLambda(value=0.0)}),
        "hooks_of": (
            interventions.hooks_of,
            {"model": model, "interventions": interventions.SetLambda(value=0.0)},
        ),
        "intervene": (
            interventions.intervene,
            {"model": model, "interventions": interventions.SetLambda(value=0.0)},
        ),
        "attribution_patching": (
            interventions.attribution_patching,
            {
                "model": model,
                "clean": tokens,
                "corrupted": tokens + 1,
                "answers": [3, 4],
                "against": None,
                "point": "resid_pre",
                "blocks": 0,
                "positions": [1],
                "batch_size": 4,
                "on_progress": None,
            },
        ),
        "faithfulness": (
            interventions.faithfulness,
            {
                "model": model,
                "tokens": tokens,
                "scores": {"mine": torch.rand(2, 5)},
                "answers": [3, 4],
                "labels": None,
                "reading": "answer_logit",
                "sources": [0, 2],
                "fractions": (0.0, 0.5, 1.0),
                "level": "write",
                "blocks": 0,
                "seed": 0,
                "rows": 4,
                "on_progress": None,
            },
        ),
        "source_scores": (
            implicit_attention.source_scores,
            {"model": model, "tokens": tokens, "answer": 3, "versus": None, "blocks": 0},
        ),
        "estimate_error": (interventions.estimate_error, {"estimate": grid, "exact": grid}),
        "patch_grid": (
            interventions.patch_grid,
            {
                "model": model,
                "clean": tokens,
                "corrupted": tokens + 1,
                "answers": [3, 4],
                "against": None,
                "point": "resid_pre",
                "blocks": 0,
                "positions": [1],
                "rows": 4,
                "on_progress": None,
            },
        ),
        "positions_in": (interventions.positions_in, {"spans": [(0, 2)]}),
        "randomise_tokens": (
            interventions.randomise_tokens,
            {"tokens": np.arange(6), "spans": [(0, 3)], "share": 0.5, "d_vocab": 20, "seed": 0, "exclude": ()},
        ),
        "sweep": (
            interventions.sweep,
            {
                "read": reading,
                "model": model,
                "make": lambda dose, blocks: interventions.SetLambda(value=dose),
                "doses": [0.0],
                "groups": (None,),
                "dose": "dose",
                "on_progress": None,
            },
        ),
        "Filler.from_texts": (
            needle.Filler.from_texts,
            {"tokenizer": tokenizer, "texts": "It rained. The sun shone. They went home. " * 9},
        ),
        "Haystack.hide": (
            needle.Haystack(tokenizer).hide,
            {"story": stories[0], "length": 0, "depth": None, "seed": 0},
        ),
        "Haystack": (needle.Haystack, {"tokenizer": tokenizer, "filler": None, "bos": "auto"}),
        "swapped_needles": (
            needle.swapped_needles,
            {"tokenizer": tokenizer, "samples": samples, "seed": 0},
        ),
        "make_needle_samples": (
            needle.make_needle_samples,
            {
                "tokenizer": tokenizer,
                "task": "qa1",
                "n": 1,
                "length": 0,
                "depth": None,
                "filler": None,
                "stories": "generated",
                "babi_path": None,
                "babilong_index": None,
                "split": "eval",
                "seed": 0,
                "vocabulary": "babi",
                "n_facts": None,
                "exclude": frozenset(),
                "bos": "auto",
            },
        ),
        "generate_stories": (
            needle.generate_stories,
            {
                "task": "qa1",
                "n": 1,
                "seed": 0,
                "split": None,
                "vocabulary": "babi",
                "n_facts": None,
                "exclude": frozenset(),
            },
        ),
        "generate_story": (
            needle.generate_story,
            {"task": "qa1", "seed": 0, "index": 0, "vocabulary": "babi", "n_facts": None},
        ),
        "iterate_stories": (
            needle.iterate_stories,
            {
                "task": "qa1",
                "seed": 0,
                "split": None,
                "vocabulary": "babi",
                "n_facts": None,
                "exclude": frozenset(),
                "distinct": False,
                "start": 0,
            },
        ),
        "needle_trajectory": (
            needle.needle_trajectory,
            {
                "model": model,
                "lens": logit,
                "samples": samples[:1],
                "name": "model",
                "batch_tokens": None,
                "max_samples": 4,
                "piece_tokens": 64,
                "path": None,
                "show_progress": False,
                "force": False,
            },
        ),
        "needle.compare": (
            needle.compare,
            {
                "first": trajectory,
                "second": trajectory,
                "measures": ("snr_db",),
                "statistics": ("mean",),
                "by": ("task",),
                "test": "sign_flip",
                "clusters": None,
                "n_resamples": 20,
                "seed": 0,
            },
        ),
        "compare_over_seeds": (
            needle.compare_over_seeds,
            {"pairs": [(trajectory, trajectory)] * 2, "measures": ("snr_db",), "by": ("task",)},
        ),
        "summarise": (
            needle.summarise,
            {
                "trajectories": [trajectory],
                "measures": ("snr_db",),
                "statistics": ("mean",),
                "by": ("task",),
                "clusters": None,
                "n_resamples": 20,
                "seed": 0,
            },
        ),
        "calibrate": (
            needle.calibrate,
            {"log_probs": trajectory.log_probs, "samples": list(trajectory.samples), "n_folds": 5},
        ),
        "formation_stages": (needle.formation_stages, {"trajectory": trajectory, "criterion": "7 dB"}),
        "summarise_formation": (
            needle.summarise_formation,
            {"trajectories": [trajectory], "criteria": ("7 dB",), "by": ("task",), "n_resamples": 20, "seed": 0},
        ),
        "compare_formation": (
            needle.compare_formation,
            {
                **{"first": trajectory, "second": trajectory, "criteria": ("7 dB",), "by": ("task",)},
                **{"n_resamples": 20, "seed": 0},
            },
        ),
        "probe_answers": (
            needle.probe_answers,
            {
                **{"model": model, "samples": needle.make_needle_samples(tokenizer, n=12, length=0), "name": "model"},
                **{"n_folds": 3, "seed": 0, "batch_tokens": None, "max_samples": 8},
            },
        ),
        "summarise_probes": (needle.summarise_probes, {"records": [probes], "n_resamples": 20, "seed": 0}),
        "compare_probes": (
            needle.compare_probes,
            {"first": probes, "second": probes, "n_resamples": 20, "seed": 0},
        ),
        "formation_table": (
            needle.formation_table,
            {"formations": needle.summarise_formation([trajectory], n_resamples=20), "differences": (), "named": True},
        ),
        "answer_text": (needle.answer_text, {"label": "kitchen"}),
        "format_prompt": (needle.format_prompt, {"context": "Here.", "question": "Where?"}),
        "stories_in_training": (
            needle.stories_in_training,
            {"stories": stories, "training_hashes": frozenset()},
        ),
        "without_training_stories": (
            needle.without_training_stories,
            {"stories": stories, "training_hashes": frozenset()},
        ),
        "save_trajectory": (
            needle.save_trajectory,
            {"trajectory": trajectory, "path": folder / "again.json", "decimals": None},
        ),
        "load_trajectory": (needle.load_trajectory, {"path": folder / "trajectory.json"}),
        "save_activations": (interchange.save_activations, {"cache": cache, "path": folder / "again.safetensors"}),
        "load_activations": (
            interchange.load_activations,
            {"path": folder / "run.safetensors", "names": "transformer_lens"},
        ),
        "cache_for_saelens": (
            interchange.cache_for_saelens,
            {"model": model, "tokens": tokens, "name": "hook_embed", "folder": folder / "sae", "batch_size": 8},
        ),
    }


RIGHT: dict[str, str] = {
    "attention_mask lengths stop_at_block state revision model_revision reads targets dtype cache rows heads": "none",
    "reduce token_strings versus A channels means blocks labels names against split n_facts names_filter": "none",
    "batch_tokens path babi_path babilong_index filler depth exclude generator stop_token extra positions": "none",
    "differential decimals top_k n_bytes clusters": "none",
    "all_threads allow_other_unembedding keep_log_probs force grad per_head distinct show_progress last_only": "truth",
    "max_bytes top_k batch_size batch_tokens max_samples piece_tokens rows d_vocab n_bytes": "huge",
    "start index n_layers n max_new_tokens n_batch n_pos n_rows n_heads element_bytes": "huge",
    "temperature": "fraction huge scalar",
    "snr_db factor value": "fraction negative huge scalar",
    "share residual_share depth": "scalar",
    "doses": "fractions",
    "fwd_hooks interventions spans exclude levels needle question distractors by measures statistics": "empty",
    "criteria": "empty",
    "trajectories stories training_hashes": "empty",
    "name model_revision revision folder path babi_path babilong_index label context question dose": "text",
    "texts filler": "text texts",
    "extra values": "mapping empty",
    "on_progress": "none function class",
    "read make interventions_for point": "class",
}
"""Arguments -> kinds of `WRONG` that are right in them, wherever they occur; a class is a function like others."""

ANY_SEED = (
    *("convert_to_differential", "AddNoise", "randomise_tokens", "Haystack.hide", "make_needle_samples"),
    *("generate_stories", "generate_story", "iterate_stories", "matched_heads", "swapped_needles"),
    "faithfulness",
)

RIGHT_IN: dict[str, str] = {
    "run_with_cache.names_filter": "empty function class",
    "collect_means.names": "class",
    "needle_trajectory.lens": "class",
    "extract_attention (contribution).direction": "class",
    "extract_attention.block": "none",
    "extract_attention (contribution).block": "none",
    "convert_to_differential.placement": "empty",
    "differential_attention.lambda_": "fraction negative huge scalar",
    "differential_attention.tokens": "none",
    "differential_attention.block": "huge",
    "load_demo_lens.model": "none",
    "hub_card.base_model": "none text",
    "fit_jacobian_lens.branches": "truth",
    "fit_jacobian_lens.micro_batch": "none huge",
    "KnockOut.branch": "none",
    "faithfulness.sources": "none",
    "write_logit_shift.branch": "none",
    "knock_out_heads.positions": "huge",
    "matched_heads.nearest": "huge",
    "Spans.filler": "empty",
    "answer_readings.logits": "floats",
    "calibrate.n_folds": "huge",
    "formation_table.differences": "empty",
    "formation_table.named": "truth",
    "summarise_probes.records": "empty",
    "compare_each.samples": "texts fractions floats complex array",
    **{f"{name}.seed": "negative huge" for name in ANY_SEED},
}
"""The same, in one function alone."""


def use(result: Any) -> None:
    """Do what a caller does with a result, so that what is put off happens."""
    if isinstance(result, Iterator):
        list(islice(result, 3))
    elif isinstance(result, AbstractContextManager) and not isinstance(result, Path):
        with result:
            pass


def outcome(call: Call, arguments: Mapping[str, Any], argument: str) -> str | None:
    """What is wrong with how a call ended; None for an error that names the argument, "" for none at all."""
    try:
        signal.setitimer(signal.ITIMER_PROF, SECONDS_PER_CALL)
        try:
            use(call(**arguments))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except ALLOWED as error:
        words = re.findall(r"\w+", str(error))
        if argument in words or argument.removesuffix("s") in words or WRONG["text"] in str(error):
            return None
        return f"{type(error).__name__} without the argument's name: {str(error)[:200]}"
    except BaseException as error:  # noqa: BLE001
        return f"{type(error).__name__}: {str(error)[:200]}"
    return ""


def faults() -> list[str]:
    """One line for each call that ended as it must not."""
    right: dict[str, list[str]] = defaultdict(list)
    for names, kinds in RIGHT.items():
        for argument in names.split():
            right[argument] += kinds.split()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (call, arguments) in table(Path(folder)).items():
            valid = outcome(call, arguments, "")
            if valid:
                found.append(f"{name}: refuses what it should take: {valid}")
            for argument, kind in ((a, k) for a in arguments for k in WRONG):
                if kind in right[argument] or kind in RIGHT_IN.get(f"{name}.{argument}", "").split():
                    continue
                ended = outcome(call, {**arguments, argument: WRONG[kind]}, argument)
                if ended is not None:
                    found.append(f"{name}({argument}={kind}): {ended or 'accepted'}")
    return found


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS_PER_CALL} s")


if __name__ == "__main__":
    # What would take all memory is a fault like another, and must not take the machine with it.
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    signal.signal(signal.SIGPROF, _too_long)
    torch.set_num_threads(1)
    json.dump(faults(), sys.stdout, indent=1)
