"""Which grader the reference answers call for: a first guess that a person confirms or changes."""

import json
from collections.abc import Sequence

from tunewise.contracts.graders import AnyGrader, ExactMatch, JsonSetF1, Label, NumberMatch, TextSimilarity, TokenF1

MOST_LABELS = 150
FEWEST_ROWS_PER_LABEL = 3.0
SHORT_WORDS = 8


def suggest(references: Sequence[str]) -> AnyGrader:
    """A grader for answers like these: lists as sets, numbers by value, few different ones as labels, else as text."""
    if all(_is_list(reference) for reference in references):
        return JsonSetF1(name="json_set_f1")
    if all("####" in reference for reference in references):
        return NumberMatch(name="number_match")
    distinct = len(set(references))
    if distinct <= MOST_LABELS and len(references) / max(distinct, 1) >= FEWEST_ROWS_PER_LABEL:
        return Label(name="label")
    longest = max(len(reference.split()) for reference in references)
    if longest == 1:
        return ExactMatch(name="exact_match")
    if longest <= SHORT_WORDS:
        return TokenF1(name="token_f1")
    return TextSimilarity(name="rouge_l", evaluation_metric="rouge_l")


def _is_list(text: str) -> bool:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, list) and all(isinstance(item, str) for item in found)
