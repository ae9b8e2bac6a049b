"""The recipe of a training run: everything that decides the result, in one frozen value.

A run is a function of its recipe and the data that the recipe names: the same recipe gives the same losses
bit for bit on a CPU. `None` means off. Sections: model, data, optimiser, evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from diffmamba_interp.config import Alignment, HookedMambaConfig, Placement
from diffmamba_interp.files.paths import expand_fields
from diffmamba_interp.needle.stories import TASKS
from diffmamba_interp.runs.settings import require_numbers, require_positive, require_seed

Precision = Literal["float32", "bf16"]
LossKind = Literal["full", "answer"]


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """Where the model comes from: `config` (new weights) or `init_from` (trained ones), exactly one of them."""

    config: HookedMambaConfig | None = None
    """Sizes of a new model."""
    init_from: str | None = None
    """A checkpoint folder or hub id, in any format that `HookedMamba.from_pretrained` reads."""
    placement: Placement | None = None
    """Turn these blocks of the checkpoint into differential ones first; None: leave it as it is."""
    alignment: Alignment = "by_component"
    """How they are turned (see `models.conversion`)."""

    def __post_init__(self) -> None:
        expand_fields(self, "init_from")
        if (self.config is None) == (self.init_from is None):
            raise ValueError("the model section needs either config (a new model) or init_from (a checkpoint).")
        if self.placement is not None and self.init_from is None:
            raise ValueError("placement converts the checkpoint of init_from; a new model says it in config.")


@dataclass(frozen=True, kw_only=True)
class TextPart:
    """One kind of text in the mixture; give `tokens` or `source`."""

    weight: float
    """Share of the rows, relative to the other parts."""
    tokens: str | None = None
    """A token stream (.npy) made with the recipe's tokenizer."""
    source: str | None = None
    """Text to tokenise at the first run and keep in `cache`: files, folder, pattern, hub id, "builtin" or "generated";
    only its lm_train split is used."""
    text_field: str = "text"
    """Field or column of the source that holds the text."""
    hub_config: str | None = None
    """Which configuration of a hub dataset; None: its only one."""
    hub_split: str | None = None
    """Which split of a hub dataset; None: train."""
    hub_revision: str | None = None
    """Which commit, tag or branch of a hub dataset; None: the newest commit."""
    skip_empty: bool = False
    """Pass over rows of a source whose text is null or missing; otherwise they are an error."""
    cache: str = "runs/token_cache"
    """Folder of the source's tokens."""
    max_tokens: int | None = None
    """Use no more tokens of a source; None: all."""

    def __post_init__(self) -> None:
        require_numbers(self)
        expand_fields(self, "tokens", "source", "cache")
        if (self.tokens is None) == (self.source is None):
            raise ValueError("a text part needs either tokens (a .npy stream) or source (text).")
        require_positive(self, "max_tokens")
        if self.weight <= 0:
            raise ValueError(f"a text part's weight is {self.weight}: it must be positive; leave the part out instead.")


