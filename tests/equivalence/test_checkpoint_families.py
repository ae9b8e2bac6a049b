"""The table of checkpoint families: each loads with the logits of transformers, or is refused with the reason."""

import os
import re

import pytest

from tests.equivalence.checkpoint_families import FAMILIES, PAGE, REMEDY, Family, all_outcomes, page


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return all_outcomes(tmp_path_factory.mktemp("families"))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_of_checkpoints_loads_with_its_logits_or_is_refused_with_the_reason(
    family: Family, outcomes: dict[str, str]
) -> None:
    if family.refused is None:
        assert outcomes[family.name] == ""
    else:
        assert re.search(family.refused, outcomes[family.name])
        assert "FOLDER" in outcomes[family.name]


def test_the_documentation_says_what_happens(outcomes: dict[str, str]) -> None:
    if os.environ.get("WRITE_PAGES"):
        PAGE.write_text(page(outcomes), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(outcomes), f"write it anew: {REMEDY}"
