"""Reading the answer at the last position of prompts, by the model and by lenses: what interventions act upon.

    answer_logit            = logits[answer]
    answer_log_probability  = log p(answer)                                            nats
    label_probability       = p(answer) / sum_labels p                                 in [0, 1]
    snr_db                  = 10 log10( p(answer) / mean_{other labels} p )            dB

These are readings of one token per label. Any other measurement is as good: `compare` takes any function of
the model that gives one value per sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import Count, checked, checked_fields
from diffmamba_interp.hook_names import block_point
from diffmamba_interp.hook_points import Recorder
from diffmamba_interp.interventions.targets import require_tokens
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out import Lens
from diffmamba_interp.models.read_out_identity import require_lens_of
from diffmamba_interp.models.token_checks import counted, valid_positions
from diffmamba_interp.ops.precision import upcast
from diffmamba_interp.statistics import snr_db

UNITS = {"answer_logit": "", "answer_log_probability": "nats", "label_probability": "probability", "snr_db": "dB"}


@checked_fields
@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerReading:
    """A function of the model: name -> one value per sample, or [sample, block] for what a lens reads.

    tokens: prompts, padded on the right where `lengths` says so. answers: one token id per prompt.
    labels: token ids of all labels, the answer among them; one set for all prompts or one per prompt. Without
    them there are no label probability and no SNR.
    lenses: name -> lens; its readings are called name.answer_log_probability and so on.
    lengths: tokens per prompt. batch_size: prompts in one forward pass.
    force: read with lenses of another model of the same sizes, which are otherwise refused.
    """

    tokens: Int[Tensor, "batch pos"]
    answers: Sequence[int]
    labels: Sequence[int] | Sequence[Sequence[int]] | None = None
    lenses: Mapping[str, Lens] = field(default_factory=dict)
    lengths: Int[Tensor, " batch"] | None = None
    batch_size: Count = 64
    force: bool = False

    def __post_init__(self) -> None:
        if len(self.answers) != len(self.tokens):
            raise ValueError(
                f"there are {len(self.answers)} answers for {len(self.tokens)} prompts: give one for each."
            )
        if self.labels is not None:
            _check_labels(self._label_rows(), self.answers)

    @property
    def units(self) -> dict[str, str]:
        """The unit of each reading."""
        by_lens = {f"{lens}.{name}": unit for lens in self.lenses for name, unit in UNITS.items()}
        return UNITS | by_lens

    @torch.no_grad()
    def __call__(self, model: HookedMamba) -> dict[str, Tensor]:
        for name, lens in self.lenses.items():
            require_lens_of(model, lens, f"lens {name!r}", force=self.force)
        require_tokens("answers", self.answers, model.cfg.d_vocab)
        if self.labels is not None:
            require_tokens("labels", [label for row in self._label_rows() for label in row], model.cfg.d_vocab)
        parts = [
            self._read(model, slice(at, at + self.batch_size)) for at in range(0, len(self.tokens), self.batch_size)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _read(self, model: HookedMamba, rows: slice) -> dict[str, Tensor]:
        device = model.embed.weight.device
        tokens = self.tokens[rows].to(device)
        lengths = None if self.lengths is None else self.lengths[rows].to(device)
        answers = torch.tensor(list(self.answers)[rows], device=device)
        labels = None if self.labels is None else torch.tensor(self._label_rows()[rows], device=device)
        recorder = Recorder(positions=counted(tokens, valid_positions(tokens, lengths))[:, None] - 1)
        points = [block_point(block, "resid_pre") for block in range(model.cfg.n_layers)] if self.lenses else []
        with model.hooks([(points, recorder)] if points else []):
            logits = model(tokens, lengths=lengths, positions=[-1])
        read = answer_readings(logits[:, 0], answers, labels)
        for lens_name, lens in self.lenses.items():
            entering = enumerate(recorder.seen.values())
            by_block = [answer_readings(lens(resid[:, 0], block), answers, labels) for block, resid in entering]
            for name in by_block[0]:
                read[f"{lens_name}.{name}"] = torch.stack([of_block[name] for of_block in by_block], dim=1)
        return {name: value.cpu() for name, value in read.items()}

    def _label_rows(self) -> list[list[int]]:
        """One list of labels per prompt."""
        assert self.labels is not None
        rows = [[label] if isinstance(label, int) else list(label) for label in self.labels]
        if all(isinstance(label, int) for label in self.labels):
            return [[label for row in rows for label in row]] * len(self.tokens)
        return rows


@checked
def answer_readings(
    logits: Float[Tensor, "batch d_vocab"],
    answers: Int[Tensor, " batch"],
    labels: Int[Tensor, "batch label"] | None = None,
) -> dict[str, Tensor]:
    """The readings at the head of this file, each [batch], in float32 or wider.

    labels: holds each sample's answer once. Without labels there are only the first two.
    """
    logits = upcast(logits)
    log_probs = torch.log_softmax(logits, dim=-1)
    of_answer = log_probs.gather(-1, answers[:, None])[:, 0]
    read = {"answer_logit": logits.gather(-1, answers[:, None])[:, 0], "answer_log_probability": of_answer}
    if labels is None:
        return read
    of_labels = log_probs.gather(-1, labels)
    others = of_labels.masked_fill(labels == answers[:, None], -math.inf).logsumexp(dim=-1)
    read["label_probability"] = torch.exp(of_answer - of_labels.logsumexp(dim=-1))
    read["snr_db"] = snr_db(of_answer, others, labels.shape[1] - 1)
    return read


def _check_labels(labels: list[list[int]], answers: Sequence[int]) -> None:
    if len(labels) != len(answers) or len({len(row) for row in labels}) != 1 or len(labels[0]) < 2:
        raise ValueError(
            "labels must be at least two token ids for all prompts, or one such list per prompt, all equally long."
        )
    for sample, (row, answer) in enumerate(zip(labels, answers, strict=True)):
        if len(set(row)) != len(row) or answer not in row:
            raise ValueError(
                f"sample {sample} has the labels {row} and the answer {answer}: the labels must differ from one "
                "another, and the answer must be one of them."
            )
