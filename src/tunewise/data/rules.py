"""What a well-formed row must hold beside well-formed fields, as OpenAI's fine-tuning service asks.

Two forms of the same rules: `sweep` looks at a whole block with a handful of passes that run in C and says
whether anything in it could break a rule; `row_problems` finds what does in one row. So clean files cost next to no
Python per row. A property test holds the two together. Knows nothing of files or tokens.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from operator import attrgetter
from typing import TypeAlias

import msgspec

from tunewise.contracts.chat import (
    AssistantMessage,
    ChatExample,
    Message,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from tunewise.data.conversation import calls_of, text_of
from tunewise.data.problems import Problem, shorten

Shape: TypeAlias = tuple[type[Message], ...]
_PLAIN = {SystemMessage, UserMessage, AssistantMessage}
_messages = attrgetter("messages")
_content = attrgetter("content")
_calls = attrgetter("tool_calls")
_weight = attrgetter("weight")


def shapes_of(rows: Sequence[ChatExample]) -> Counter[Shape]:
    """How often each sequence of roles occurs."""
    return Counter([tuple(map(type, messages)) for messages in map(_messages, rows)])


def sweep(rows: Sequence[ChatExample]) -> tuple[Counter[Shape], bool]:
    """The shapes of a block's rows, and whether no row can break a rule. False means: look at each row.

    Most files have rows of one shape, which one comparison of two lists proves; that halves the time of this sweep.
    """
    conversations = list(map(_messages, rows))
    flat: list[Message] = list(chain.from_iterable(conversations))
    types = list(map(type, flat))
    length = len(conversations[0]) if conversations else 0
    shape: Shape = tuple(types[:length])
    if set(map(len, conversations)) == {length} and types == types[:length] * len(rows):
        shapes = Counter({shape: len(rows)})
    else:
        shapes = shapes_of(rows)
    if not all(map(_is_plain_shape, shapes)) or not _all_filled(flat):
        return shapes, False
    if len(shapes) == 1 and shape.count(AssistantMessage) == 1:
        answers = flat[length - 1 :: length]
    else:
        answers = [message for message in flat if type(message) is AssistantMessage]
    return shapes, not any(map(_calls, answers)) and 0 not in set(map(_weight, answers))


def _all_filled(messages: list[Message]) -> bool:
    """Whether every content is a string with something in it."""
    contents = list(map(_content, messages))
    return set(map(type, contents)) == {str} and all(contents) and not any(map(str.isspace, contents))


def _is_plain_shape(shape: Shape) -> bool:
    """Ends with the assistant, has a user turn, and neither tools nor deprecated roles."""
    return shape[-1] is AssistantMessage and UserMessage in shape and _PLAIN.issuperset(shape)


def row_problems(example: ChatExample) -> list[Problem]:
    """Every rule that a well-formed row breaks."""
    return [*_role_problems(example), *_content_problems(example), *_tool_problems(example)]


def _role_problems(example: ChatExample) -> Iterator[Problem]:
    messages = example.messages
    answers = [m for m in messages if isinstance(m, AssistantMessage)]
    if not answers:
        yield Problem(
            "error",
            "no_assistant_message",
            "no assistant message: there is nothing to learn",
            "add the answer that the model should give, or remove the row",
            "messages",
        )
        return
    if not isinstance(messages[-1], AssistantMessage):
        last = f"messages[{len(messages) - 1}]"
        yield Problem(
            "error",
            "last_message_not_assistant",
            "the last message is not the assistant's: nothing after the last answer is trained on",
            "end the row with an answer, or remove what follows it",
            f"{last}.role",
            role_of(messages[-1]),
        )
    if all(m.weight == 0 for m in answers):
        yield Problem(
            "error",
            "nothing_to_train_on",
            "every assistant message has weight 0",
            "give one of them weight 1, or remove the row",
            "messages",
            "0",
        )
    if not any(isinstance(m, UserMessage) for m in messages):
        yield Problem(
            "warning",
            "no_user_message",
            "no user message: the model learns to answer nothing in particular",
            "add what the user said, if there was something",
            "messages",
        )


def _content_problems(example: ChatExample) -> Iterator[Problem]:
    for index, message in enumerate(example.messages):
        text = text_of(message.content)
        if text and not text.isspace():
            continue
        path = f"messages[{index}].content"
        if not isinstance(message, AssistantMessage):
            # An empty answer of a tool is an answer.
            if not isinstance(message, ToolMessage):
                role = role_of(message)
                yield Problem(
                    "warning", "empty_content", f"the {role} message is empty", "fill it or leave it out", path
                )
        elif message.weight != 0 and not calls_of(message) and not message.refusal:
            yield Problem(
                "error",
                "empty_assistant_content",
                "the assistant message has no content and no tool call",
                "write the answer, or set its weight to 0",
                path,
                shorten(repr(text)),
            )


def _tool_problems(example: ChatExample) -> Iterator[Problem]:
    open_calls: set[str] = set()
    for index, message in enumerate(example.messages):
        if isinstance(message, AssistantMessage):
            for number, call in enumerate(message.tool_calls or ()):
                open_calls.add(call.id)
                if not _is_object(call.function.arguments):
                    yield Problem(
                        "error",
                        "invalid_tool_arguments",
                        "arguments is not a JSON object in a string",
                        'write it as a string such as "{\\"city\\": \\"Rome\\"}"',
                        f"messages[{index}].tool_calls[{number}].function.arguments",
                        shorten(call.function.arguments),
                    )
        elif isinstance(message, ToolMessage) and message.tool_call_id not in open_calls:
            yield Problem(
                "error",
                "unknown_tool_call_id",
                f"tool_call_id {shorten(message.tool_call_id)!r} answers no earlier tool call",
                "give it the id of the call that it answers",
                f"messages[{index}].tool_call_id",
                shorten(message.tool_call_id),
            )


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(arguments), dict)
    except (msgspec.DecodeError, RecursionError):
        return False


def role_of(message: Message) -> str:
    """The role, as it is written in the row."""
    return role_name(type(message))


def role_name(kind: type[Message]) -> str:
    """The role of a message type."""
    return str(kind.__struct_config__.tag)
