"""The page of other training seeds says what its files say, of the weights that are shipped."""

from analyses.retrieval import seeds_page
from diffmamba_interp.lens.card import weights_sha256
from diffmamba_interp.models.demo import DEMO_NAMES, demo_folder


def test_the_page_is_what_its_files_give() -> None:
    assert (seeds_page.HERE / "SEEDS.md").read_text(encoding="utf-8") == seeds_page.page()


def test_the_counts_are_of_the_models_that_are_shipped() -> None:
    assert {name: weights_sha256(demo_folder(name)) for name in DEMO_NAMES} == seeds_page.WEIGHTS
    assert {model for model, _, _ in seeds_page.counts()} == set(DEMO_NAMES)


def test_no_cell_has_more_right_answers_than_prompts() -> None:
    assert all(0 <= right <= n for right, n in seeds_page.counts().values())
