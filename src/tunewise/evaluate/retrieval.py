"""Search: the passages or train rows nearest to a question, by BM25 or by embeddings.

It serves three arms: retrieval over documents, dynamic few-shot, and the nearest neighbour's answer. It knows texts; it
knows nothing of prompts, or of where embeddings come from.
"""

import re
from collections.abc import Sequence
from typing import Literal, assert_never

import bm25s
import numpy as np

from tunewise.evaluate.embedding import Embed, Vectors

_WORD = re.compile(r"\w+")
_SHORTEST, _LONGEST = 2, 4
_NOTHING = ""


def nearest(
    by: Literal["bm25", "embeddings"], texts: Sequence[str], queries: Sequence[str], k: int, embed: Embed
) -> list[list[int]]:
    """For each query the indices of the `k` best texts, best first; of equals, the earlier one."""
    match by:
        case "bm25":
            index = SearchIndex(texts)
            found = [index.nearest(query, k) for query in queries]
        case "embeddings":
            found = _nearest_vectors(embed(texts), embed(queries), k)
        case _:
            assert_never(by)
    return found


def _nearest_vectors(texts: Vectors, queries: Vectors, k: int) -> list[list[int]]:
    """`texts`: (texts, dimensions), `queries`: (queries, dimensions), all of length 1."""
    # Rounded, so that equal texts tie whatever batch they were computed in.
    scores = np.round(queries @ texts.T, 5)
    return [[int(index) for index in np.argsort(-row, kind="stable")[:k]] for row in scores]


class SearchIndex:
    """BM25 over the 2- to 4-grams of each word's letters, the word's edges marked by a blank; `size` texts.

    Letters instead of words, as they need no stemmer, no stop words and no language. Measured: the nearest
    neighbour's label on 308 banking77 rows is right in 0.71 (words: 0.65); the passage of a SQuAD question is the
    first of 987 in 0.83 and among the first four in 0.93 (words: 0.80, 0.92).
    """

    def __init__(self, texts: Sequence[str]) -> None:
        """Index `texts`; there must be at least one."""
        self._vocabulary: dict[str, int] = {_NOTHING: 0}
        self._words: dict[str, list[int]] = {}
        # Tokens as numbers that are looked up per word: building is several times faster than with texts.
        ids = [self._indexed(text) for text in texts]
        self._bm25 = bm25s.BM25()
        self._bm25.index((ids, self._vocabulary), show_progress=False)
        self.size = len(texts)

    def nearest(self, query: str, k: int) -> list[int]:
        """Indices of the `k` best texts, best first; of equals, the earlier one."""
        ids = [gram for word in _words(query) for gram in self._known(word)]
        scores = self._bm25.get_scores_from_ids(ids) if ids else np.zeros(self.size)
        return [int(index) for index in np.argsort(-scores, kind="stable")[:k]]

    def _indexed(self, text: str) -> list[int]:
        # bm25s divides by the mean length, so that a text without letters is one token that no query has.
        return [gram for word in _words(text) for gram in self._learned(word)] or [self._vocabulary[_NOTHING]]

    def _learned(self, word: str) -> list[int]:
        if word not in self._words:
            self._words[word] = [self._vocabulary.setdefault(gram, len(self._vocabulary)) for gram in _grams(word)]
        return self._words[word]

    def _known(self, word: str) -> list[int]:
        if word in self._words:
            return self._words[word]
        return [self._vocabulary[gram] for gram in _grams(word) if gram in self._vocabulary]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(word: str) -> list[str]:
    padded = f" {word} "
    return [
        padded[start : start + size]
        for size in range(_SHORTEST, _LONGEST + 1)
        for start in range(len(padded) - size + 1)
    ]
