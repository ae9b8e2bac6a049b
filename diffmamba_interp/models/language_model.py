"""`HookedMamba`: a Mamba-2 or Diff-Mamba-2 language model whose every internal value has a name.

resid_pre[0] = embed(tokens);  resid_pre[i+1] = resid_post[i];  logits = unembed(ln_final(resid_post[-1]))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import ModelHubMixin
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffmamba_interp.activation_cache import ActivationCache
from diffmamba_interp.argument_checks import checked, fitting
from diffmamba_interp.config import HookedMambaConfig
from diffmamba_interp.hook_points import HookFunction, HookPoint, NamesFilter, attached, name_hook_points, select_names
from diffmamba_interp.models.block import Block, residual_dtype
from diffmamba_interp.models.checkpoint_fields import Format
from diffmamba_interp.models.generation import generate
from diffmamba_interp.models.recurrent_state import RecurrentState
from diffmamba_interp.models.rms_norm import RMSNorm
from diffmamba_interp.models.token_checks import AttentionMask, Lengths, lengths_of, prepared_tokens
from diffmamba_interp.ops.precision import upcast
from diffmamba_interp.ops.select import Impl, Resolved, choose_impl


@dataclass(frozen=True)
class _Run:
    """How far a forward pass came: the residual stream, which positions are real, and the blocks' states."""

    resid: Tensor
    valid: Tensor | None
    state: RecurrentState | None