@dataclass(frozen=True, kw_only=True)
class RetrievalPart:
    """Retrieval samples: stories, hidden in filler or not, packed into rows."""

    weight: float
    """Share of the rows, relative to the other parts."""
    tasks: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)
    """Share of the samples of qa1, qa2, qa3, qa4, qa5, relative to each other."""
    babi_words: float = 1.0
    """Share of generated stories in bAbI's words, relative to own_words and real."""
    own_words: float = 1.0
    """Share of generated stories in our own words."""
    real: float = 0.0
    """Share of real bAbI training stories, which need babi_path."""
    short: float = 0.0
    """Share of the generated stories that have few facts (`retrieval_rows.SHORT_N_FACTS`), from which copying an answer
    is learnt before finding the right one; the others have as many as bAbI's."""
    babi_path: str | None = None
    """The bAbI archive or folder. With it, no generated story equals a held-out real one."""
    lengths: tuple[int, ...] = (0,)
    """Tokens of a sample with its filler; 0: none, rows are packed with stories."""
    length_weights: tuple[float, ...] = (1.0,)
    """How many tokens are spent on each length, relative to each other."""
    filler: tuple[str, ...] = ()
    """Token streams (.npy) whose text serves as filler; needed for lengths above 0."""
    filler_tokens: int | None = None
    """Use about so many tokens of each stream; None: all."""
    max_questions: int = 1
    """Question-answer pairs after one context; their number is drawn up to this."""
    context_weight: float = 0.1
    """Weight in the loss of a token of the sample."""
    answer_weight: float = 1.0
    """Weight in the loss of a token of an answer."""

    def __post_init__(self) -> None:
        require_numbers(self)
        expand_fields(self, "babi_path", "filler")
        shares = (*self.tasks, self.babi_words, self.own_words, self.real, *self.length_weights)
        if self.weight <= 0 or min(shares) < 0 or min(self.context_weight, self.answer_weight) < 0:
            raise ValueError("the retrieval part's weight must be positive, its shares and loss weights not negative.")
        if not sum(self.tasks) or not self.babi_words + self.own_words + self.real or not sum(self.length_weights):
            raise ValueError("of tasks, of kinds of stories and of lengths, at least one share must be above 0.")
        if len(self.lengths) != len(self.length_weights) or min(self.lengths, default=-1) < 0:
            raise ValueError("lengths are numbers of tokens, and length_weights has one weight for each of them.")
        if self.real and self.babi_path is None:
            raise ValueError("real stories need babi_path: the bAbI archive (.tar.gz) or its folder.")
        if max(self.lengths) > 0 and not self.filler:
            raise ValueError("lengths above 0 need filler: name token streams (.npy).")
        if not 0 <= self.short <= 1:
            raise ValueError(f"short is {self.short}: it is a share, in [0, 1].")
        require_positive(self, "filler_tokens", "max_questions")


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """What the model is trained on."""

    tokenizer: str
    """Folder, tokenizer.json or hub id."""
    length: int
    """Tokens per row."""
    text: tuple[TextPart, ...] = ()
    """The text of the mixture; rows are shared out by weight, the same rows in the same order for a seed."""
    retrieval: RetrievalPart | None = None
    """The retrieval samples of the mixture."""
    seed: int | None = None
    """Decides which rows; None: the run's seed."""

    def __post_init__(self) -> None:
        require_numbers(self)
        expand_fields(self, "tokenizer")
        if self.length < 2:
            raise ValueError(f"data.length is {self.length}: it must be at least 2 tokens.")
        if not self.text and self.retrieval is None:
            raise ValueError("the data section names no data: add a [[data.text]] part or a [data.retrieval] one.")


@dataclass(frozen=True, kw_only=True)
class OptimiserRecipe:
    """AdamW; learning rate: linear warm-up, then a cosine down to `floor` times `lr` at the last step."""

    lr: float
    """The highest learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the means of the gradient and of its square."""
    eps: float = 1e-8
    """Added to the root of the mean square."""
    weight_decay: float = 0.1
    """Acts on the matrices of in_proj, out_proj and an untied unembedding only."""
    warmup: int = 100
    """Steps until the highest learning rate."""
    floor: float = 0.1
    """The last learning rate, as a share of the highest."""
    clip: float | None = 1.0
    """Greatest norm of all gradients together; None: no clipping."""

    def __post_init__(self) -> None:
        require_numbers(self)
        if not self.lr > 0 or not 0 <= self.floor <= 1 or self.warmup < 0:
            raise ValueError("the optimiser needs lr > 0, floor in [0, 1] and warmup >= 0.")
        if not all(0 <= beta < 1 for beta in self.betas) or self.eps < 0 or self.weight_decay < 0:
            raise ValueError("the optimiser needs betas in [0, 1), eps >= 0 and weight_decay >= 0.")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip is {self.clip}: it must be positive; leave it out for no clipping.")


@dataclass(frozen=True, kw_only=True)
class StagesRecipe:
    """What is read from the model's stages along the run (`stage_readings`), beside the bits per byte of held-out
    text."""

    at: tuple[int, ...]
    """Steps; 0 is before the first."""
    tasks: tuple[str, ...] = TASKS
    """Of retrieval."""
    lengths: tuple[int, ...] = (0,)
    """Of the retrieval prompts, in tokens."""
    n: tuple[int, ...] = (60,)
    """Prompts of each task, one number for each length."""

    def __post_init__(self) -> None:
        if not self.at or min(self.at) < 0:
            raise ValueError(f"evaluation.stages.at is {list(self.at)}: name at least one step, none below 0.")
        _require_tasks("evaluation.stages.tasks", self.tasks)
        if not self.tasks or not self.n or len(self.n) != len(self.lengths) or min(self.n) < 1:
            raise ValueError(
                f"evaluation.stages needs a task, and prompts at every length: n is {list(self.n)} for the lengths "
                f"{list(self.lengths)}."
            )


