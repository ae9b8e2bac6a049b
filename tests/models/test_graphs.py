"""Forward passes replayed as graphs give what eager ones give, and what cannot be captured runs eagerly.

Without a GPU a stand-in takes the place of the capture: it runs the function again at every replay and writes the
results where the first ones lie, as a graph does. Whether real graphs give the same numbers, the GPU tests say.
"""

from __future__ import annotations

import copy
import itertools
import logging
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig, LogitLens, TunedLens
from diffmamba_interp.hook_points import Recorder
from diffmamba_interp.lens import residual_stream
from diffmamba_interp.models import forward_pass, graphs
from diffmamba_interp.models.cuda_graph import Body, Copies, CudaGraph, Outputs
from diffmamba_interp.models.forward_pass import CarriedState
from diffmamba_interp.models.graphs import Carried, GraphStore
from diffmamba_interp.models.watched import Watched
from diffmamba_interp.needle import NeedleSample, needle_trajectory
from tests.models.tiny import random_tokens, tiny_model
from tests.needle.closed_form import sample_of


class StandIn:
    """A capture without a GPU, and how many there were.

    A replay runs the function of the call that it is made for, whose recorders are those that are attached by then.
    """

    made = 0
    n_bytes = 100
    called = threading.local()

    def __init__(self, body: Body, inputs: Sequence[Tensor]) -> None:
        StandIn.made += 1
        self.inputs, self.outputs = inputs, body(inputs)

    def replay(self) -> None:
        for kept, new in zip(self.outputs.tensors, StandIn.called.body(self.inputs).tensors, strict=True):
            kept.copy_(new)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    def call(
        store: GraphStore, model: Any, key: Any, body: Body, inputs: Any, carried: Carried | None = None
    ) -> Outputs:
        StandIn.called.body = body
        return real_call(store, model, key, body, inputs, carried)

    real_call = GraphStore.call
    monkeypatch.setattr(GraphStore, "call", call)
    monkeypatch.setattr(StandIn, "made", 0)
    monkeypatch.setattr(graphs, "capture", StandIn)
    monkeypatch.setattr(graphs, "is_served", lambda inputs: True)
    graphs._said.clear()
    return StandIn


@pytest.fixture
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,)))


def n_graphs(model: HookedMamba) -> int:
    assert model._graphs is not None
    return len(model._graphs)


@torch.no_grad()
def test_a_shape_is_captured_at_its_second_use_and_then_replayed(stand_in: type[StandIn], model: HookedMamba) -> None:
    given = [random_tokens(2, 9, seed=seed) for seed in range(4)]
    model.cuda_graphs = False
    expected = [model(tokens) for tokens in given]
    assert stand_in.made == 0
    model.cuda_graphs = True
    counts = []
    for tokens, logits in zip(given, expected, strict=True):
        assert torch.equal(model(tokens), logits)
        counts.append(stand_in.made)
    assert counts == [0, 1, 1, 1]


def _calls(tokens: Tensor, state: object) -> dict[str, Callable[[HookedMamba], object]]:
    def recorded(dtype: torch.dtype) -> Callable[[HookedMamba], object]:
        return lambda model: residual_stream(model, tokens, dtype=dtype)

    return {
        "forward": lambda model: model(tokens),
        "longer": lambda model: model(torch.cat([tokens, tokens], dim=1)),
        "one sample": lambda model: model(tokens[:1]),
        "int32": lambda model: model(tokens.int()),
        "stopped": lambda model: model(tokens, stop_at_block=2),
        "stopped earlier": lambda model: model(tokens, stop_at_block=1),
        "padded": lambda model: model(tokens, lengths=[9, 4]),
        "last position": lambda model: model(tokens, positions=[-1]),
        "two positions": lambda model: model(tokens, positions=[0, 3]),
        "state out": lambda model: model.forward_with_state(tokens),
        "state in": lambda model: model.forward_with_state(tokens, state),
        "one point": lambda model: model.run_with_cache(tokens, "hook_embed"),
        "another point": lambda model: model.run_with_cache(tokens, "blocks.1.hook_resid_post"),
        "stream": recorded(torch.float32),
        "stream in bfloat16": recorded(torch.bfloat16),
        "wide": lambda model: model.run_with_hooks(tokens, [("blocks.0.hook_mixer_out", Recorder(widen=True))]),
        "as they are": lambda model: model.run_with_hooks(tokens, [("blocks.0.hook_mixer_out", Recorder())]),
    }


@torch.no_grad()
def test_calls_that_launch_other_kernels_have_keys_of_their_own(stand_in: type[StandIn], model: HookedMamba) -> None:
    tokens = random_tokens(2, 9)
    _, state = model.forward_with_state(tokens)
    calls = _calls(tokens, state)
    model.cuda_graphs = True
    for call in calls.values():
        call(model)
    assert stand_in.made == 0
    for call in calls.values():
        call(model)
    assert stand_in.made == len(calls)
    with torch.inference_mode():
        calls["forward"](model)
    assert stand_in.made == len(calls)


