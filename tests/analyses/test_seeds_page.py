"""The page of other training seeds says what its files say."""

from analyses.retrieval import seeds_page


def test_the_page_is_what_its_files_give() -> None:
    assert (seeds_page.HERE / "SEEDS.md").read_text(encoding="utf-8") == seeds_page.page()
