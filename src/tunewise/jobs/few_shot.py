"""A tuned model's own training rows as examples in a prompt: what the base model makes of the same data untuned.

The prompt is built as the few-shot arm of an evaluation builds it (`evaluate.arms`).
"""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import msgspec

from tunewise.contracts.chat import ChatExample, Json, Message
from tunewise.contracts.jobs import Caller
from tunewise.data.conversation import text_of
from tunewise.data.formats import read_conversations
from tunewise.errors import RequestError
from tunewise.evaluate.arms import choose_examples, few_shot_messages
from tunewise.evaluate.rows import EvalRow
from tunewise.jobs import inventory
from tunewise.jobs.platform import Platform

# A prompt holds a few; so many rows are read of a large file that they are mixed.
ROWS_READ = 2000
SEED = 0


class Shown(NamedTuple):
    """Rows of a training file. `system`: what the first row's system message says; None where it has none."""

    base: str
    examples: tuple[ChatExample, ...]
    system: str | None


def training_rows(platform: Platform, caller: Caller, model: str, count: int) -> Shown:
    """`count` rows that a tuned model was trained on, or as many as there are; the same ones each time.

    Raises:
        RequestError: model_not_found; no_training_file, where it is another project's or was deleted; no_examples.
        DataError: the file cannot be read.
        EvaluationError: no row ends in an assistant's text.
    """
    found = inventory.lineage(platform, caller, model)
    if found.training_file is None:
        raise RequestError(
            "no_training_file",
            f"The training file of {model!r} is not in this project any more, so there are no rows to show as examples",
            param="model",
        )
    path = platform.rows_of(found.training_file.id)
    rows = list(islice(read_conversations(path), ROWS_READ))
    if not rows:
        raise RequestError(
            "no_examples", f"{model!r} was trained on rows without a question and an answer to show", param="model"
        )
    first = rows[0].messages[0]
    system = text_of(first.content) if first.__struct_config__.tag in ("system", "developer") else None
    return Shown(found.model.base, tuple(choose_examples(rows, count, seed=SEED)), system)


def with_examples(conversation: Sequence[Json], examples: Sequence[ChatExample]) -> list[Json]:
    """The conversation, as messages of a chat request, with the examples' turns before its own."""
    messages = tuple(msgspec.convert(list(conversation), list[Message]))
    row = EvalRow(line=0, messages=messages, tools=None, reference="", item={})
    made: list[Json] = msgspec.to_builtins(list(few_shot_messages(row, examples)))
    return [
        {name: value for name, value in message.items() if value is not None and name != "weight"} for message in made
    ]