@torch.no_grad()
def test_every_kind_of_call_gives_by_graph_what_it_gives_eagerly(stand_in: type[StandIn], model: HookedMamba) -> None:
    tokens = random_tokens(2, 9)
    _, state = model.forward_with_state(random_tokens(2, 5, seed=7))
    for name, call in _calls(tokens, state).items():
        model.cuda_graphs = False
        expected = tensors_of(call(model))
        model.cuda_graphs = True
        for _ in range(3):
            given = tensors_of(call(model))
            assert len(given) == len(expected) > 0, name
            assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True)), name
        assert n_graphs(model) == 1, name


def tensors_of(result: object) -> list[Tensor]:
    """All tensors in what a call returned."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, tuple | list):
        return [tensor for part in result for tensor in tensors_of(part)]
    if hasattr(result, "values"):
        return [tensor for part in result.values() for tensor in tensors_of(part)]
    if hasattr(result, "tensors"):
        return list(result.tensors())
    return tensors_of(list(vars(result).values()))


@torch.no_grad()
def test_later_calls_leave_earlier_results_as_they_were(stand_in: type[StandIn], model: HookedMamba) -> None:
    results = []
    for seed in range(4):
        tokens = random_tokens(2, 9, seed=seed)
        logits, cache = model.run_with_cache(tokens)
        results.append((tokens, logits, dict(cache), residual_stream(model, tokens), model.forward_with_state(tokens)))
    model.cuda_graphs = False
    for tokens, logits, values, stream, stepped in results:
        expected, cache = model.run_with_cache(tokens)
        assert torch.equal(logits, expected)
        assert list(values) == list(cache)
        assert all(torch.equal(values[name], cache[name]) for name in cache)
        given, wanted = tensors_of(stream), tensors_of(residual_stream(model, tokens))
        assert all(torch.equal(a, b) for a, b in zip(given, wanted, strict=True))
        given, wanted = tensors_of(stepped), tensors_of(model.forward_with_state(tokens))
        assert all(torch.equal(a, b) for a, b in zip(given, wanted, strict=True))


@torch.no_grad()
def test_a_cache_by_graph_holds_no_more_memory_than_an_eager_one(stand_in: type[StandIn], model: HookedMamba) -> None:
    tokens = random_tokens(2, 9)
    caches = [model.run_with_cache(tokens)[1] for _ in range(3)]
    assert stand_in.made == 1
    assert caches[2].n_bytes == caches[0].n_bytes
    assert all(caches[2][name].stride() == value.stride() for name, value in caches[0].items())
    assert not any(value._is_view() for value in caches[2].values())


@torch.no_grad()
def test_a_users_function_is_called_at_every_pass(stand_in: type[StandIn], model: HookedMamba) -> None:
    tokens, seen = random_tokens(), []
    for _ in range(4):
        model.run_with_hooks(tokens, [("hook_embed", lambda value, name: seen.append(name))])
    assert len(seen) == 4
    with model.hooks([("blocks.1.hook_resid_pre", lambda value, name: 2 * value)]):
        doubled = [model.run_with_cache(tokens, "blocks.1.hook_resid_post")[0] for _ in range(3)]
    assert stand_in.made == 0
    assert not torch.equal(doubled[2], model(tokens))


@torch.no_grad()
def test_torchs_own_module_hooks_are_called_at_every_pass(stand_in: type[StandIn], model: HookedMamba) -> None:
    tokens, seen = random_tokens(), []
    for _ in range(3):
        model(tokens)
    handle = model.blocks[0].register_forward_hook(lambda *_: seen.append(0))
    for _ in range(3):
        model(tokens)
    handle.remove()
    with nn.modules.module.register_module_forward_pre_hook(lambda *_: seen.append(1)):
        model(tokens)
    assert seen.count(0) == 3
    assert seen.count(1) > 1
    norm = model.blocks[0].norm
    norm.forward = lambda x, *, fused: torch.zeros_like(x)  # type: ignore[method-assign]
    assert not torch.equal(model(tokens), tiny_model(DifferentialConfig(placement=(0,)))(tokens))
    assert stand_in.made == 1


@torch.no_grad()
def test_functions_at_points_of_a_new_block_are_called(stand_in: type[StandIn], model: HookedMamba) -> None:
    tokens, seen = random_tokens(), []
    model.blocks[1] = copy.deepcopy(model.blocks[1])
    for _ in range(3):
        model(tokens)
    model.blocks[1].hook_resid_pre.attach(lambda value, name: seen.append(name))
    for _ in range(3):
        model(tokens)
    assert len(seen) == 3
    assert stand_in.made == 1


@torch.no_grad()
def test_a_replica_with_parameters_of_its_own_is_not_replayed(stand_in: type[StandIn], model: HookedMamba) -> None:
    for _ in range(3):
        model(random_tokens())
    replica = copy.copy(model)
    assert replica._graphs is model._graphs
    for _ in range(3):
        replica(random_tokens())
    assert stand_in.made == 1


def test_gradients_are_never_left_to_a_graph(stand_in: type[StandIn], model: HookedMamba) -> None:
    tokens = random_tokens()
    for _ in range(3):
        model(tokens).sum().backward()
    assert stand_in.made == 0
    assert model.embed.weight.grad is not None


def _under_autocast() -> torch.autocast:
    return torch.autocast("cuda", torch.bfloat16)


class _Counting(torch.utils._python_dispatch.TorchDispatchMode):
    n = 0

    def __torch_dispatch__(
        self, function: object, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        _Counting.n += 1
        return function(*args, **(kwargs or {}))  # type: ignore[operator]


@torch.no_grad()
def test_autocast_and_modes_that_watch_every_operation_run_eagerly(
    stand_in: type[StandIn], model: HookedMamba, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = random_tokens()
    counts = []
    for _ in range(3):
        with _Counting():
            model(tokens)
            counts.append(_Counting.n)
    assert counts == [counts[0], 2 * counts[0], 3 * counts[0]]
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: True)
    for _ in range(3):
        model(tokens)
    assert stand_in.made == 0


@torch.no_grad()
def test_a_pass_inside_torch_compile_or_of_too_many_tokens_runs_eagerly(
    stand_in: type[StandIn], model: HookedMamba, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = random_tokens(2, 9)
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        for _ in range(3):
            model(tokens)
    with monkeypatch.context() as patch:
        patch.setattr(forward_pass, "MAX_TOKENS", 17)
        for _ in range(3):
            model(tokens)
    assert stand_in.made == 0


@torch.no_grad()
def test_a_default_device_is_no_reason_to_run_eagerly(stand_in: type[StandIn], model: HookedMamba) -> None:
    with torch.device("cpu"):
        for _ in range(2):
            model(random_tokens())
    assert stand_in.made == 1


@torch.no_grad()
def test_a_setting_that_changes_the_kernels_makes_another_graph(stand_in: type[StandIn], model: HookedMamba) -> None:
    tokens = random_tokens()
    for _ in range(2):
        model(tokens)
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            model(tokens)
    finally:
        torch.use_deterministic_algorithms(False)
    assert stand_in.made == 2
    model.impl = "reference"
    for _ in range(2):
        model(tokens)
    assert stand_in.made == 3


@torch.no_grad()
def test_weights_edited_in_place_are_seen_and_need_no_new_graph(stand_in: type[StandIn], model: HookedMamba) -> None:
    tokens = random_tokens()
    before = [model(tokens) for _ in range(3)][2]
    model.blocks[0].norm.weight.mul_(1.5)
    after = model(tokens)
    assert not torch.equal(after, before)
    model.load_state_dict(tiny_model(DifferentialConfig(placement=(0,)), seed=3).state_dict())
    loaded = model(tokens)
    assert stand_in.made == 1
    assert torch.equal(loaded, tiny_model(DifferentialConfig(placement=(0,)), seed=3)(tokens))


def _replace_parameter(model: HookedMamba) -> None:
    model.blocks[1].norm.weight = nn.Parameter(model.blocks[1].norm.weight + 1)


def _replace_data(model: HookedMamba) -> None:
    model.blocks[1].norm.weight.data = model.blocks[1].norm.weight.data + 1


def _replace_block(model: HookedMamba) -> None:
    model.blocks[1] = copy.deepcopy(model.blocks[1])


def _assign(model: HookedMamba) -> None:
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)


def _set_eps(model: HookedMamba) -> None:
    model.blocks[1].norm.eps = 0.5


def _move(model: HookedMamba) -> None:
    model.to(torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("change", [_replace_parameter, _replace_data, _replace_block, _assign, _set_eps, _move])
def test_weights_that_are_replaced_or_moved_drop_the_graphs(
    stand_in: type[StandIn], model: HookedMamba, change: Callable[[HookedMamba], None]
) -> None:
    tokens = random_tokens()
    for _ in range(3):
        model(tokens)
    change(model)
    expected = copy.deepcopy(model)(tokens)
    for made in (1, 2, 2):
        assert torch.equal(model(tokens), expected)
        assert stand_in.made == made
    assert n_graphs(model) == 1


class _Squares(nn.Module):
    """Keeps the squares of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.derived: Tensor | None = None
        self.is_in_place = True

    @torch.no_grad()
    def derive(self) -> Tensor:
        if self.derived is None or not self.is_in_place:
            self.derived = self.weight.square()
        return self.derived.copy_(self.weight.square())


