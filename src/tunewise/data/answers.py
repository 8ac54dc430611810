"""Rows that are judged by their last answers: preference pairs, and answers with a label, in each form there is.

Knows one row at a time, and no rules.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from tunewise.contracts.chat import (
    AssistantMessage,
    ChatExample,
    LabelledCompletion,
    LabelledConversation,
    Message,
    OlderPreferencePair,
    PreferenceInput,
    PreferencePair,
    UserMessage,
)

PREFERENCE = msgspec.json.Decoder(PreferencePair)
OLDER_PREFERENCE = msgspec.json.Decoder(OlderPreferencePair)
LABELLED = msgspec.json.Decoder(LabelledConversation)
LABELLED_COMPLETION = msgspec.json.Decoder(LabelledCompletion)
PREFERENCE_FIELDS = frozenset(PreferencePair.__struct_fields__ + OlderPreferencePair.__struct_fields__) - {"input"}

Given: TypeAlias = PreferenceInput | LabelledConversation | LabelledCompletion


class Answered(NamedTuple):
    """What a line stands for: two conversations that end in a better and a worse answer, or one with a label.

    `wanted` is that label. `asked` and `answers` are the fields that hold the messages before the answers, and the
    answer of each conversation; none where the line holds a whole conversation.
    """

    examples: tuple[ChatExample, ...]
    wanted: bool = True
    asked: str = "messages"
    answers: tuple[str, ...] = ()


def decode_preference(line: bytes) -> Answered:
    """A preference pair, under either of OpenAI's names.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError, RecursionError: the line is none.
    """
    try:
        pair = PREFERENCE.decode(line)
    except msgspec.ValidationError:
        older = OLDER_PREFERENCE.decode(line)
        return _compared(older.input, older.preferred_completion, older.non_preferred_completion, "completion")
    return _compared(pair.input, pair.preferred_output, pair.non_preferred_output, "output")


def decode_labelled(line: bytes) -> Answered:
    """A conversation with a label, or TRL's prompt and completion with one.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError, RecursionError: the line is none.
    """
    try:
        whole = LABELLED.decode(line)
    except msgspec.ValidationError:
        return _labelled_completion(LABELLED_COMPLETION.decode(line))
    *asked, last = whole.messages
    return Answered((_answered(asked, [last], whole),), wanted=whole.label)


def _compared(given: PreferenceInput, better: Sequence[Message], worse: Sequence[Message], names: str) -> Answered:
    """`names`: what the fields of both answers end with."""
    examples = tuple(_answered(given.messages, answer, given) for answer in (better, worse))
    return Answered(examples, asked="input.messages", answers=(f"preferred_{names}", f"non_preferred_{names}"))


def _labelled_completion(row: LabelledCompletion) -> Answered:
    asked = [UserMessage(row.prompt)] if isinstance(row.prompt, str) else row.prompt
    answer = [AssistantMessage(row.completion)] if isinstance(row.completion, str) else row.completion
    return Answered((_answered(asked, answer, row),), wanted=row.label, asked="prompt", answers=("completion",))


def _answered(asked: Sequence[Message], answer: Sequence[Message], given: Given) -> ChatExample:
    """A conversation of which only the last answer is trained on: only it is compared, or judged."""
    calls = None if isinstance(given, LabelledCompletion) else given.parallel_tool_calls
    return ChatExample([*map(_untrained, asked), *answer], given.tools, calls)


def _untrained(message: Message) -> Message:
    return msgspec.structs.replace(message, weight=0) if isinstance(message, AssistantMessage) else message
