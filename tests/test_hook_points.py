import copy
import pickle
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diffmamba_interp import hook_points
from diffmamba_interp.hook_points import HookPoint, attached, name_hook_points, select_names


class Chain(nn.Module):
    """Three points in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.first = HookPoint()
        self.hook_state = HookPoint()
        self.last = HookPoint(broadcast=True)
        self.points = name_hook_points(self)

    def forward(self, value: Tensor) -> Tensor:
        return self.last(self.hook_state(self.first(value)).sum())


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def value() -> Tensor:
    return torch.arange(6.0).reshape(2, 3)


def double(value: Tensor, name: str) -> Tensor:
    return 2 * value


def add_one(value: Tensor, name: str) -> Tensor:
    return value + 1


def test_a_point_without_functions_is_the_identity_itself(chain: Chain, value: Tensor) -> None:
    assert chain.first(value) is value
    assert not chain.first.is_hooked


def test_a_function_gets_the_value_and_the_name_and_replaces_by_what_it_returns(chain: Chain, value: Tensor) -> None:
    seen = []
    with attached(chain.points, [("first", lambda v, name: seen.append((name, v)))]):
        assert chain.first(value) is value
    with attached(chain.points, [("first", double)]):
        assert torch.equal(chain.first(value), 2 * value)
    assert seen[0][0] == "first"
    assert seen[0][1] is value


def test_functions_run_in_the_order_in_which_they_were_attached(chain: Chain, value: Tensor) -> None:
    with attached(chain.points, [("first", double), ("first", add_one)]):
        assert torch.equal(chain.first(value), 2 * value + 1)
    with attached(chain.points, [("first", add_one)]), attached(chain.points, [("first", double)]):
        assert torch.equal(chain.first(value), 2 * (value + 1))


def test_the_same_function_attached_twice_acts_twice(chain: Chain, value: Tensor) -> None:
    with attached(chain.points, [("first", double), ("first", double)]):
        assert torch.equal(chain.first(value), 4 * value)
    assert not chain.first.is_hooked


def test_leaving_an_inner_context_keeps_the_order_of_the_outer_one(chain: Chain, value: Tensor) -> None:
    with attached(chain.points, [("first", double), ("first", add_one)]):
        with attached(chain.points, [("first", double)]):
            assert torch.equal(chain.first(value), 2 * (2 * value + 1))
        assert torch.equal(chain.first(value), 2 * value + 1)


def test_contexts_may_be_left_in_any_order(chain: Chain, value: Tensor) -> None:
    outer, inner = attached(chain.points, [("first", double)]), attached(chain.points, [("first", add_one)])
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert torch.equal(chain.first(value), value + 1)
    inner.__exit__(None, None, None)
    assert chain.first(value) is value


def test_functions_are_removed_when_the_block_or_a_function_raises(chain: Chain, value: Tensor) -> None:
    def fail(value: Tensor, name: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), attached(chain.points, [("first", double), ("first", fail)]):
        chain(value)
    assert not any(point.is_hooked for point in chain.points.values())


def test_nothing_is_attached_if_one_of_the_names_does_not_exist(chain: Chain) -> None:
    with pytest.raises(KeyError), attached(chain.points, [("first", double), ("nowhere", double)]):
        pass
    assert not chain.first.is_hooked


def test_a_function_attached_during_a_call_acts_from_the_next_call_on(chain: Chain, value: Tensor) -> None:
    def attach_another(value: Tensor, name: str) -> None:
        chain.first.attach(double)

    with attached(chain.points, [("first", attach_another)]):
        assert torch.equal(chain.first(value), value)
        assert torch.equal(chain.first(value), 2 * value)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("through_view", [False, True])
def test_an_edit_in_place_is_an_error_that_says_what_to_do(
    chain: Chain, value: Tensor, inference: bool, through_view: bool
) -> None:
    def edit(value: Tensor, name: str) -> None:
        (value[:, 0] if through_view else value).zero_()

    refused = pytest.raises(RuntimeError, match=r"hook on 'first' changed its value in place.*value\.clone\(\)")
    with torch.inference_mode(inference), attached(chain.points, [("first", edit)]), refused:
        chain.first(value * 1)


def test_inference_mode_serves_functions_that_edit_a_clone(chain: Chain, value: Tensor) -> None:
    def edit(value: Tensor, name: str) -> Tensor:
        edited = value.clone()
        edited[:, 0] = 5.0
        return edited

    with torch.inference_mode(), attached(chain.points, [("first", edit)]):
        out = chain.first(value * 1)
    assert out[:, 0].tolist() == [5.0, 5.0]
    assert not out.requires_grad


def test_an_error_inside_a_function_arrives_unchanged(chain: Chain, value: Tensor) -> None:
    def fail(value: Tensor, name: str) -> None:
        raise RuntimeError("mine")

    with torch.inference_mode(), attached(chain.points, [("first", fail)]), pytest.raises(RuntimeError, match="^mine$"):
        chain.first(value * 1)


@pytest.mark.parametrize("returned", [3.0, [1.0], "value"])
def test_only_tensors_can_replace_a_value(chain: Chain, value: Tensor, returned: object) -> None:
    refused = pytest.raises(TypeError, match="return a tensor to replace the value, or None")
    with attached(chain.points, [("first", lambda v, name: returned)]), refused:  # type: ignore[list-item,return-value]
        chain.first(value)


def test_a_replacement_of_another_shape_is_an_error(chain: Chain, value: Tensor) -> None:
    refused = pytest.raises(ValueError, match=r"returned shape \(1, 3\).*shape \(2, 3\)")
    with attached(chain.points, [("first", lambda v, name: v[:1])]), refused:
        chain.first(value)


def test_a_replacement_takes_the_dtype_of_the_value(chain: Chain, value: Tensor) -> None:
    with attached(chain.points, [("first", lambda v, name: v.double())]):
        assert chain.first(value).dtype == torch.float32


def test_a_broadcasting_point_takes_one_value_per_sample(chain: Chain, value: Tensor) -> None:
    scalar = value.sum()
    for replacement in (torch.ones(2, 1, 1), torch.ones(2, 5, 1)):
        with attached(chain.points, [("last", lambda v, name, new=replacement: new)]):
            assert torch.equal(chain.last(scalar), replacement)
    for replacement in (torch.ones(1), torch.ones(1, 1, 1, 1)):
        with attached(chain.points, [("last", lambda v, name, new=replacement: new)]):
            assert chain.last(scalar).shape == ()
    refused = pytest.raises(ValueError, match=r"\[batch, 1, 1\]")
    with attached(chain.points, [("last", lambda v, name: torch.ones(2))]), refused:
        chain.last(scalar)


def test_gradients_flow_through_replacements(chain: Chain, value: Tensor) -> None:
    scale = torch.tensor(3.0, requires_grad=True)
    with attached(chain.points, [("first", lambda v, name: scale * v)]):
        chain(value).backward()
    assert scale.grad == value.sum()


def test_functions_act_only_on_the_thread_that_attached_them(chain: Chain, value: Tensor) -> None:
    outs: list[Tensor] = []
    with attached(chain.points, [("first", double)]):
        other = threading.Thread(target=lambda: outs.append(chain.first(value)))
        other.start()
        other.join()
        assert torch.equal(chain.first(value), 2 * value)
    assert outs[0] is value


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])  # noqa: S301
def test_a_copy_of_a_hooked_module_has_no_functions(chain: Chain, value: Tensor, duplicate: object) -> None:
    with attached(chain.points, [("first", lambda v, name: 2 * v)]):
        twin = duplicate(chain)  # type: ignore[operator]
        assert chain.first.is_hooked
    assert not twin.first.is_hooked
    assert twin.points["first"] is twin.first
    assert twin.first.name == "first"


# ------------------------------------------------------------------ selecting names


def test_no_filter_selects_all_but_the_costly_points(chain: Chain) -> None:
    assert select_names(chain.points, None) == ["first", "last"]


def test_names_globs_lists_and_predicates_select_in_the_order_of_the_model(chain: Chain) -> None:
    assert select_names(chain.points, "last") == ["last"]
    assert select_names(chain.points, "*st") == ["first", "last"]
    assert select_names(chain.points, ["last", "fir*", "last"]) == ["first", "last"]
    assert select_names(chain.points, lambda name: "t" in name) == ["first", "hook_state", "last"]
    assert select_names(chain.points, ()) == []


@pytest.mark.parametrize("names", ["frist", ["first", "frist"], "frist*"])
def test_a_name_that_does_not_exist_lists_those_that_do(chain: Chain, names: object) -> None:
    with pytest.raises(KeyError) as caught:
        select_names(chain.points, names)  # type: ignore[arg-type]
    assert "frist" in str(caught.value)
    assert "first, hook_state, last" in str(caught.value)


def test_a_function_that_would_never_be_called_is_refused(chain: Chain) -> None:
    for names in ([], lambda name: name.endswith("nowhere")):
        with pytest.raises(KeyError, match="selects no hook point"), attached(chain.points, [(names, double)]):
            pass


# ------------------------------------------------------------------ threads


def run_in_a_new_thread(function: Callable[[], object]) -> None:
    worker = threading.Thread(target=function)
    worker.start()
    worker.join()


def test_a_thread_started_inside_is_told_once_that_it_sees_no_hooks(
    chain: Chain, value: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    hook_points._say_that_hooks_are_not_seen.cache_clear()
    with attached(chain.points, [("first", double)]):
        run_in_a_new_thread(lambda: chain.first(value))
        run_in_a_new_thread(lambda: chain.first(value))
    assert ["all_threads=True" in record.message for record in caplog.records] == [True]


def test_a_thread_that_ran_before_is_left_alone(chain: Chain, value: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    hook_points._say_that_hooks_are_not_seen.cache_clear()
    begun, go = threading.Event(), threading.Event()

    def use() -> None:
        begun.set()
        go.wait(10)
        chain.first(value)

    worker = threading.Thread(target=use)
    worker.start()
    begun.wait(10)
    with attached(chain.points, [("first", double)]):
        go.set()
        worker.join()
    assert not caplog.records


def test_hooks_are_carried_over_to_all_threads_when_asked(chain: Chain, value: Tensor) -> None:
    outs: list[Tensor] = []
    with attached(chain.points, [("first", double)], all_threads=True):
        run_in_a_new_thread(lambda: outs.append(chain.first(value)))
    assert torch.equal(outs[0], 2 * value)
    assert chain.first(value) is value


# ------------------------------------------------------------------ replacements of another kind


@pytest.mark.parametrize("kind", [torch.complex64, torch.bool])
def test_a_replacement_that_would_lose_what_it_holds_is_refused(chain: Chain, value: Tensor, kind: torch.dtype) -> None:
    refused = pytest.raises(TypeError, match="'first' returned dtype.*cannot hold it")
    with attached(chain.points, [("first", lambda v, name: v.to(kind))]), refused:
        chain.first(value)


def test_a_scalar_after_one_value_per_sample_replaces_them_all(chain: Chain, value: Tensor) -> None:
    hooks = [("last", lambda v, name: torch.ones(2, 1, 1)), ("last", lambda v, name: torch.tensor(0.5))]
    with attached(chain.points, hooks):
        assert torch.equal(chain.last(value.sum()), torch.full((2, 1, 1), 0.5))