def test_what_is_derived_of_edited_weights_is_made_anew_where_it_lies_or_else_the_graphs_go() -> None:
    module = _Squares()
    kept = module.derive()
    watched = Watched(module)
    watched.keep_derived()
    with torch.no_grad():
        module.weight.mul_(3)
    assert watched.change() == "refreshed"
    assert watched.change() == "none"
    assert kept.tolist() == [9, 9, 9]
    with torch.no_grad():
        module.weight.mul_(2)
    module.is_in_place = False
    assert watched.change() == "replaced"
    forgetful = _Squares()
    forgetful.derive()
    watched = Watched(forgetful)
    watched.keep_derived()
    forgetful.derived = None
    assert watched.change() == "replaced"


@torch.no_grad()
def test_weights_that_count_no_edits_are_not_captured(stand_in: type[StandIn]) -> None:
    with torch.inference_mode():
        model = tiny_model()
        for _ in range(3):
            model(random_tokens())
    assert stand_in.made == 0


@torch.no_grad()
def test_the_store_keeps_to_its_bytes_and_drops_what_was_used_longest_ago(
    stand_in: type[StandIn], model: HookedMamba
) -> None:
    shapes = [random_tokens(1, length) for length in (3, 4, 5)]
    size = stand_in.n_bytes + shapes[2].nbytes
    model._graphs = GraphStore(max_bytes=2 * size)
    for tokens in shapes[:2] * 2:
        model(tokens)
    model(shapes[0])
    for _ in range(2):
        model(shapes[2])
    assert stand_in.made == 3
    assert n_graphs(model) == 2
    assert model._graphs.n_bytes <= 2 * size
    model(shapes[0])
    model(shapes[2])
    assert stand_in.made == 3
    for _ in range(2):
        model(shapes[1])
    assert stand_in.made == 4
    model._graphs = GraphStore(max_bytes=10)
    for _ in range(4):
        model(shapes[0])
    assert stand_in.made == 5
    assert model._graphs.n_bytes == n_graphs(model) == 0