@dataclass(frozen=True, kw_only=True)
class EvaluationRecipe:
    """What is measured during the run, every `every` steps and at the end."""

    every: int = 500
    """Steps between two measurements."""
    text: tuple[str, ...] = ()
    """Token streams (.npy) of held-out text, for bits per byte."""
    max_tokens: int = 500_000
    """Tokens of each stream, in documents spread over it."""
    tasks: tuple[str, ...] = TASKS
    """Of retrieval, "qa1" to "qa5"."""
    lengths: tuple[int, ...] = (0,)
    """Of the retrieval prompts, in tokens."""
    n: int = 100
    """Stories per task, length and kind; 0: no retrieval."""
    babi_path: str | None = None
    """The bAbI archive or folder: real held-out stories besides generated ones."""
    filler: str | None = None
    """A token stream of held-out text."""
    stages: StagesRecipe | None = None
    """What is read from the model's stages, at steps of its own, on real stories if there are some."""

    def __post_init__(self) -> None:
        require_numbers(self)
        expand_fields(self, "text", "babi_path", "filler")
        if self.every < 1 or self.n < 0 or self.max_tokens < 2:
            raise ValueError("evaluation needs every >= 1, n >= 0 and max_tokens >= 2.")
        _require_tasks("evaluation.tasks", self.tasks)
        lengths = (*(self.lengths if self.n else ()), *(self.stages.lengths if self.stages else ()))
        if max(lengths, default=0) > 0 and self.filler is None:
            raise ValueError("evaluation at lengths above 0 needs filler: name a token stream (.npy) of held-out text.")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run."""

    model: ModelRecipe
    data: DataRecipe
    optimiser: OptimiserRecipe
    evaluation: EvaluationRecipe | None = None
    steps: int
    """Optimiser steps."""
    batch_size: int
    """Rows per step, over all processes."""
    accumulation: int = 1
    """Equal parts in which a process computes its share, to save memory."""
    loss: LossKind = "full"
    """full: every token by its weight. answer: only the answers of retrieval samples."""
    precision: Precision = "float32"
    """bf16 computes in bfloat16 with float32 master weights."""
    seed: int = 0
    """Of new weights, and of the data unless the data section has its own."""
    log_every: int = 10
    """Steps between two lines of the log."""
    snapshot_every: int = 500
    """Steps between two snapshots."""
    max_minutes: float | None = None
    """Stop with a snapshot after so long; None: no limit."""
    export: tuple[Literal["float32", "bf16"], ...] = field(default=("float32", "bf16"))
    """Dtypes of the final model; the first one's folder is `model`, another's `model-<dtype>`."""
    workers: int = 0
    """Processes that prepare data; 0 prepares it between steps."""
    cuda_graph: bool = True
    """On a single GPU, launch each step as one CUDA graph: the same numbers, sooner."""

    def __post_init__(self) -> None:
        require_numbers(self)
        require_seed(self.seed)
        require_seed(self.data_seed, "data.seed")
        require_positive(self, "steps", "batch_size", "accumulation", "log_every", "snapshot_every")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}: it must be 0 or more processes.")
        if self.max_minutes is not None and self.max_minutes < 0:
            raise ValueError(f"max_minutes is {self.max_minutes}: it cannot be negative; leave it out for no limit.")
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of accumulation {self.accumulation}.")
        if self.loss == "answer" and self.data.retrieval is None:
            raise ValueError("loss = 'answer' needs retrieval samples: add a [data.retrieval] section.")

    @property
    def data_seed(self) -> int:
        """The seed that decides the rows."""
        return self.seed if self.data.seed is None else self.data.seed

    @property
    def role_weights(self) -> tuple[float, float, float, float]:
        """Loss weights of padding, text, context and answer tokens (`mixture.Role`)."""
        part = self.data.retrieval
        context, answer = (part.context_weight, part.answer_weight) if part else (0.0, 0.0)
        return (0.0, 1.0, context, answer) if self.loss == "full" else (0.0, 0.0, 0.0, answer or 1.0)


RESUMABLE_CHANGES = (
    "max_minutes",
    "workers",
    "log_every",
    "snapshot_every",
    "export",
    "evaluation",
    "accumulation",
    "cuda_graph",
)
"""Fields that may differ between a snapshot and the run that continues it."""


def _require_tasks(name: str, tasks: tuple[str, ...]) -> None:
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown:
        raise ValueError(f"{name} names {', '.join(unknown)}: known are {', '.join(TASKS)}.")
