"""Signatures estimate the similarity that the shingles have, and look-up finds the rows that repeat one another."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewise.data.similarity import earliest_like, jaccard, normalise, signatures, similarity

RNG = random.Random(5)
WORDS = ["".join(RNG.choices("abcdefghijklmnop", k=RNG.randint(3, 9))) for _ in range(3000)]


def text(words: int = 60) -> str:
    return " ".join(RNG.choices(WORDS, k=words))


def edited(original: str, changes: int) -> str:
    words = original.split()
    for place in RNG.sample(range(len(words)), changes):
        words[place] = RNG.choice(WORDS)
    return " ".join(words)


@pytest.mark.parametrize("changes", [1, 3, 6, 12, 30])
def test_the_estimate_is_unbiased_and_as_exact_as_stated(changes: int) -> None:
    left = [text() for _ in range(300)]
    right = [edited(one, changes) for one in left]
    exact = np.array([jaccard(a, b) for a, b in zip(left, right, strict=True)])
    error = similarity(signatures(left), signatures(right)) - exact
    assert abs(error.mean()) < 0.02
    assert error.std() < 0.07


@given(st.lists(st.text(max_size=30), max_size=8))
def test_a_signature_depends_on_its_own_text_only(texts: list[str]) -> None:
    together = signatures(texts)
    assert together.shape == (len(texts), 64)
    for one, signature in zip(texts, together, strict=True):
        assert (signatures([one])[0] == signature).all()


def test_an_edited_copy_is_found_and_unrelated_rows_are_not() -> None:
    originals = [text() for _ in range(400)]
    copies = [edited(one, 2) for one in originals[:100]]
    questions = signatures(originals + copies)
    answers = signatures([text(8) for _ in originals] * 1 + ["same answer"] * 100)
    answers[400:] = answers[:100]
    best, score = earliest_like(questions, answers)
    assert (best[:400] == -1).all()
    found = best[400:] == np.arange(100)
    assert found.mean() > 0.95
    assert (score[400:][found] >= 0.8).all()


def test_the_same_question_with_another_answer_is_no_repeat() -> None:
    question = text()
    best, _ = earliest_like(signatures([question] * 2), signatures([text(8), text(8)]))
    assert (best == -1).all()


def test_case_and_blanks_do_not_matter() -> None:
    assert normalise("  Is IT\n raining? ") == "is it raining?"
