"""What a needle run is made with: the options of the command, checked; `recipe_prompts` makes prompts of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffmamba_interp.files.paths import expand_fields
from diffmamba_interp.needle.stories import TASKS
from diffmamba_interp.needle.vocabulary import VocabularyName
from diffmamba_interp.runs.settings import require_numbers, require_positive, require_seed
from diffmamba_interp.text.documents import Bos

FillerSplit = Literal["auto", "whole", "eval"]

AUTO, NONE = "auto", "none"


@dataclass(frozen=True, kw_only=True)
class NeedleRecipe:
    """Options of `python -m diffmamba_interp.evaluate_needle`."""

    model: str = "diff-mamba2"
    """A bundled model (diff-mamba2, mamba2), a checkpoint folder, or a hub id."""
    baseline: str = "mamba2"
    """The model that it is compared with, of equally many blocks and the same tokenizer; none: no comparison."""
    lens: str = AUTO
    """Folder of the model's tuned or Jacobian lens; auto: the bundled tuned one of a bundled model, else none; none:
    the logit lens alone."""
    baseline_lens: str = AUTO
    """The same for the baseline."""
    tokenizer: str | None = None
    """Folder, tokenizer.json or hub id; None: that of the models."""
    tasks: tuple[str, ...] = TASKS
    """Of qa1, qa2, qa3, qa4, qa5."""
    lengths: tuple[int, ...] = (0, 512)
    """Of the prompts, in tokens; 0 for the facts alone."""
    n: int = 100
    """Prompts per task and length."""
    seed: int = 0
    """Decides stories, filler and positions, and the draws of the bootstrap."""
    vocabulary: VocabularyName = "babi"
    """Words of the generated stories: bAbI's, our own, or mixed."""
    babi: str | None = None
    """The bAbI archive or folder: takes real, held-out stories instead of generated ones."""
    filler: str | None = None
    """Text to hide the facts in, as train_lens takes it (files, folder, pattern, hub id); None: generated text."""
    filler_split: FillerSplit = "auto"
    """Of the filler. whole: all of it. eval: the 5 % that the demo chain keeps for evaluation, by hash of each
    document, for text that the models were trained on. auto: eval for builtin and generated, whole for your text."""
    text_field: str = "text"
    """Field or column of the filler that holds the text (.jsonl, .parquet, .arrow, hub)."""
    hub_config: str | None = None
    """Of a filler on the hub: which configuration; None: its only one."""
    hub_split: str | None = None
    """Of a filler on the hub (None: train), or in a folder of several, such as a saved DatasetDict: which split."""
    hub_revision: str | None = None
    """Of a filler on the hub: which commit, tag or branch; None: the newest commit."""
    skip_empty: bool = False
    """Pass over rows of the filler whose text is null or missing, and say how many; otherwise they are an error."""
    max_unpacked_gb: float | None = None
    """Stop when a packed file of the filler unpacks to more GB (10^9 bytes); None: 0.27, or 50 times its own size."""
    bos: Bos = "auto"
    """Whether prompts begin with the tokenizer's beginning-of-text token (BOS). auto: as its template has it."""
    device: str = AUTO
    """cpu, cuda, cuda:1, ...; auto: cuda where there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the models."""
    batch_tokens: int | None = None
    """Tokens per forward pass; None: 8,192 on a CPU, 65,536 on a GPU."""
    out: str | None = None
    """Folder for the results; None: runs/needle/<model>-and-<baseline>."""

    def __post_init__(self) -> None:
        expand_fields(self, "model", "baseline", "lens", "baseline_lens", "tokenizer", "babi", "filler", "out")
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks:
            raise ValueError(f"tasks are {', '.join(unknown) or 'none'}: choose among {', '.join(TASKS)}.")
        if not self.lengths or min(self.lengths) < 0:
            raise ValueError(f"lengths are {self.lengths}: give at least one number of tokens, 0 for the facts alone.")
        for name, values in (("tasks", self.tasks), ("lengths", self.lengths)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} holds a value twice, which would count its prompts twice: {values}.")
        require_numbers(self)
        require_seed(self.seed)
        require_positive(self, "batch_tokens", "max_unpacked_gb")
        if self.n < 1:
            raise ValueError(f"n is {self.n}: give at least 1 prompt per task and length (10 decide something).")
        if self.model == self.baseline and self.lens == self.baseline_lens:
            raise ValueError(f"model and baseline are both {self.model!r}: give another one, or --baseline none.")
