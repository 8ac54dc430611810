"""Chat rows of a wanted length, made of the words of a file of chat rows. Knows tokens and files; no training."""

import json
from collections.abc import Iterator, Sequence
from itertools import cycle, islice

from tunewise.contracts.chat import Message, SystemMessage, UserMessage
from tunewise.data.template import Template

ANSWER_SHARE = 4
"""One token in so many of a row is the answer's."""


def rows_of_length(
    lines: Sequence[bytes], template: Template, length: int, count: int, prefix: int = 0
) -> Iterator[bytes]:
    """So many rows of about `length` tokens, the template's own among them, after a system prompt of `prefix` tokens.

    All rows have the same system prompt; none where `prefix` is 0.
    """
    messages = (message["content"] for line in lines for message in json.loads(line)["messages"])
    ids = cycle(template.encode("\n".join(messages)))
    system = template.decode(list(islice(ids, prefix)))
    opening: list[Message] = (
        [SystemMessage(content=""), UserMessage(content="")] if prefix else [UserMessage(content="")]
    )
    answer = length // ANSWER_SHARE
    question = length - answer - len(template.prompt_ids(opening))
    for _ in range(count):
        row = {
            "user": template.decode(list(islice(ids, question))),
            "assistant": template.decode(list(islice(ids, answer))),
        }
        yield chat_row({"system": system} | row if prefix else row)


def chat_row(messages: dict[str, str]) -> bytes:
    """A line of a file of chat rows, from the roles and what they say."""
    return (
        json.dumps({"messages": [{"role": role, "content": text} for role, text in messages.items()]}).encode() + b"\n"
    )
