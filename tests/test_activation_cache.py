import pytest
import torch

from diffmamba_interp import ActivationCache


@pytest.fixture
def cache() -> ActivationCache:
    value = torch.ones(4, 8, requires_grad=True)
    return ActivationCache({"hook_b": value * 2, "hook_a": torch.zeros(3)})


def test_a_cache_is_a_mapping_in_the_order_of_computation(cache: ActivationCache) -> None:
    assert list(cache) == ["hook_b", "hook_a"]
    assert len(cache) == 2
    assert "hook_a" in cache
    assert cache["hook_a"].shape == (3,)
    assert dict(cache.items()).keys() == {"hook_a", "hook_b"}


def test_a_missing_name_says_what_is_there_and_what_to_do(cache: ActivationCache) -> None:
    with pytest.raises(KeyError) as caught:
        cache["hook_c"]
    assert "'hook_c' was not cached. Did you mean" in str(caught.value)
    assert "hook_b, hook_a" in str(caught.value)
    assert "names_filter" in str(caught.value)
    with pytest.raises(KeyError, match="Cached: nothing"):
        ActivationCache({})["hook_a"]


def test_a_cache_cannot_be_written_to(cache: ActivationCache) -> None:
    with pytest.raises(TypeError):
        cache["hook_a"] = torch.ones(3)  # type: ignore[index]


def test_later_changes_of_the_given_mapping_do_not_reach_the_cache() -> None:
    values = {"hook_a": torch.zeros(1)}
    cache = ActivationCache(values)
    values.clear()
    assert list(cache) == ["hook_a"]


def test_memory_shared_by_two_activations_counts_once() -> None:
    value = torch.zeros(10)
    assert ActivationCache({"a": value, "b": value, "c": value[:5]}).n_bytes == 40
    assert ActivationCache({"a": value, "b": value.clone()}).n_bytes == 80
    assert "2 activations" in repr(ActivationCache({"a": value, "b": value}))


def test_detach_cuts_the_graph_and_leaves_the_original(cache: ActivationCache) -> None:
    assert cache["hook_b"].requires_grad
    assert not cache.detach()["hook_b"].requires_grad
    assert cache["hook_b"].requires_grad


def test_to_moves_every_tensor(cache: ActivationCache) -> None:
    assert {value.device.type for value in cache.to("meta").values()} == {"meta"}
    assert {value.device.type for value in cache.values()} == {"cpu"}
