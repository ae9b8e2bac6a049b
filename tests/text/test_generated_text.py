import hashlib
import re

import pytest

from diffmamba_interp.needle.vocabulary import BABI, OWN
from diffmamba_interp.text.generated_text import generated_document, generated_documents


def test_the_text_never_changes() -> None:
    text = "\n".join(generated_documents(n_chars=50_000))
    assert hashlib.sha256(text.encode()).hexdigest() == EXPECTED_SHA256


def test_documents_can_be_made_from_any_number_on() -> None:
    some = generated_documents(n_chars=20_000, seed=3)
    assert generated_documents(n_chars=len(some[2]), seed=3, start=2) == [some[2]]
    assert generated_document(seed=3, index=2) == some[2]
    assert generated_document(seed=4, index=2) != some[2]


def test_there_is_as_much_text_as_was_asked_for() -> None:
    documents = generated_documents(n_chars=10_000)
    assert sum(map(len, documents)) >= 10_000
    assert sum(map(len, documents[:-1])) < 10_000
    with pytest.raises(ValueError, match="n_chars is 0"):
        generated_documents(n_chars=0)


def test_no_label_of_the_retrieval_tasks_is_mentioned() -> None:
    text = " ".join(generated_documents(n_chars=150_000))
    labels = {label for words in (BABI, OWN) for label in (*words.people, *words.givers, *words.places, *words.objects)}
    assert {label for label in labels if re.search(rf"\b{label}\b", text)} == set()


EXPECTED_SHA256 = "dd1dfd5424cecbe899ae1ddcde52d44e61a1b3cfef9b64b35583dcc8b3387b4f"