@torch.no_grad()
def test_a_capture_that_fails_is_said_once_and_its_calls_stay_eager(
    stand_in: type[StandIn], model: HookedMamba, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def fail(body: Body, inputs: Sequence[Tensor]) -> StandIn:
        tried.append(body)
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(graphs, "capture", fail)
    expected = [model(random_tokens(2, length)) for length in (4, 5)]
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert torch.equal(model(random_tokens(2, 4)), expected[0])
            assert torch.equal(model(random_tokens(2, 5)), expected[1])
    assert len(tried) == 2
    assert [record.getMessage() for record in caplog.records if "no room" in record.getMessage()].__len__() == 1


@torch.no_grad()
def test_an_eager_run_that_is_out_of_memory_gets_that_of_the_graphs(
    stand_in: type[StandIn], model: HookedMamba
) -> None:
    for _ in range(2):
        model(random_tokens())
    store, calls = model._graphs, []
    assert store is not None

    def short_of_memory(inputs: Sequence[Tensor]) -> Outputs:
        calls.append(len(store))
        if len(store):
            raise torch.OutOfMemoryError("no room")
        return Outputs(list(inputs))

    assert len(store) == 1
    store.call(model, "other", short_of_memory, [torch.ones(1)])
    assert calls == [1, 0]


@torch.no_grad()
def test_a_replay_without_memory_for_its_results_runs_eagerly_and_frees_the_graphs(
    stand_in: type[StandIn], model: HookedMamba, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, more = random_tokens(2, 5), random_tokens(2, 8, seed=4)
    expected = model(torch.cat([tokens, more], dim=1))[:, 5:]
    state = CarriedState(model.forward_with_state(tokens)[1])
    steps = [model.step(more[:, at, None], state) for at in range(4)]
    assert n_graphs(model) == 1
    allocate = Copies.allocate

    def short_of_memory(copies: Copies) -> list[Tensor]:
        if n_graphs(model):
            raise torch.OutOfMemoryError("no room")
        return allocate(copies)

    monkeypatch.setattr(Copies, "allocate", short_of_memory)
    steps.append(model.step(more[:, 4, None], state))
    assert n_graphs(model) == 0
    monkeypatch.setattr(Copies, "allocate", allocate)
    steps += [model.step(more[:, at, None], state) for at in range(5, 8)]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_copies_of_a_model_have_graphs_of_their_own(stand_in: type[StandIn], model: HookedMamba) -> None:
    for _ in range(2):
        model(random_tokens())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert other.cuda_graphs
        assert n_graphs(other) == 0
        other.embed.weight.zero_()
        assert not torch.equal(other(random_tokens()), model(random_tokens()))


@torch.no_grad()
def test_the_switch_takes_a_truth_value_and_drops_the_graphs(stand_in: type[StandIn], model: HookedMamba) -> None:
    for _ in range(2):
        model(random_tokens())
    assert model.cuda_graphs
    model.cuda_graphs = False
    for _ in range(3):
        model(random_tokens())
    assert stand_in.made == 1
    with pytest.raises(TypeError, match="yes"):
        model.cuda_graphs = "yes"  # type: ignore[assignment]


@torch.no_grad()
def test_threads_that_share_a_model_get_their_own_results(stand_in: type[StandIn], model: HookedMamba) -> None:
    given = [random_tokens(2, 9, seed=seed) for seed in range(4)]
    model.cuda_graphs = False
    expected = [model(tokens) for tokens in given]
    model.cuda_graphs = True
    wrong: list[int] = []

    @torch.no_grad()
    def read(at: int) -> None:
        for _ in range(5):
            recorder = Recorder()
            logits = model.run_with_hooks(given[at], [("hook_embed", recorder)])
            if not (torch.equal(logits, expected[at]) and torch.equal(recorder.seen["hook_embed"], embed(at))):
                wrong.append(at)

    def embed(at: int) -> Tensor:
        return model.embed(given[at])

    threads = [threading.Thread(target=read, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert stand_in.made == 1


@torch.no_grad()
def test_a_recorder_keeps_what_it_had_from_runs_before(stand_in: type[StandIn], model: HookedMamba) -> None:
    recorder = Recorder(positions=torch.tensor([[2], [0]]))
    given = [random_tokens(2, 9, seed=seed) for seed in range(3)]
    for tokens in given:
        with model.hooks([("blocks.*.hook_resid_post", recorder)]):
            model(tokens)
        recorder.seen["mine"] = torch.zeros(1)
    assert stand_in.made == 1
    model.cuda_graphs = False
    _, cache = model.run_with_cache(given[2])
    assert set(recorder.seen) == {"mine", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"}
    kept = cache["blocks.1.hook_resid_post"]
    assert torch.equal(recorder.seen["blocks.1.hook_resid_post"], torch.stack([kept[0, 2:3], kept[1, 0:1]]))


# ------------------------------------------------------------------ lenses at the end of prompts


@torch.no_grad()
def test_a_lens_of_the_library_is_replayed_at_prompt_ends_and_a_users_is_called(
    stand_in: type[StandIn], model: HookedMamba
) -> None:
    class Counting(TunedLens):
        n_calls = 0

        def forward(self, h: Tensor, idx: int) -> Tensor:
            Counting.n_calls += 1
            return super().forward(h, idx)

    lenses = {"logit": LogitLens.from_model(model), "counting": Counting.from_model(model)}
    results = {graphs_on: [] for graphs_on in (False, True)}
    for graphs_on, read in results.items():
        model.cuda_graphs = graphs_on
        for seed in range(4):
            read.append(needle_trajectory(model, lenses, [needle_sample(seed)]).log_probs)
    assert all((a == b).all() for a, b in zip(results[True], results[False], strict=True))
    assert Counting.n_calls == 2 * 4 * model.cfg.n_layers
    assert lenses["counting"].graphs is None
    assert len(lenses["logit"].graphs) == 1
    assert stand_in.made == 2
    model.unembed.weight.mul_(2)
    sample = needle_sample(0)
    by_graph = needle_trajectory(model, lenses["logit"], [sample]).log_probs
    model.cuda_graphs = False
    assert (needle_trajectory(model, lenses["logit"], [sample]).log_probs == by_graph).all()


def needle_sample(seed: int) -> NeedleSample:
    return sample_of(random_tokens(1, 9, seed=seed)[0].numpy(), [(3,), (5,)], answer=0, seed=seed)


# ------------------------------------------------------------------ generation


@torch.no_grad()
def test_generation_by_graph_gives_the_eager_tokens(stand_in: type[StandIn], model: HookedMamba) -> None:
    prompts = [random_tokens(2, 5, seed=seed) for seed in range(3)]
    model.cuda_graphs = False
    expected = [model.generate(prompt, 8) for prompt in prompts]
    model.cuda_graphs = True
    for prompt, tokens in zip(prompts, expected, strict=True):
        assert torch.equal(model.generate(prompt, 8), tokens)
    # One of the prompt, one of a step.
    assert stand_in.made == 2
    assert len({tuple(tokens.flatten().tolist()) for tokens in expected}) == 3


@torch.no_grad()
def test_two_generations_that_take_turns_keep_their_own_states(stand_in: type[StandIn], model: HookedMamba) -> None:
    prompts = [random_tokens(2, 5, seed=seed) for seed in range(2)]
    given = [random_tokens(2, 6, seed=10 + seed) for seed in range(2)]
    model.cuda_graphs = False
    expected = [model(torch.cat([prompt, more], dim=1))[:, 5:] for prompt, more in zip(prompts, given, strict=True)]
    model.cuda_graphs = True
    states = [CarriedState(model.forward_with_state(prompt)[1]) for prompt in prompts]
    steps: list[list[Tensor]] = [[], []]
    for at, which in enumerate([0, 0, 0, 1, 0, 1, 1, 1, 0, 1, 1, 0]):
        if at == 7:
            model.blocks[0].norm.weight = nn.Parameter(model.blocks[0].norm.weight.clone())
        if at == 9:
            with model.hooks([("hook_embed", lambda value, name: None)]):
                steps[which].append(model.step(given[which][:, len(steps[which]), None], states[which]))
            continue
        steps[which].append(model.step(given[which][:, len(steps[which]), None], states[which]))
    for logits, wanted in zip(steps, expected, strict=True):
        torch.testing.assert_close(torch.cat(logits, dim=1), wanted, rtol=1e-5, atol=1e-5)
    # One of the prompt, and the step's before and after a parameter was replaced.
    assert stand_in.made == 3
    model.cuda_graphs = False
    model.step(given[0][:, :1], states[0])


# ------------------------------------------------------------------ the capture itself, with PyTorch's part replaced


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of `torch.cuda` by a capture, which here only runs the function."""
    calls: list[str] = []

    @contextmanager
    def entered(name: str) -> Iterator[None]:
        calls.append(name)
        yield
        calls.append(f"{name} ended")

    stream = SimpleNamespace(wait_stream=lambda other: None)
    segments = [{"segment_pool_id": (0, at), "total_size": 10**at} for at in range(4)]
    fakes = {
        "graph_pool_handle": lambda: (0, 3),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: calls.append("replay")),
        "current_stream": lambda device: stream,
        "Stream": lambda device: stream,
        "device": lambda device: entered("device"),
        "stream": lambda stream: entered("stream"),
        "graph": lambda graph, **options: entered(f"capture {options['capture_error_mode']}"),
        "memory_snapshot": lambda: segments,
        "is_current_stream_capturing": lambda: False,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, lambda *args, name=name: calls.append(f"{name} {args}"), raising=False)
    return calls


def test_a_capture_follows_a_run_on_its_stream_and_counts_its_pools_memory(fake_cuda: list[str]) -> None:
    def double(tensors: Sequence[Tensor]) -> Outputs:
        fake_cuda.append("run")
        return Outputs([2 * tensors[0]], form="doubled")

    graph = CudaGraph(double, [torch.arange(3)])
    capture = "capture thread_local"
    assert fake_cuda == ["device", "stream", "run", capture, "run", f"{capture} ended", "stream ended", "device ended"]
    assert (graph.n_bytes, graph.outputs.form, graph.outputs.tensors[0].tolist()) == (1000, "doubled", [0, 2, 4])
    graph.replay()
    assert fake_cuda[-1] == "replay"


def test_a_capture_that_cuda_breaks_off_is_mended_and_said(fake_cuda: list[str]) -> None:
    def wait(tensors: Sequence[Tensor]) -> Outputs:
        if fake_cuda[-1].startswith("capture"):
            raise RuntimeError("operation not permitted when stream is capturing")
        return Outputs(list(tensors))

    with pytest.raises(RuntimeError, match="stream is capturing"):
        CudaGraph(wait, [torch.arange(3)])
    mended = ["_cuda_endAllocateToPool (None, (0, 3))", "_cuda_releasePool (None, (0, 3))", "capture thread_local"]
    assert fake_cuda[-4:-1] == mended


# ------------------------------------------------------------------ on a GPU

LENGTHS = (1, 7, 63, 130, 500, 2047)


DIFF_S6 = {"subtract_at": "gated", "lambda_form": "sigmoid"}
HEAD_GATE = {"subtract_at": "scan", "lambda_form": "token_head_gate", "normalisation": "none"}


def gpu_model(placement: str, dtype: torch.dtype = torch.float32, **changes: Any) -> HookedMamba:
    cfg = HookedMambaConfig(
        d_model=64,
        n_layers=4,
        d_vocab=96,
        d_state=32,
        d_head=32,
        differential=DifferentialConfig(placement=placement, **changes),  # type: ignore[arg-type]
    )
    torch.manual_seed(0)
    model = HookedMamba(cfg).to("cuda", dtype)
    for name, parameter in model.named_parameters():
        if name.endswith(("A_log", "D", "dt_bias", "lambda_q1", "lambda_w", "lambda_b")):
            parameter.data = parameter.data.float()
    return model.eval()


def gpu_tokens(length: int, batch: int = 2, seed: int = 0) -> Tensor:
    numbers = torch.Generator("cuda").manual_seed(1000 * seed + length)
    return torch.randint(0, 96, (batch, length), device="cuda", generator=numbers)


def gpu_calls(length: int, state: object) -> dict[str, Callable[[HookedMamba, Tensor], object]]:
    resid_post = "blocks.*.hook_resid_post"
    calls: dict[str, Callable[[HookedMamba, Tensor], object]] = {
        "forward": lambda model, tokens: model(tokens),
        "stopped": lambda model, tokens: model(tokens, stop_at_block=3),
        "cached stream": lambda model, tokens: model.run_with_cache(tokens, resid_post),
        "all cached": lambda model, tokens: model.run_with_cache(tokens),
        "stream": lambda model, tokens: residual_stream(model, tokens, dtype=torch.bfloat16),
        "padded": lambda model, tokens: model(tokens, lengths=[length, 1 + int(tokens[0, 0]) % length]),
        "state out": lambda model, tokens: model.forward_with_state(tokens, last_only=True),
        "padded state out": lambda model, tokens: model.forward_with_state(
            tokens, lengths=[1 + int(tokens[0, 0]) % length, length]
        ),
        "state in": lambda model, tokens: model.forward_with_state(tokens, state),
    }
    if length == 63:
        calls["costly"] = lambda model, tokens: model.run_with_cache(tokens, "blocks.1.*hook_state")
        calls["writes"] = lambda model, tokens: model.run_with_cache(tokens, "blocks.*.hook_write")
    return calls


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("placement", "dtype", "changes"),
    [
        ("alternate", torch.float32, {}),
        ("alternate", torch.bfloat16, {}),
        ("all", torch.bfloat16, {}),
        ("alternate", torch.bfloat16, DIFF_S6),
        ("alternate", torch.float32, HEAD_GATE),
    ],
    ids=["alternate-float32", "alternate-bfloat16", "all-bfloat16", "diff-s6", "head gate"],
)
@pytest.mark.parametrize("length", LENGTHS)
@torch.no_grad()
def test_a_graph_gives_the_eager_numbers(
    length: int, placement: str, dtype: torch.dtype, changes: dict[str, str]
) -> None:
    model = gpu_model(placement, dtype, **changes)
    given = [gpu_tokens(length, seed=seed) for seed in range(3)]
    _, state = model.forward_with_state(gpu_tokens(5))
    for name, call in gpu_calls(length, state).items():
        model.cuda_graphs = False
        expected = [tensors_of(call(model, tokens)) for tokens in given]
        model.cuda_graphs = True
        results = [tensors_of(call(model, tokens)) for tokens in given]
        assert n_graphs(model) == 1, name
        for wanted, result in zip(expected, results, strict=True):
            assert len(wanted) == len(result), name
            assert all(torch.equal(a, b) for a, b in zip(result, wanted, strict=True)), name


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("placement", "changes"),
    [("alternate", {}), ("all", {}), ("alternate", DIFF_S6), ("all", HEAD_GATE)],
    ids=["alternate", "all", "diff-s6", "head gate"],
)
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_generation_by_graph_gives_the_eager_tokens_on_a_gpu(
    batch: int, placement: str, changes: dict[str, str]
) -> None:
    model, prompts = gpu_model(placement, **changes), [gpu_tokens(9, batch, seed) for seed in range(3)]
    model.cuda_graphs = False
    expected = [model.generate(prompt, 12) for prompt in prompts]
    model.cuda_graphs = True
    given = [model.generate(prompt, 12) for prompt in prompts]
    assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))
    assert n_graphs(model) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("length", [7, 130])
@torch.no_grad()
def test_a_graph_whose_memory_starts_as_nan_gives_the_eager_numbers(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, given = gpu_model("alternate"), [gpu_tokens(length, seed=seed) for seed in range(3)]
    model.cuda_graphs = False
    expected = [tensors_of(model.run_with_cache(tokens)) for tokens in given]
    model.cuda_graphs = True
    empty, empty_like = torch.empty, torch.empty_like

    def poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: object, **kwargs: object) -> Tensor:
            tensor = make(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() and tensor.is_cuda else tensor

        return made

    monkeypatch.setattr(torch, "empty", poisoned(empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(empty_like))
    for tokens, wanted in zip(given, expected, strict=True):
        result = tensors_of(model.run_with_cache(tokens))
        assert all(torch.equal(a, b) for a, b in zip(result, wanted, strict=True))
    assert n_graphs(model) == 1


@pytest.mark.gpu
@torch.no_grad()
def test_interventions_and_users_hooks_act_beside_graphs() -> None:
    from diffmamba_interp.interventions import SetLambda, intervene

    model, tokens = gpu_model("alternate"), gpu_tokens(130)

    def results() -> list[Tensor]:
        clean = model(tokens)
        with intervene(model, SetLambda(value=0.0)):
            patched = model(tokens)
            _, cache = model.run_with_cache(tokens, "blocks.*.hook_resid_post")
        doubled = model.run_with_hooks(tokens, [("blocks.1.hook_resid_pre", lambda value, name: 2 * value)])
        return [clean, patched, doubled, *cache.values()]

    model.cuda_graphs = False
    expected = results()
    model.cuda_graphs = True
    for _ in range(4):
        assert all(torch.equal(a, b) for a, b in zip(results(), expected, strict=True))
    assert n_graphs(model) == 1
    assert not torch.equal(expected[0], expected[1])


@pytest.mark.gpu
@pytest.mark.parametrize("placement", ["alternate", "all"])
@torch.no_grad()
def test_a_graph_reads_edited_loaded_and_moved_weights(placement: str) -> None:
    model, other, tokens = gpu_model(placement), gpu_model(placement), gpu_tokens(130)
    for _ in range(3):
        model(tokens)
    edits = {
        "gain": lambda m: m.blocks[0].norm.weight.mul_(1.5),
        "branch": lambda m: m.blocks[m.cfg.differential_blocks[0]].mixer.subtrahend.in_proj.weight.mul_(0.5),
        "lambda": lambda m: m.blocks[m.cfg.differential_blocks[0]].mixer.lambda_q1.add_(0.01),
        "embedding": lambda m: m.embed.weight.mul_(1.1),
    }
    for name, edit in edits.items():
        before = model(tokens)
        edit(model)
        edit(other)
        assert n_graphs(model) == 1, name
        after = model(tokens)
        assert n_graphs(model) == 1, name
        other.cuda_graphs = False
        assert torch.equal(after, other(tokens)), name
        assert not torch.equal(after, before), name
    model.load_state_dict(gpu_model(placement).state_dict())
    fresh = gpu_model(placement)
    fresh.cuda_graphs = False
    assert torch.equal(model(tokens), fresh(tokens))
    model.cpu().cuda()
    for _ in range(3):
        assert torch.equal(model(tokens), fresh(tokens))
    with torch.inference_mode():
        assert torch.equal(model(tokens), fresh(tokens))
        model(tokens).add_(1)
    model(tokens).add_(1)
    assert n_graphs(model) == 1


@pytest.mark.gpu
@torch.no_grad()
def test_a_capture_that_fails_leaves_everything_else_working(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = gpu_model("alternate"), gpu_tokens(63)
    model.cuda_graphs = False
    expected = model(tokens)
    model.cuda_graphs = True
    norm_forward = type(model.ln_final).forward

    def waiting(self: nn.Module, x: Tensor, *, fused: bool = False) -> Tensor:
        float(x.sum())  # A capture may not wait for the GPU.
        return norm_forward(self, x, fused=fused)

    stream = torch.cuda.current_stream()
    with monkeypatch.context() as patch:
        patch.setattr(type(model.ln_final), "forward", waiting)
        for _ in range(3):
            assert torch.equal(model(tokens), expected)
    assert n_graphs(model) == 0
    assert torch.cuda.current_stream() == stream
    assert 0 <= float(torch.rand((), device="cuda")) < 1
    torch.cuda.synchronize()
    model.cuda_graphs = True
    for _ in range(3):
        assert torch.equal(model(tokens), expected)
    assert n_graphs(model) == 1


@pytest.mark.gpu
def test_two_threads_on_streams_of_their_own_share_graphs() -> None:
    model = gpu_model("all")
    lengths = (7, 63, 130)
    given = {(at, n): gpu_tokens(n, seed=at) for at, n in itertools.product(range(4), lengths)}
    model.cuda_graphs = False
    with torch.no_grad():
        expected = {key: model(tokens) for key, tokens in given.items()}
    torch.cuda.synchronize()
    model.cuda_graphs = True
    wrong: list[object] = []

    @torch.no_grad()
    def read(at: int) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for _, n in itertools.product(range(20), lengths):
                    if not torch.equal(model(given[at, n]), expected[at, n]):
                        wrong.append((at, n))
        except Exception as error:  # noqa: BLE001
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert n_graphs(model) == 3


@pytest.mark.gpu
@torch.no_grad()
def test_the_memory_of_graphs_is_known_and_given_back() -> None:
    model = gpu_model("alternate")
    for _ in range(2):
        model(gpu_tokens(2047, batch=8))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    assert model._graphs is not None
    n_bytes = model._graphs.n_bytes
    assert n_bytes > 2**20
    model.cuda_graphs = False
    torch.cuda.empty_cache()
    assert held - torch.cuda.memory_reserved() == pytest.approx(n_bytes, rel=0.3)
