"""The json_set_f1 grader: two JSON lists of strings, compared as sets."""

from collections.abc import Sequence

import msgspec

from tunewise.contracts.graders import JsonSetF1
from tunewise.evaluate.graders.graded import Graded, misconfigured, share
from tunewise.evaluate.graders.template import fill_reference
from tunewise.evaluate.rows import EvalRow

_strings = msgspec.json.Decoder(list[str])


def grade_json_set(grader: JsonSetF1, rows: Sequence[EvalRow], answers: Sequence[str]) -> Graded:
    """Set-F1 per row, lower-cased; over all rows micro-F1, the shares of valid JSON lists and of equal lists.

    Nothing but white space may stand around the answer's list: code that reads it would fail on anything else.

    Raises:
        EvaluationError: a reference that is no JSON list of strings.
    """
    references = [_reference(grader, row) for row in rows]
    lists = [parse_list(answer) for answer in answers]
    pairs = list(zip(lists, references, strict=True))
    return Graded(
        [0.0 if given is None else set_f1(_lowered(given), _lowered(reference)) for given, reference in pairs],
        {
            "micro_f1": micro_f1(pairs),
            "valid_json": share([given is not None for given in lists]),
            "exact_list": share([given == reference for given, reference in pairs]),
        },
    )


def parse_list(text: str) -> list[str] | None:
    """The text as a JSON list of strings, or None where it is none."""
    try:
        return _strings.decode(text.strip())
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def set_f1(given: frozenset[str], reference: frozenset[str]) -> float:
    """2·|A∩B| / (|A|+|B|); two empty sets agree."""
    if not given and not reference:
        return 1.0
    return 2 * len(given & reference) / (len(given) + len(reference))


def micro_f1(pairs: Sequence[tuple[list[str] | None, list[str]]]) -> float:
    """F1 over the elements of all rows together; an answer that is no list gives no elements."""
    sets = [(_lowered(given or []), _lowered(reference)) for given, reference in pairs]
    total = sum(len(given) + len(reference) for given, reference in sets)
    shared = sum(len(given & reference) for given, reference in sets)
    return 2 * shared / total if total else 1.0


def _lowered(names: Sequence[str]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


def _reference(grader: JsonSetF1, row: EvalRow) -> list[str]:
    # A list in the item arrives here as JSON text: the template writes every value that is no string as JSON.
    text = fill_reference(grader.reference, row)
    names = parse_list(text)
    if names is None:
        raise misconfigured(
            grader.name, f"the reference of test row {row.line} is no JSON list of strings: {text[:80]!r}"
        )
    return names
