"""What a row that is judged by its answers must hold beside well-formed fields. Knows one row at a time."""

import re

from tunewise.data.answers import Answered
from tunewise.data.problems import Problem
from tunewise.data.rules import row_problems

MESSAGE = re.compile(r"^messages\[(\d+)\]")


def problems_of(row: Answered) -> list[Problem]:
    """Every rule that a well-formed row breaks in any of its conversations, named where it stands in the row."""
    if len(row.examples) == 2 and row.examples[0].messages == row.examples[1].messages:
        return [
            Problem(
                "error",
                "equal_answers",
                "both answers are the same: there is nothing to prefer",
                "remove the row",
                row.answers[1],
            )
        ]
    problems: list[Problem] = []
    for number, example in enumerate(row.examples):
        for problem in row_problems(example):
            found = problem._replace(param=placed(problem.param, row, number))
            # What is wrong with the conversation itself is so on both sides.
            if found not in problems:
                problems.append(found)
    return problems


def placed(param: str | None, row: Answered, number: int) -> str | None:
    """A field of one of the row's conversations as a field of the row."""
    found = MESSAGE.match(param or "")
    if not found or not row.answers:
        return row.asked if param == "messages" else param
    at = int(found[1])
    is_answer = at == len(row.examples[number].messages) - 1
    place = f"{row.answers[number]}[0]" if is_answer else f"{row.asked}[{at}]"
    return place + (param or "")[found.end() :]
