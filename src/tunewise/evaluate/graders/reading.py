"""Graders of short answers to questions: token_f1 (SQuAD) and number_match (GSM8K)."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal

from tunewise.contracts.graders import NumberMatch, TokenF1
from tunewise.evaluate.graders.graded import Graded, misconfigured, share
from tunewise.evaluate.graders.template import fill_reference
from tunewise.evaluate.rows import EvalRow

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# A minus after a digit, a letter or a bracket is an operator ("10-5"), not a sign. The exponent is kept short as
# Decimal would compare 1e999999 by writing it out.
_NUMBER = re.compile(
    r"(?:(?<![\w)\].])(?P<sign>[-−]))?\s?[$€£¥]?(?P<inner>(?<=[$€£¥])[-−])?"
    r"(?P<digits>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?P<exponent>[eE][+-]?[0-9]{1,3}(?![\w]))?"
)


def grade_token_f1(grader: TokenF1, rows: Sequence[EvalRow], answers: Sequence[str]) -> Graded:
    """Token F1 against the best of the references; over all rows the share of exact matches.

    Raises:
        EvaluationError: `references` names a field that is missing or no list of strings.
    """
    references = [_references(grader, row) for row in rows]
    pairs = list(zip(answers, references, strict=True))
    return Graded(
        [max(token_f1(answer, reference) for reference in several) for answer, several in pairs],
        {"exact_match": share([any(normalise(a) == normalise(r) for r in several) for a, several in pairs])},
    )


def grade_number_match(grader: NumberMatch, rows: Sequence[EvalRow], answers: Sequence[str]) -> Graded:
    """1 where the last number after the last marker equals the reference's; an answer without the marker scores 0.

    Over all rows, `found` is the share of answers in which a number stood at the right place.

    Raises:
        EvaluationError: a reference without a number.
    """
    references = [_reference_number(grader, row) for row in rows]
    numbers = [last_number(answer, grader.marker) for answer in answers]
    return Graded(
        [float(number == reference) for number, reference in zip(numbers, references, strict=True)],
        {"found": share([number is not None for number in numbers])},
    )


def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no articles, single blanks (Rajpurkar et al. 2016)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(answer: str, reference: str) -> float:
    """F1 of the bags of tokens; where one of the two has none, 1 if both have none (the rule of SQuAD 2.0)."""
    given, wanted = normalise(answer).split(), normalise(reference).split()
    if not given or not wanted:
        return float(given == wanted)
    shared = (Counter(given) & Counter(wanted)).total()
    return 2 * shared / (len(given) + len(wanted))


def last_number(text: str, marker: str) -> Decimal | None:
    """The last number after the last `marker`; "" takes the whole text; None where marker or number is missing.

    1,000 and 1000.0 are equal; a currency sign is skipped; a list like "1,2" holds two numbers.
    """
    if marker:
        _, found, text = text.rpartition(marker)
        if not found:
            return None
    matches = list(_NUMBER.finditer(text))
    if not matches:
        return None
    last = matches[-1]
    sign = "-" if last["sign"] or last["inner"] else ""
    return Decimal(sign + last["digits"].replace(",", "") + (last["exponent"] or ""))


def _references(grader: TokenF1, row: EvalRow) -> list[str]:
    if grader.references is None:
        return [fill_reference(grader.reference, row)]
    listed = row.item.get(grader.references)
    if not isinstance(listed, list) or not all(isinstance(reference, str) for reference in listed):
        raise misconfigured(
            grader.name,
            f"references: {grader.references!r} must name a list of strings in each test item; test row {row.line} "
            f"has {', '.join(sorted(row.item))}",
        )
    # An empty list is SQuAD 2.0's mark of a question without an answer: right is to answer nothing.
    return listed or [""]


def _reference_number(grader: NumberMatch, row: EvalRow) -> Decimal:
    text = fill_reference(grader.reference, row)
    number = last_number(text, grader.marker if grader.marker in text else "")
    if number is None:
        raise misconfigured(grader.name, f"the reference of test row {row.line} holds no number: {text[:80]!r}")
    return number
