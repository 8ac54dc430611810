"""Graders that compare two texts: string_check, text_similarity, exact_match.

The measures are those of kept libraries: rapidfuzz, sacrebleu, rouge-score; embeddings are handed in.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, assert_never

from rapidfuzz import fuzz, utils
from sacrebleu.metrics.bleu import BLEU

from tunewise.contracts.graders import ExactMatch, StringCheck, TextSimilarity
from tunewise.evaluate.embedding import Embed, Vector
from tunewise.evaluate.graders.graded import Graded
from tunewise.evaluate.graders.template import fill, fill_reference
from tunewise.evaluate.rows import EvalRow

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

_WORD = re.compile(r"[^\W_]+")


def grade_string_check(grader: StringCheck, rows: Sequence[EvalRow], answers: Sequence[str]) -> Graded:
    """1 where the comparison holds, to the character: nothing is stripped, as in OpenAI's grader."""
    return Graded([_string_check(grader, row, answer) for row, answer in zip(rows, answers, strict=True)], {})


def grade_text_similarity(
    grader: TextSimilarity, rows: Sequence[EvalRow], answers: Sequence[str], embed: Embed
) -> Graded:
    """Similarity of input and reference by `grader.evaluation_metric`; 0 where the answer lacks what is compared."""
    pairs = [
        (fill(grader.input, row, answer), fill(grader.reference, row, answer))
        for row, answer in zip(rows, answers, strict=True)
    ]
    known = [(text, reference) for text, reference in pairs if text is not None and reference is not None]
    if grader.evaluation_metric == "cosine":
        scores = iter(cosines(known, embed))
    else:
        scores = (similarity(grader.evaluation_metric, text, reference) for text, reference in known)
    return Graded([0.0 if text is None or reference is None else next(scores) for text, reference in pairs], {})


def cosines(pairs: Sequence[tuple[str, str]], embed: Embed) -> list[float]:
    """The cosine of each pair's embeddings, 0 where it is below. Equal texts are 1; an empty one is like no other."""
    differ = [pair for pair in pairs if pair[0] != pair[1] and all(text.strip() for text in pair)]
    texts = list(dict.fromkeys(text for pair in differ for text in pair))
    vectors = dict(zip(texts, embed(texts), strict=True)) if texts else {}
    return [
        1.0 if text == reference else _cosine(vectors.get(text), vectors.get(reference)) for text, reference in pairs
    ]


def _cosine(one: Vector | None, other: Vector | None) -> float:
    return 0.0 if one is None or other is None else min(max(float(one @ other), 0.0), 1.0)


def grade_exact_match(grader: ExactMatch, rows: Sequence[EvalRow], answers: Sequence[str]) -> Graded:
    """1 where answer and reference are equal once stripped of surrounding white space."""
    references = [fill_reference(grader.reference, row).strip() for row in rows]
    pairs = zip(answers, references, strict=True)
    return Graded([float(answer.strip() == reference) for answer, reference in pairs], {})


def similarity(metric: str, text: str, reference: str) -> float:
    """One of the published measures, from 0 to 1. Equal texts are 1 by definition.

    Without that rule a perfect answer of two words would score 0 on rouge_3, and one of signs only on fuzzy_match.
    """
    if text == reference:
        return 1.0
    if metric == "fuzzy_match":
        # WRatio with default_process is what OpenAI's guide itself shows for a fuzzy grade with rapidfuzz.
        return fuzz.WRatio(text, reference, processor=utils.default_process) / 100
    if metric == "bleu":
        return min(_bleu().sentence_score(text, [reference]).score / 100, 1.0)
    name = "rougeL" if metric == "rouge_l" else f"rouge{metric.removeprefix('rouge_')}"
    return float(_rouge(name).score(reference, text)[name].fmeasure)


class _UnicodeWords:
    """Lower-cased runs of letters and digits: rouge-score's own tokens on ASCII, but it drops every other script."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


@lru_cache(maxsize=1)
def _bleu() -> BLEU:
    # Effective order is sacrebleu's own setting for single sentences: short ones have no 4-grams to match.
    return BLEU(effective_order=True)


@lru_cache(maxsize=8)
def _rouge(name: str) -> "RougeScorer":
    # Its stemmer's package takes a second to import, whether one is asked for or not.
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([name], tokenizer=_UnicodeWords())


def _string_check(grader: StringCheck, row: EvalRow, answer: str) -> float:
    text, reference = fill(grader.input, row, answer), fill(grader.reference, row, answer)
    if text is None or reference is None:
        return 0.0
    match grader.operation:
        case "eq":
            return float(text == reference)
        case "ne":
            return float(text != reference)
        case "like":
            return float(reference in text)
        case "ilike":
            return float(reference.casefold() in text.casefold())
        case _:
            assert_never(grader.operation)
