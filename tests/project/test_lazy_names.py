"""Names that are loaded when first used: whole, and clear about what keeps one from loading."""

import gc
import importlib
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import diffmamba_interp
from diffmamba_interp.lazy_names import _homes

LAZY = [
    "diffmamba_interp",
    *(f"diffmamba_interp.{name}" for name in ("lens", "needle", "ops.kernels", "text")),
]

# Each prints how the error looks to a user of the package.
WAYS_TO_ASK = [
    "from diffmamba_interp import extract_attention",
    "from diffmamba_interp import *",
    "import diffmamba_interp; diffmamba_interp.extract_attention",
    "import diffmamba_interp; hasattr(diffmamba_interp, 'extract_attention')",
    "import diffmamba_interp; getattr(diffmamba_interp, 'extract_attention', None)",
]


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package as it is before any public name was used."""
    for name in diffmamba_interp.__all__:
        monkeypatch.delitem(vars(diffmamba_interp), name, raising=False)
    return diffmamba_interp


@pytest.mark.parametrize("ask", WAYS_TO_ASK)
@pytest.mark.parametrize(
    "error", [AttributeError("module 'triton' has no attribute 'knobs'"), ModuleNotFoundError("No module named 'x'")]
)
def test_what_keeps_a_name_from_loading_is_said_however_it_is_asked_for(
    unloaded: ModuleType, monkeypatch: pytest.MonkeyPatch, ask: str, error: Exception
) -> None:
    def import_module(name: str) -> ModuleType:
        if name == "diffmamba_interp.implicit_attention":
            raise error
        return sys.modules[name]

    for name in diffmamba_interp.__all__:
        getattr(diffmamba_interp, name)
        monkeypatch.delitem(vars(diffmamba_interp), name)
    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(ImportError, match=str(error)) as raised:
        exec(ask, {})
    assert error in (raised.value, raised.value.__cause__)


@pytest.mark.parametrize("is_collecting", [True, False])
def test_garbage_is_looked_for_after_a_load_as_before_it(
    unloaded: ModuleType, monkeypatch: pytest.MonkeyPatch, is_collecting: bool
) -> None:
    seen = []

    def import_module(name: str) -> ModuleType:
        seen.append(gc.isenabled())
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    try:
        if not is_collecting:
            gc.disable()
        with pytest.raises(ModuleNotFoundError):
            unloaded.HookedMamba  # noqa: B018
        assert (seen, gc.isenabled()) == ([False], is_collecting)
    finally:
        gc.enable()


def test_a_name_that_does_not_exist_is_an_attribute_error_that_lists_those_that_do(unloaded: ModuleType) -> None:
    with pytest.raises(AttributeError, match="no attribute 'extract_attentions'.*extract_attention, "):
        _ = unloaded.extract_attentions
    assert not hasattr(unloaded, "extract_attentions")
    with pytest.raises(ImportError, match="cannot import name 'extract_attentions'"):
        exec("from diffmamba_interp import extract_attentions", {})


@pytest.mark.parametrize("package", LAZY)
def test_every_public_name_loads_and_no_other_is_declared(package: str) -> None:
    lazy = importlib.import_module(package)
    homes = _homes(Path(str(lazy.__file__)))
    assert sorted(homes) == sorted(lazy.__all__)
    for name, home in homes.items():
        assert lazy.__getattr__(name) is getattr(importlib.import_module(home), name)


@pytest.mark.parametrize("package", LAZY)
def test_no_lazy_name_is_that_of_a_module_which_would_take_its_place(package: str) -> None:
    lazy = importlib.import_module(package)
    assert not {module.name for module in pkgutil.iter_modules(lazy.__path__)} & set(lazy.__all__)
    assert {module.name for module in pkgutil.iter_modules(lazy.__path__)}


def test_dir_and_the_star_give_each_public_name_once(unloaded: ModuleType) -> None:
    assert [name for name in dir(unloaded) if name in unloaded.__all__] == unloaded.__all__
    names: dict[str, object] = {}
    exec("from diffmamba_interp import *", names)
    assert sorted(names.keys() - {"__builtins__"}) == unloaded.__all__
    assert [name for name in dir(unloaded) if name in unloaded.__all__] == unloaded.__all__


def test_public_names_can_be_pickled_by_reference_into_a_process_that_has_not_loaded_them() -> None:
    names = [diffmamba_interp.extract_attention, diffmamba_interp.HookedMamba, diffmamba_interp.TunedLens]
    program = "import pickle, sys; print(*(x.__name__ for x in pickle.load(sys.stdin.buffer)))"
    run = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(names), capture_output=True, check=True)
    assert run.stdout.decode().split() == ["extract_attention", "HookedMamba", "TunedLens"]
