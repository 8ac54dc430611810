import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewise.evaluate.retrieval import SearchIndex


@given(st.lists(st.text(), min_size=1, max_size=8), st.text(), st.integers(1, 10))
def test_any_query_gets_k_different_texts_or_all(texts: list[str], query: str, k: int) -> None:
    found = SearchIndex(texts).nearest(query, k)
    assert len(found) == len(set(found)) == min(k, len(texts))
    assert set(found) <= set(range(len(texts)))


def test_texts_that_score_the_same_come_in_their_order() -> None:
    assert SearchIndex(["b", "same", "a", "same"]).nearest("same", 4) == [1, 3, 0, 2]


@pytest.mark.parametrize("texts", [["", ""], ["?!", "..."]])
def test_texts_without_letters_can_be_searched(texts: list[str]) -> None:
    assert SearchIndex(texts).nearest("anything", 2) == [0, 1]


def test_inflected_words_are_found_without_a_stemmer() -> None:
    texts = ["the bank closed", "refunding payments", "cards and pins"]
    assert SearchIndex(texts).nearest("refund of a payment", 1) == [1]


def test_the_same_index_is_built_from_the_same_texts() -> None:
    texts = [f"text {n} about {'abc'[n % 3]}" for n in range(30)]
    assert SearchIndex(texts).nearest("about c", 30) == SearchIndex(texts).nearest("about c", 30)
