"""OpenAI's grader templates: `{{ item.x.y }}`, `{{ item.list[0] }}`, `{{ sample.output_text }}`.

A name that the test item lacks is the config's fault and an error; a field that the answer's JSON lacks is the
answer's (`{{ sample.output_json.f }}`), and its row scores 0. Source: "Templating" in OpenAI's guide to graders.
"""

import json
import re
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from tunewise.contracts.chat import Json
from tunewise.errors import EvaluationError
from tunewise.evaluate.rows import EvalRow

_VARIABLE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]\s]+)|\[([0-9]+)\]")
_PATH = re.compile(r"(item|sample)((?:\.[^.\[\]\s]+|\[[0-9]+\])+)")
_SAMPLE_FIELDS = ("output_text", "output_json")

Step: TypeAlias = str | int


class Variable(NamedTuple):
    """One `{{ namespace.a.b[0] }}`, as its namespace and the steps into it."""

    namespace: str
    steps: tuple[Step, ...]
    source: str


class MissingJsonError(Exception):
    """The answer is no JSON, or its JSON has no such field. Never leaves this package: the row scores 0."""


def fill(template: str, row: EvalRow, answer: str) -> str | None:
    """The template with every variable replaced; None where it asks for JSON that the answer does not have.

    Strings are put in as they are, other values as JSON.

    Raises:
        EvaluationError: a variable that does not exist; the message names those that do.
    """
    try:
        return "".join(part if isinstance(part, str) else _text(_value(part, row, answer)) for part in _parse(template))
    except MissingJsonError:
        return None


def fill_reference(template: str, row: EvalRow) -> str:
    """Fill a template that may speak of the item only, as a reference must not depend on the answer.

    Raises:
        EvaluationError: a variable that does not exist, or one of the `sample` namespace.
    """
    for part in _parse(template):
        if isinstance(part, Variable) and part.namespace == "sample":
            raise _unknown(part, "a reference cannot depend on the answer; use the item namespace")
    return "".join(part if isinstance(part, str) else _text(_value(part, row, "")) for part in _parse(template))


@lru_cache(maxsize=256)
def _parse(template: str) -> tuple[str | Variable, ...]:
    parts: list[str | Variable] = []
    end = 0
    for match in _VARIABLE.finditer(template):
        parts += [template[end : match.start()], _variable(match.group(1).strip())]
        end = match.end()
    return (*parts, template[end:])


def _variable(source: str) -> Variable:
    match = _PATH.fullmatch(source)
    if match is None:
        raise EvaluationError(
            "invalid_template",
            f"{{{{ {source} }}}} is not a variable: write item.NAME or sample.output_text; .NAME or [0] go deeper",
            param="graders",
        )
    steps = tuple(name or int(index) for name, index in _STEP.findall(match.group(2)))
    variable = Variable(match.group(1), steps, source)
    if variable.namespace == "sample" and steps[0] not in _SAMPLE_FIELDS:
        raise _unknown(variable, f"sample has {', '.join(_SAMPLE_FIELDS)}")
    return variable


def _value(variable: Variable, row: EvalRow, answer: str) -> Json:
    if variable.namespace == "item":
        return _item_value(variable, row)
    if variable.steps == ("output_text",):
        return answer
    if variable.steps[0] == "output_text":
        raise _unknown(variable, "sample.output_text is a text without fields")
    return _json_value(variable.steps[1:], answer)


def _item_value(variable: Variable, row: EvalRow) -> Json:
    value: Json = row.item
    for step in variable.steps:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError) as error:
            raise _unknown(variable, f"test row {row.line} has {_known(value)} there") from error
    return value


def _json_value(steps: tuple[Step, ...], answer: str) -> Json:
    try:
        value = json.loads(answer)
        for step in steps:
            value = value[step]
    except (ValueError, RecursionError, KeyError, IndexError, TypeError) as error:
        raise MissingJsonError from error
    return value


def _known(value: Json) -> str:
    if isinstance(value, dict):
        return ", ".join(sorted(map(str, value))) or "no fields"
    return f"a list of {len(value)}" if isinstance(value, list) else f"a {type(value).__name__}"


def _text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _unknown(variable: Variable, what_exists: str) -> EvaluationError:
    return EvaluationError(
        "unknown_variable", f"{{{{ {variable.source} }}}} does not exist: {what_exists}", param="graders"
    )
