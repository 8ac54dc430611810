"""Which rows fit which method of training. Knows the formats and the methods by name; knows no files."""

from tunewise.contracts.check import RowFormat
from tunewise.contracts.fine_tuning import METHOD_TYPES, MethodType

# What each method trains on; the first is named where something else was given.
ROWS: dict[MethodType, tuple[RowFormat, ...]] = {
    "supervised": ("chat", "prompt_completion"),
    "dpo": ("preference",),
    "orpo": ("preference",),
    "kto": ("labelled",),
    "pretraining": ("text",),
}
HELD: dict[RowFormat, str] = {
    "chat": "conversations",
    "prompt_completion": "pairs of prompt and completion",
    "preference": "preference pairs",
    "labelled": "answers with a label",
    "text": "plain text",
}


def misfit(file: str, held: RowFormat, method: MethodType) -> str | None:
    """What is wrong with training on a file of such rows by this method, and what to do; None where they fit."""
    if held in ROWS[method]:
        return None
    fitting = HELD[ROWS[method][0]]
    return f"{file}: holds {HELD[held]}, and the method {method} trains on {fitting}; {_remedy(held, method)}"


def _remedy(held: RowFormat, method: MethodType) -> str:
    others = [other for other in METHOD_TYPES if held in ROWS[other]]
    instead = f"ask for the method {' or '.join(others)}"
    if held == "preference" and "chat" in ROWS[method]:
        return (
            f"{instead}, or convert the better answers: "
            "tunewise data convert FILE --to chat --map prompt=input --map completion=preferred_output"
        )
    if held == "labelled" and "chat" in ROWS[method]:
        return f"{instead}, or convert the wanted answers: tunewise data convert FILE --to chat --map keep=label"
    if method == "kto":
        return f'{instead}, or give each row a "label": true where its answer is wanted, false where it is not'
    return f"{instead}, or give a file of other rows"
