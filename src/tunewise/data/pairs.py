"""What a preference pair must hold beside well-formed fields. Knows one pair at a time."""

from tunewise.contracts.chat import PreferencePair
from tunewise.data.formats import better_of, worse_of
from tunewise.data.problems import Problem
from tunewise.data.rules import row_problems

SIDES = {"preferred_output": better_of, "non_preferred_output": worse_of}


def pair_problems(pair: PreferencePair) -> list[Problem]:
    """Every rule that a well-formed pair breaks, in either of the conversations that it stands for."""
    if pair.preferred_output == pair.non_preferred_output:
        return [
            Problem(
                "error",
                "equal_answers",
                "both answers are the same: there is nothing to prefer",
                "remove the row",
                "non_preferred_output",
            )
        ]
    problems: list[Problem] = []
    last = len(pair.input.messages)
    for side, answered in SIDES.items():
        for problem in row_problems(answered(pair)):
            param = (
                (problem.param or "").replace(f"messages[{last}]", f"{side}[0]").replace("messages[", "input.messages[")
            )
            placed = problem._replace(param=param)
            # What is wrong with the conversation itself is so on both sides.
            if placed not in problems:
                problems.append(placed)
    return problems
