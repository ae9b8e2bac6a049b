"""`HookedMamba`: a Mamba-2 or Diff-Mamba-2 language model whose every internal value has a name.

resid_pre[0] = embed(tokens);  resid_pre[i+1] = resid_post[i];  logits = unembed(ln_final(resid_post[-1]))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import zip_longest
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffmamba_interp.activation_cache import ActivationCache
from diffmamba_interp.argument_checks import checked, fitting
from diffmamba_interp.config import HookedMambaConfig
from diffmamba_interp.hook_points import (
    HookFunction,
    HookPoint,
    NamesFilter,
    Recorder,
    attached,
    name_hook_points,
    select_names,
)
from diffmamba_interp.models.block import Block, may_leave_sum, residual_dtype
from diffmamba_interp.models.checkpoint_fields import Format
from diffmamba_interp.models.forward_pass import CarriedState, PassInputs, PassResult, run_pass
from diffmamba_interp.models.generation import generate
from diffmamba_interp.models.graphs import GraphStore
from diffmamba_interp.models.mixer import Mixer
from diffmamba_interp.models.recurrent_state import RecurrentState
from diffmamba_interp.models.rms_norm import RMSNorm
from diffmamba_interp.models.token_checks import (
    AttentionMask,
    Lengths,
    Rows,
    counted,
    lengths_of,
    prepared_tokens,
    select_rows,
    take_rows,
)
from diffmamba_interp.ops.precision import upcast
from diffmamba_interp.ops.select import Impl, Resolved, choose_impl


class HookedMamba(nn.Module):
    """A Mamba-2 or Diff-Mamba-2 language model with hook points (see `hook_names` for the names).

    Right padding is served exactly: pass `lengths`, and positions at or beyond a sample's length are ignored
    (what the model returns there has no meaning). Left padding is refused.
    """

    @checked
    def __init__(self, cfg: HookedMambaConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.impl: Impl = "auto"
        self._graphs: GraphStore | None = GraphStore()
        if torch.get_default_device().type == "meta":
            # Nothing is drawn: to draw what has no values, PyTorch imports its compiler, which takes a second.
            self.embed = nn.Embedding.from_pretrained(torch.empty(cfg.d_vocab, cfg.d_model), freeze=False)
        else:
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
            for weight in cast(Mixer, block.mixer).writing_weights():
                weight.div_(self.cfg.n_layers**0.5)

    @property
    def cuda_graphs(self) -> bool:
        """Whether a forward pass without gradients that comes again is replayed as a CUDA graph; true by default.

        Setting it to either drops the graphs there are. `models.graphs` says what is captured and when.
        """
        return self._graphs is not None

    @cuda_graphs.setter
    def cuda_graphs(self, allowed: bool) -> None:
        if self._graphs is not None:
            self._graphs.clear()
        self._graphs = GraphStore() if fitting("cuda_graphs", allowed, bool) else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HookedMamba:
        """What `.to`, `.cuda` and their kin call: graphs would hold the weights where they were."""
        if self._graphs is not None:
            self._graphs.clear()
        return super()._apply(fn, recurse)

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
        positions: Rows = None,
    ) -> Float[Tensor, "batch read_pos d_vocab"] | Float[Tensor, "batch pos d_model"]:
        """Logits in float32 or wider: [batch, pos, d_vocab].

        `lengths`: tokens per sample in a right-padded batch. `attention_mask`: the same as a 0/1 mask. Either may be
        lists. What lies beyond a sample's length may be any number, such as -100.
        `stop_at_block=k` runs blocks 0 to k - 1 only and returns the residual stream that enters block k.
        `positions`: those to unembed, [read_pos] or [batch, read_pos], -1 being each sample's last token; all when
        None. Of a long prompt the logits of all are larger than everything else.
        """
        if positions is not None and stop_at_block is not None:
            raise ValueError("positions are those to unembed, but with stop_at_block nothing is: give one of the two.")
        run = self._run(
            tokens, lengths=lengths, attention_mask=attention_mask, stop_at_block=stop_at_block, positions=positions
        )
        return run.resid if stop_at_block is not None else upcast(self.unembed(run.resid))

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
        run = self._run(
            tokens,
            state=state,
            lengths=lengths,
            attention_mask=attention_mask,
            positions=(-1,) if last_only else None,
            keep_state=True,
        )
        assert run.state is not None
        return upcast(self.unembed(run.resid)), run.state

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, "batch pos"], state: CarriedState) -> Float[Tensor, "batch pos d_vocab"]:
        """`forward_with_state` that carries the state on inside `state`, where a graph can leave it in its memory.

        What generation repeats for every token. Ids on a GPU are not looked at, which would wait for it: give what
        this model has chosen. Without gradients.
        """
        tokens, _ = prepared_tokens(tokens, self.cfg.d_vocab, wait_for_gpu=False)

        def run(inputs: PassInputs) -> PassResult:
            return self._run_blocks(inputs, self.cfg.n_layers, to_unembed=True, keep_state=True)

        resid = state.step(self._graphs, self, self.hook_points.values(), run, tokens, self.impl)
        return upcast(self.unembed(resid))

    @checked
    def run_with_cache(
        self,
        tokens: Int[Tensor, "batch pos"],
        names_filter: NamesFilter = None,
        *,
        stop_at_block: int | None = None,
        lengths: Lengths | None = None,
        attention_mask: AttentionMask | None = None,
        positions: Rows = None,
    ) -> tuple[Tensor, ActivationCache]:
        """Logits (or the stopped run's residual stream) and the values of the chosen hook points.

        `names_filter`: a name, a list of names, a glob such as `"blocks.*.hook_resid_post"`, or a predicate;
        None caches all but `hook_write`, `hook_state` and `hook_hidden_attention`, which are large: name them.
        `positions`: those to unembed, as in `forward`; `ln_final`'s points then have no others.
        """
        wanted = select_names(self.hook_points, names_filter)
        self._require_reached(wanted if names_filter is not None else [], stop_at_block)
        lengths = lengths_of(tokens, lengths, attention_mask)
        recorder = Recorder()
        with attached(self.hook_points, [(wanted, recorder)] if wanted else []):
            out = self(tokens, stop_at_block=stop_at_block, lengths=lengths, positions=positions)
        return out, ActivationCache(recorder.seen, tokens=tokens.clone(), lengths=lengths, model=self)

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
    def from_pretrained(
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

    def save_pretrained(
        self,
        path: str | Path,
        *,
        format: Format = "diffmamba_interp",
        max_shard_size: int | str = "5GB",
    ) -> None:
        """Write `config.json` and the weights into the folder `path`, in `format` (see `models.checkpoints`)."""
        from diffmamba_interp.models.checkpoints import save_model

        save_model(self, path, format=format, max_shard_size=max_shard_size)

    @checked
    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload a model of diffmamba_interp",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload what `save_pretrained` writes to `repo_id` ("owner/name"; made if it is not there); its address.

        `token`: of an account that may write there; None: the one logged in. Raises what the hub's library raises.
        """
        from diffmamba_interp.models.checkpoint_hub import upload_folder

        how = {"revision": branch, "create_pr": create_pr, "commit_message": commit_message}
        return upload_folder(self.save_pretrained, repo_id, private=private, token=token, **how)

    def _run(
        self,
        tokens: Tensor,
        *,
        state: RecurrentState | None = None,
        lengths: Lengths | None = None,
        attention_mask: AttentionMask | None = None,
        stop_at_block: int | None = None,
        positions: Rows = None,
        keep_state: bool = False,
    ) -> PassResult:
        """The residual stream behind the last block that runs, normed for the unembedding if that is the model's."""
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
        read = None if positions is None else _positions_read(positions, tokens, valid)
        inputs = PassInputs(tokens=tokens, valid=valid, positions=read, state=state)

        def run(inputs: PassInputs) -> PassResult:
            return self._run_blocks(inputs, n_blocks, to_unembed=stop_at_block is None, keep_state=keep_state)

        return run_pass(
            self._graphs, self, self.hook_points.values(), run, inputs, (stop_at_block, keep_state, self.impl)
        )

    def _run_blocks(self, inputs: PassInputs, n_blocks: int, *, to_unembed: bool, keep_state: bool) -> PassResult:
        """What a graph holds: tensors in, tensors out, and the same launches whatever is in them."""
        resid = self.hook_embed(self.embed(inputs.tokens))
        resid = resid.to(residual_dtype(self.cfg, resid.dtype))
        fused = self._chosen_impl(resid) == "fused"
        states, blocks = [], list(self.blocks)[:n_blocks]
        for index, (block, following) in enumerate(zip_longest(blocks, blocks[1:])):
            before = None if inputs.state is None else inputs.state.blocks[index]
            options = {"leave_sum": True} if fused and may_leave_sum(block, following) else {}
            resid, after = block(resid, before, inputs.valid, fused=fused, keep_state=keep_state, **options)
            states.append(after)
        if to_unembed:
            resid = self.ln_final(take_rows(resid, inputs.positions), fused=fused)
        return PassResult(resid=resid, state=RecurrentState(tuple(states)) if keep_state else None)

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
    return take_rows(resid, counted(resid, valid)[:, None] - 1)


def _positions_read(positions: Rows, tokens: Tensor, valid: Tensor | None) -> Int[Tensor, "batch read_pos"] | None:
    lengths = counted(tokens, valid)
    if isinstance(positions, tuple | list) and list(positions) == [-1]:
        # Looking whether it lies in its sample, as it must, would wait for the GPU.
        return lengths[:, None] - 1
    return select_rows(positions, lengths, tokens.shape[1], "positions")


def _block_of(name: str, n_layers: int) -> int:
    """The block a hook point belongs to; -1 for the embedding's, n_layers for those after the last block."""
    parts = name.split(".")
    if parts[0] == "blocks":
        return int(parts[1])
    return n_layers if parts[0] == "ln_final" else -1
