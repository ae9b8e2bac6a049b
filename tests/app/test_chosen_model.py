"""Which of two models is subtracted from which, on every page."""

from typing import Any, cast

import pytest

from app.shell.loading import ChosenModel, baseline_last
from diffmamba_interp import DifferentialConfig, HookedMamba
from tests.models.tiny import tiny_model


def chosen(name: str, model: HookedMamba) -> ChosenModel:
    return ChosenModel(name=name, key=cast("Any", None), cfg=model.cfg, tokenizer=None)


PLAIN = chosen("plain", tiny_model())
DIFFERENTIAL = chosen("differential", tiny_model(DifferentialConfig(placement=(0,))))
OTHER = chosen("other", tiny_model(DifferentialConfig()))


@pytest.mark.parametrize(
    ("models", "names"),
    [
        ((PLAIN, DIFFERENTIAL), ["differential", "plain"]),
        ((DIFFERENTIAL, PLAIN), ["differential", "plain"]),
        ((DIFFERENTIAL, OTHER), ["differential", "other"]),
        ((OTHER, DIFFERENTIAL), ["other", "differential"]),
        ((PLAIN,), ["plain"]),
    ],
)
def test_a_plain_model_is_the_baseline_and_of_two_others_the_second(
    models: tuple[ChosenModel, ...], names: list[str]
) -> None:
    assert [model.name for model in baseline_last(models)] == names