class HookedMamba(nn.Module, ModelHubMixin, library_name="diffmamba-interp", tags=["mamba", "interpretability"]):
    """A Mamba-2 or Diff-Mamba-2 language model with hook points (see `hook_names` for the names).

    Right padding is served exactly: pass `lengths`, and positions at or beyond a sample's length are ignored
    (what the model returns there has no meaning). Left padding is refused.
    """

    @checked
    def __init__(self, cfg: HookedMambaConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.impl: Impl = "auto"
        self.embed = nn.Embedding(cfg.d_vocab, cfg.d_model)
        self.hook_embed = HookPoint()
        self.blocks = nn.ModuleList([Block(cfg, index) for index in range(cfg.n_layers)])
        self.ln_final = RMSNorm(cfg.d_model, cfg.norm_eps)
        self.unembed = nn.Linear(cfg.d_model, cfg.d_vocab, bias=False)
        self.tie_embeddings()
        self.hook_points: dict[str, HookPoint] = name_hook_points(self)
        if self.embed.weight.device.type != "meta":
            self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Scale a new model: embeddings of std `initializer_range`, and what each block writes by 1/sqrt(n_layers).

        The second is mamba_ssm's rescaling of out_proj; behind a sub-norm, which would undo it, the gain is scaled.
        """
        nn.init.normal_(self.embed.weight, std=self.cfg.initializer_range)
        for block in cast(Iterable[Block], self.blocks):
            for weight in block.mixer.writing_weights():
                weight.div_(self.cfg.n_layers**0.5)

    def tie_embeddings(self) -> None:
        """Make the unembedding the embedding's matrix, if the config says so."""
        if self.cfg.tie_embeddings:
            self.unembed.weight = self.embed.weight

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        lengths: Lengths | None = None,
        attention_mask: AttentionMask | None = None,
        stop_at_block: int | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"] | Float[Tensor, "batch pos d_model"]:
        """Logits in float32 or wider: [batch, pos, d_vocab].

        `lengths`: tokens per sample in a right-padded batch. `attention_mask`: the same as a 0/1 mask. Either may be
        lists. What lies beyond a sample's length may be any number, such as -100.
        `stop_at_block=k` runs blocks 0 to k - 1 only and returns the residual stream that enters block k.
        """
        run = self._run(tokens, lengths=lengths, attention_mask=attention_mask, stop_at_block=stop_at_block)
        return run.resid if stop_at_block is not None else self._logits(run.resid)

    @checked
    def forward_with_state(
        self,
        tokens: Int[Tensor, "batch pos"],
        state: RecurrentState | None = None,
        *,
        lengths: Lengths | None = None,
        attention_mask: AttentionMask | None = None,
        last_only: bool = False,
    ) -> tuple[Float[Tensor, "batch read_pos d_vocab"], RecurrentState]:
        """Logits and the recurrent state after the last token of each sample, from which a later call continues.

        `state`: where an earlier call ended. `last_only=True` unembeds only each sample's last position and
        returns [batch, 1, d_vocab], which spares the vocabulary-sized memory of a long prompt.
        """
        run = self._run(tokens, state=state, lengths=lengths, attention_mask=attention_mask, keep_state=True)
        assert run.state is not None
        resid = run.resid if not last_only else last_positions(run.resid, run.valid)
        return self._logits(resid), run.state

    @checked
    def run_with_cache(
        self,
        tokens: Int[Tensor, "batch pos"],
        names_filter: NamesFilter = None,
        *,
        stop_at_block: int | None = None,
        lengths: Lengths | None = None,
        attention_mask: AttentionMask | None = None,
    ) -> tuple[Tensor, ActivationCache]:
        """Logits (or the stopped run's residual stream) and the values of the chosen hook points.

        `names_filter`: a name, a list of names, a glob such as `"blocks.*.hook_resid_post"`, or a predicate;
        None caches all but `hook_state` and `hook_hidden_attention`, which are large: name them.
        """
        seen: dict[str, Tensor] = {}

        def keep(value: Tensor, name: str) -> None:
            seen[name] = value

        wanted = select_names(self.hook_points, names_filter)
        self._require_reached(wanted if names_filter is not None else [], stop_at_block)
        lengths = lengths_of(tokens, lengths, attention_mask)
        with attached(self.hook_points, [(wanted, keep)] if wanted else []):
            out = self(tokens, stop_at_block=stop_at_block, lengths=lengths)
        return out, ActivationCache(seen, tokens=tokens.clone(), lengths=lengths, model=self)

    @checked
    def run_with_hooks(
        self,
        tokens: Int[Tensor, "batch pos"],
        fwd_hooks: Iterable[tuple[NamesFilter, HookFunction]] = (),
        *,
        stop_at_block: int | None = None,
        lengths: Lengths | None = None,
        attention_mask: AttentionMask | None = None,
    ) -> Tensor:
        """A forward pass with functions attached: `fn(value, name)` returns a replacement, or None to look only."""
        fwd_hooks = list(fwd_hooks)
        for names, _ in fwd_hooks:
            self._require_reached(select_names(self.hook_points, names), stop_at_block)
        with self.hooks(fwd_hooks):
            return self(tokens, stop_at_block=stop_at_block, lengths=lengths, attention_mask=attention_mask)

    @checked
    def hooks(
        self, fwd_hooks: Iterable[tuple[NamesFilter, HookFunction]], *, all_threads: bool = False
    ) -> AbstractContextManager[None]:
        """Context manager: the functions are attached inside the `with` block, to whatever runs there.

        They act on what this thread runs, so that another one may use the model meanwhile; `all_threads=True` carries
        them over to every thread's runs, such as those of workers that are started inside.
        """
        return attached(self.hook_points, fwd_hooks, all_threads=all_threads)

    @checked
    def generate(
        self,
        tokens: Int[Tensor, "batch pos"],
        max_new_tokens: int = 20,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        stop_token: int | None = None,
        lengths: Lengths | None = None,
        attention_mask: AttentionMask | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch all_pos"]:
        """Prompt and continuation; see `models.generation.generate`."""
        return generate(
            self,
            tokens,
            max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            stop_token=stop_token,
            lengths=lengths,
            attention_mask=attention_mask,
            generator=generator,
        )

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        path: str | Path,
        *,
        device: torch.device | str | int | None = "cpu",
        dtype: torch.dtype | str | None = torch.float32,
        impl: Impl | str = "auto",
        revision: str | None = None,
    ) -> HookedMamba:
        """Load a checkpoint folder or a hub id, in any of the formats of `models.checkpoints`.

        `device`: as torch names it, or `"gpu"`. `dtype`: also by name (`"bfloat16"`); `"auto"` is as stored, None is
        float32. A, D, dt_bias and lambda stay in float32 whatever `dtype` says. Raises ValueError, FileNotFoundError or
        MemoryError; see `models.checkpoints.load_model`.
        """
        from diffmamba_interp.models.checkpoints import load_model

        return load_model(path, device=device, dtype=dtype, impl=impl, revision=revision)

    def save_pretrained(  # type: ignore[override]
        self,
        path: str | Path,
        *,
        format: Format = "diffmamba_interp",
        max_shard_size: int | str = "5GB",
        config: None = None,
        model_card_kwargs: dict[str, object] | None = None,
    ) -> None:
        """Write `config.json` and the weights into the folder `path`, in `format` (see `models.checkpoints`).

        `config` and `model_card_kwargs` are what the hub mixin's `push_to_hub` passes; they change nothing.
        """
        from diffmamba_interp.models.checkpoints import save_model

        save_model(self, path, format=format, max_shard_size=max_shard_size)

    def _run(
        self,
        tokens: Tensor,
        *,
        state: RecurrentState | None = None,
        lengths: Lengths | None = None,
        attention_mask: AttentionMask | None = None,
        stop_at_block: int | None = None,
        keep_state: bool = False,
    ) -> _Run:
        tokens, valid = prepared_tokens(
            tokens,
            self.cfg.d_vocab,
            lengths=lengths,
            attention_mask=attention_mask,
            wait_for_gpu=not self.training,
        )
        n_blocks = self._n_blocks_to_run(stop_at_block)
        if state is not None:
            state.require_fit([self.cfg.block_kind(index) for index in range(n_blocks)], tokens.shape[0])
        resid = self.hook_embed(self.embed(tokens))
        resid = resid.to(residual_dtype(self.cfg, resid.dtype))
        fused = self._chosen_impl(resid) == "fused"
        states = []
        for index in range(n_blocks):
            before = None if state is None else state.blocks[index]
            resid, after = self.blocks[index](resid, before, valid, fused=fused, keep_state=keep_state)
            states.append(after)
        return _Run(resid=resid, valid=valid, state=RecurrentState(tuple(states)) if keep_state else None)

    def _logits(self, resid: Tensor) -> Tensor:
        fused = self._chosen_impl(resid) == "fused"
        return upcast(self.unembed(self.ln_final(resid, fused=fused)))

    def _chosen_impl(self, resid: Tensor) -> Resolved:
        return choose_impl(self.impl, resid.device, self.embed.weight.dtype).impl

    def _n_blocks_to_run(self, stop_at_block: int | None) -> int:
        if stop_at_block is None:
            return self.cfg.n_layers
        stop_at_block = fitting("stop_at_block", stop_at_block, int)
        if not 0 <= stop_at_block <= self.cfg.n_layers:
            raise ValueError(f"stop_at_block is {stop_at_block}: it must lie in 0 to {self.cfg.n_layers}.")
        return stop_at_block

    def _require_reached(self, names: Sequence[str], stop_at_block: int | None) -> None:
        """A hook behind the block at which the run stops would be silently dead: refuse it."""
        if stop_at_block is None:
            return
        stop_at_block = fitting("stop_at_block", stop_at_block, int)
        unreached = [name for name in names if _block_of(name, self.cfg.n_layers) >= stop_at_block]
        if unreached:
            raise ValueError(
                f"stop_at_block={stop_at_block} ends the run before {', '.join(unreached[:3])}"
                f"{' ...' if len(unreached) > 3 else ''}: stop later, or ask for fewer points."
            )


def last_positions(resid: Float[Tensor, "batch pos d"], valid: Tensor | None) -> Float[Tensor, "batch 1 d"]:
    """Each sample's last real position."""
    if valid is None:
        return resid[:, -1:]
    return resid[torch.arange(resid.shape[0], device=resid.device), valid.sum(dim=-1) - 1][:, None]


def _block_of(name: str, n_layers: int) -> int:
    """The block a hook point belongs to; -1 for the embedding's, n_layers for those after the last block."""
    parts = name.split(".")
    if parts[0] == "blocks":
        return int(parts[1])
    return n_layers if parts[0] == "ln_final" else -1
