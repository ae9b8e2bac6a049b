"""Fitting a Jacobian lens: how what leaves the last block depends, on average, on the stream that enters each block.

    J_i = mean over prompts of  1/|V| sum_{t in V} sum_{t' in V, t' >= t}  d h_final[t'] / d resid_pre_i[t]

V: positions of a prompt without the first 16 and the last. Effects on all later positions are summed for each source
position t, sources and prompts are averaged (Gurnee et al. 2026, transformer-circuits.pub/2026/workspace). The model is
causal, so the sum over t' >= t is the sum over all t' in V, and one backward pass of

    v . sum_{t' in V} h_final[t']

gives, at every position of every stage, row v of the Jacobian there: d_model passes give all rows of every J_i. A pass
serves a whole batch of prompts, which is run forward once and whose graph is kept, so that the forward pass counts for
nothing and memory for one batch.

With `branches`, the same of what a branch of a differential block puts out, `blocks.{i}.mixer.{branch}.hook_out`, in
the place of resid_pre_i: before lambda, the subtraction and the sub-norm, which are in the derivative.

Sums over prompts are in float64. Their squares are summed too, which gives the error of the mean:

    e_i^2 = (mean over prompts |J_p|^2 - |J|^2) / (n - 1) / |J|^2        |.| Frobenius; J_p: of one prompt
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffmamba_interp.argument_checks import Count, Natural, checked
from diffmamba_interp.hook_names import BRANCHES, block_point, branch_out
from diffmamba_interp.lens.jacobian_layout import JacobianLayout, JacobianLensConfig
from diffmamba_interp.lens.lenses import JacobianLens
from diffmamba_interp.lens.training import Stopped, TrainingError
from diffmamba_interp.lens.unembedding import ModelUnembed
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.token_checks import Lengths, counted, prepared_tokens
from diffmamba_interp.ops.precision import upcast
from diffmamba_interp.runs.process_group import ProcessGroup
from diffmamba_interp.runs.speech import progress

SKIP_FIRST = 16
"""Leading positions that are left out: their streams are unlike those of later ones."""

ROWS = 8
"""Backward passes between two moments at which a fit may be stopped and saved."""

MICRO_BATCH_TOKENS = 512
GRAPH_SHARE = 0.3
"""Of a GPU's free memory, for the graph of one batch."""
GRAPH_VALUES = 64
"""About so many numbers are kept for the backward pass of a token, block and channel of the stream."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FitRecord:
    """A piece of a fit: some rows of one batch of prompts.

    step: counted from 1. n_prompts: whose rows are complete, over all processes. relative_error: mean over the stages
    of e_i; None until there are two prompts. n_tokens: that were gone back over, each as often as there are rows.
    """

    step: int
    n_prompts: int
    relative_error: float | None
    n_tokens: int

    @property
    def in_words(self) -> str:
        """For whoever waits."""
        error = "" if self.relative_error is None else f", error of J {100 * self.relative_error:.1f} %"
        return f"{self.n_prompts} prompts{error}"

    def to_dict(self) -> dict[str, Any]:
        """As a line of the log."""
        return asdict(self)

    def scalars(self) -> dict[str, float]:
        """As curves."""
        return {
            name: float(value)
            for name, value in asdict(self).items()
            if value is not None and name not in ("step", "n_tokens")
        }


@checked
def fit_jacobian_lens(
    model: HookedMamba,
    prompts: Int[Tensor, "prompt pos"],
    *,
    lengths: Lengths | None = None,
    branches: bool = False,
    skip_first: Natural = SKIP_FIRST,
    micro_batch: Count | None = None,
    name: str = "",
    show_progress: bool = False,
) -> JacobianLens:
    """The Jacobian lens of `model` over some prompts; it keeps the identity of the model's read-out.

    Args:
        model: hooks that are attached to it take effect, so that the lens is of the model as they leave it.
        prompts: token ids; 100 or so of 128 tokens give J to a few per cent (`config.relative_error` of the lens).
        lengths: tokens of each prompt, of right-padded ones.
        branches: also the Jacobians of the branches of differential blocks.
        skip_first: positions to leave out at the beginning of each prompt.
        micro_batch: prompts per pass; by default as many as fit. The mean does not depend on it beyond round-off.
        name: folder or hub id of the model, stored for whoever reads it.
        show_progress: a progress bar on the standard error stream.

    Raises:
        ValueError: a prompt of at most skip_first + 1 tokens, which has no position to average over; ids outside the
            vocabulary; branches of a model that has none.
        TrainingError: derivatives that are not finite, or too little memory for one prompt.
    """
    fit = JacobianFit(
        model, prompts, lengths=lengths, branches=branches, skip_first=skip_first, micro_batch=micro_batch, name=name
    )
    with progress(fit.n_steps, unit="step", shown=show_progress) as bar:
        for record in fit.run():
            bar.total = fit.n_steps
            bar.set_postfix_str(record.in_words, refresh=False)
            bar.update()
    return fit.lens


class JacobianFit:
    """A fit that can be stopped after any `ROWS` backward passes and resumed.

    prompts: [prompt, pos], this process's share; all processes must have equally many.
    The other arguments are those of `fit_jacobian_lens`. group: the processes that share the prompts.
    """

    def __init__(
        self,
        model: HookedMamba,
        prompts: Tensor,
        *,
        lengths: Lengths | None = None,
        branches: bool = False,
        skip_first: int = SKIP_FIRST,
        micro_batch: int | None = None,
        name: str = "",
        group: ProcessGroup | None = None,
    ) -> None:
        self.model, self.name, self.group, self.skip_first = model, name, group or ProcessGroup(), skip_first
        device = model.embed.weight.device
        self.tokens, valid = prepared_tokens(prompts.to(device), model.cfg.d_vocab, lengths=lengths)
        self.lengths = counted(self.tokens, valid)
        if int(self.lengths.min()) < skip_first + 2:
            raise ValueError(
                f"a prompt has {int(self.lengths.min())} tokens, of which the first {skip_first} and the last are left "
                f"out: give prompts of at least {skip_first + 2} tokens, or a smaller skip_first."
            )
        self.sources = [block_point(block, "resid_pre") for block in range(model.cfg.n_layers)]
        if branches:
            of_branches = [
                branch_out(block, branch)
                for block in range(model.cfg.n_layers)
                if model.cfg.block_kind(block) == "differential"
                for branch in BRANCHES
            ]
            if not of_branches:
                raise ValueError("branches were asked for, but no block of this model is differential.")
            self.sources += of_branches
        d_model = model.cfg.d_model
        self.sums = torch.zeros(len(self.sources), d_model, d_model, dtype=torch.float64, device=device)
        self.squares = torch.zeros(len(self.sources), dtype=torch.float64, device=device)
        self.micro_batch = min(micro_batch or first_micro_batch(model, self.tokens.shape[1]), len(self.tokens))
        self.step, self._done, self._row = 0, 0, 0
        # Of the last batch that was completed: in the middle of one, some rows have more prompts than others.
        self._relative_error: list[float] | None = None

    @property
    def n_prompts(self) -> int:
        """Over all processes."""
        return len(self.tokens) * self.group.size

    @property
    def n_steps(self) -> int:
        """Steps of the whole fit, if its batches stay as large as they are now."""
        pieces = -(-self.model.cfg.d_model // ROWS)
        batches = -(-(len(self.tokens) - self._done) // self.micro_batch)
        return self.step - self._row // ROWS + batches * pieces

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[FitRecord]:
        """Take the remaining steps, giving a record after each.

        Raises Stopped when `should_stop()` becomes true, in any of the processes, and TrainingError as
        `fit_jacobian_lens` does.
        """
        graph: _Graph | None = None
        while self._done < len(self.tokens):
            if self.group.any(should_stop()):
                raise Stopped
            try:
                graph = graph or self._forward()
                n_tokens = graph.counts.numel() * self._add_rows(graph)
            except torch.OutOfMemoryError as error:
                graph = None
                self._halve_micro_batch(error)
                continue
            if self._row == self.model.cfg.d_model:
                graph = None
                self._done, self._row = self._done + min(self.micro_batch, len(self.tokens) - self._done), 0
                self._relative_error = self._errors()
            self.step += 1
            errors = (self._relative_error or [])[: self.model.cfg.n_layers]
            yield FitRecord(
                step=self.step,
                n_prompts=self._done * self.group.size,
                relative_error=sum(errors) / len(errors) if errors else None,
                n_tokens=n_tokens * self.group.size,
            )

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the fit depends on, after the last whole step: tensors and plain values."""
        return {
            "step": self.step,
            "sources": self.sources,
            "n_prompts": self.n_prompts,
            "done": self._done,
            "row": self._row,
            "micro_batch": self.micro_batch,
            "relative_error": self._relative_error,
            "sums": self.sums.cpu(),
            "squares": self.squares.cpu(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`; on the CPU, bit for bit. Raises ValueError if the state is of another fit."""
        for name, now in (("sources", self.sources), ("n_prompts", self.n_prompts)):
            if state.get(name) != now:
                raise ValueError(
                    f"the saved fit has {name} {state.get(name)!r}, this one has {now!r}: resume with the same model, "
                    "data and settings, or start anew."
                )
        self.sums.copy_(state["sums"])
        self.squares.copy_(state["squares"])
        self.step, self._done, self._row = state["step"], state["done"], state["row"]
        self.micro_batch, self._relative_error = state["micro_batch"], state["relative_error"]

    @property
    def lens(self) -> JacobianLens:
        """The lens, once all steps are taken."""
        assert self._done == len(self.tokens), "the fit is not finished"
        means = (self.sums / self.n_prompts).float()
        cfg, errors = self.model.cfg, self._relative_error
        config = JacobianLensConfig(
            base_model_name_or_path=self.name,
            d_model=cfg.d_model,
            num_hidden_layers=cfg.n_layers,
            skip_first=self.skip_first,
            prompt_tokens=self.tokens.shape[1],
            relative_error=None if errors is None else tuple(errors[: cfg.n_layers]),
        )
        layout = JacobianLayout(
            d_model=cfg.d_model,
            n_prompts=self.n_prompts,
            jacobians=dict(enumerate(means[: cfg.n_layers])),
            branches=dict(zip(self.sources[cfg.n_layers :], means[cfg.n_layers :], strict=True)),
        )
        return JacobianLens.of_layout(ModelUnembed(self.model), config, layout)

    def _forward(self) -> _Graph:
        """The next batch's pass, with the graph from what leaves the last block back to the sources."""
        batch = slice(self._done, self._done + self.micro_batch)
        tokens, lengths = self.tokens[batch], self.lengths[batch]
        seen: dict[str, Tensor] = {}

        def root(value: Tensor, name: str) -> Tensor:
            seen[name] = value.detach().requires_grad_()
            return seen[name]

        def keep(value: Tensor, name: str) -> None:
            seen[name] = value

        with torch.inference_mode(False), torch.enable_grad():
            # Before the first source nothing is differentiated.
            final = self.model.run_with_hooks(
                tokens,
                [(self.sources[0], root), (self.sources[1:], keep)],
                stop_at_block=self.model.cfg.n_layers,
                lengths=lengths if int(lengths.min()) < tokens.shape[1] else None,
            )
        at = torch.arange(tokens.shape[1], device=tokens.device)
        counts = (at >= self.skip_first) & (at < lengths[:, None] - 1)
        return _Graph(final=final, sources=[seen[name] for name in self.sources], counts=counts)

    def _add_rows(self, graph: _Graph) -> int:
        """Add the next `ROWS` rows of this batch, and of the other processes' batches, to the sums; how many."""
        rows = range(self._row, min(self._row + ROWS, self.model.cfg.d_model))
        sums = torch.zeros_like(self.sums[:, : len(rows)])
        squares = torch.zeros_like(self.squares)
        for place, row in enumerate(rows):
            of_prompts = graph.row(row)
            sums[:, place] = of_prompts.sum(dim=1)
            squares += of_prompts.square().sum(dim=(1, 2))
        self.group.sum_(sums)
        self.group.sum_(squares)
        if not bool(sums.isfinite().all()):
            raise TrainingError(
                f"derivatives of prompts {self._done} to {self._done + len(graph.final) - 1} are not finite; they were "
                "not added. Check that the model's own outputs are finite on this data."
            )
        self.sums[:, rows.start : rows.stop] += sums
        self.squares += squares
        self._row = rows.stop
        return len(rows)

    def _errors(self) -> list[float] | None:
        """e of every source, of whole batches."""
        n = self._done * self.group.size
        if n < 2:
            return None
        of_mean = (self.sums / n).square().sum(dim=(1, 2))
        return ((self.squares / n / of_mean - 1).clamp(min=0) / (n - 1)).sqrt().tolist()

    def _halve_micro_batch(self, error: torch.OutOfMemoryError) -> None:
        if self.micro_batch == 1 or self._row > 0:
            raise TrainingError(
                "there is not enough memory for the derivatives of one batch of prompts: give shorter prompts, a "
                f"smaller micro_batch, or a smaller model. ({error})"
            ) from error
        self.micro_batch //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("out of memory: going on with %d prompts at a time", self.micro_batch)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Graph:
    """One batch, run forward. final: what leaves the last block, [prompt, pos, d_model]. sources: of the same shape.

    counts: V, [prompt, pos].
    """

    final: Tensor
    sources: list[Tensor]
    counts: Tensor

    def row(self, row: int) -> Float[Tensor, "source prompt d_model"]:
        """Row `row` of every prompt's Jacobians, in float64."""
        cotangent = torch.zeros_like(self.final)
        cotangent[..., row] = self.counts.to(self.final.dtype)
        gradients = torch.autograd.grad(self.final, self.sources, cotangent, retain_graph=True)
        weights = upcast(self.counts.to(self.final.dtype))
        weights = weights / weights.sum(dim=1, keepdim=True)
        means = [torch.einsum("bp,bpd->bd", weights, upcast(gradient)) for gradient in gradients]
        return torch.stack(means).double()


def first_micro_batch(model: HookedMamba, n_pos: int) -> int:
    """Prompts per batch to begin with; a fit halves it if memory runs out all the same."""
    weight = model.embed.weight
    if weight.device.type != "cuda":
        return max(MICRO_BATCH_TOKENS // n_pos, 1)
    free_bytes, _ = torch.cuda.mem_get_info(weight.device)
    prompt_bytes = GRAPH_VALUES * 4 * n_pos * model.cfg.n_layers * model.cfg.d_model
    return max(int(GRAPH_SHARE * free_bytes) // prompt_bytes, 1)
