"""Arms: from the test rows to the requests that each way of answering would send.

Pure functions from rows to messages. They know how long a prompt is only through `Window.tokens`, and nothing of
servers. What all requests of an arm share stands first and is the same to the byte, so that a prefix cache hits.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from tunewise.contracts.chat import ChatExample, DeveloperMessage, Message, SystemMessage, TextPart, Tool, UserMessage
from tunewise.contracts.config import FewShotArm, PromptArm, RetrievalArm
from tunewise.contracts.evaluation import ArmKind, Fit
from tunewise.data.conversation import text_of
from tunewise.errors import DataError, EvaluationError
from tunewise.evaluate.embedding import Embed, no_embeddings
from tunewise.evaluate.retrieval import nearest
from tunewise.evaluate.rows import EvalRow, answer_of, question_of, read_jsonl_objects


class Request(NamedTuple):
    """What is sent for one test row; `row` is its index from 0.

    `completion` is how many tokens this answer may have where that is fewer than the run's limit, else None.
    """

    row: int
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] | None
    completion: int | None = None


class ArmRequests(NamedTuple):
    """All requests of one arm, what a reader needs to build them again, and what the context had no room for."""

    arm: str
    kind: ArmKind
    requests: tuple[Request, ...]
    settings: dict[str, str | int | float]
    fit: Fit = Fit()


class Window(NamedTuple):
    """How many tokens fit. `tokens(messages, tools)` gives those of a prompt, `Template.prompt_ids`' length.

    `context` is the model's; `completion` of them are kept for the answer.
    """

    context: int
    completion: int
    tokens: Callable[[Sequence[Message], Sequence[Tool] | None], int]

    def holds(self, messages: Sequence[Message], tools: Sequence[Tool] | None) -> bool:
        """Whether the prompt and the longest answer fit together."""
        return self.tokens(messages, tools) + self.completion <= self.context

    def room(self, messages: Sequence[Message], tools: Sequence[Tool] | None) -> int:
        """Tokens that the prompt leaves for an answer; not above 0 where the prompt alone is too long."""
        return self.context - self.tokens(messages, tools)


def prompt_arm(arm: PromptArm, rows: Sequence[EvalRow]) -> ArmRequests:
    """The rows as they are, or with another system message in place of theirs."""
    settings: dict[str, str | int | float] = {}
    if arm.system is not None:
        settings["system"] = arm.system
    if arm.endpoint is not None:
        settings |= {"endpoint": arm.endpoint.base_url, "endpoint_model": arm.endpoint.model}
    requests = [Request(index, prompt_messages(row, arm.system), row.tools) for index, row in enumerate(rows)]
    return ArmRequests(arm.name, "prompt", tuple(requests), settings)


def tuned_arm(rows: Sequence[EvalRow]) -> ArmRequests:
    """The rows as they are, for the tuned model."""
    requests = [Request(index, row.messages, row.tools) for index, row in enumerate(rows)]
    return ArmRequests("tuned", "tuned", tuple(requests), {})


def few_shot_arm(
    arm: FewShotArm, rows: Sequence[EvalRow], train: Sequence[ChatExample], window: Window, *, seed: int
) -> ArmRequests:
    """The same train rows before every question, chosen once with the seed.

    `settings.k` is the number used: as many of `arm.k` as fit the context together with the longest row; it can be 0.

    Raises:
        EvaluationError: no train row ends in an assistant's text.
    """
    examples = choose_examples(train, arm.k, seed=seed)
    k = fitting_k(rows, examples, window)
    requests = [Request(i, few_shot_messages(row, examples[:k]), row.tools) for i, row in enumerate(rows)]
    settings: dict[str, str | int | float] = {"k": k, "k_asked": arm.k, "seed": seed}
    return ArmRequests(arm.name, "few_shot", tuple(requests), settings, _fit([k] * len(rows), len(examples)))


def retrieval_arm(
    arm: RetrievalArm,
    rows: Sequence[EvalRow],
    train: Sequence[ChatExample],
    window: Window,
    embed: Embed = no_embeddings,
) -> ArmRequests:
    """For each row the `k` best passages of `arm.documents`, or, without documents, the `k` most similar train rows.

    Fewer where the context is too short, for each row on its own; `settings.k_mean` is the mean number used.

    Raises:
        DataError: a document without a `text`, or none at all.
        EvaluationError: no documents, and no train row that ends in an assistant's text.
    """
    if arm.documents is not None:
        texts = read_passages(arm.documents)
        build = _passage_builder(texts)
    else:
        pool = _examples(train)
        build = _example_builder(pool)
        texts = [question_of(example.messages) for example in pool]
    found = nearest(arm.by, texts, [question_of(row.messages) for row in rows], arm.k, embed)
    fitted = [_fit_row(row, best, build, window) for row, best in zip(rows, found, strict=True)]
    requests = [
        Request(i, messages, row.tools) for i, (row, (messages, _)) in enumerate(zip(rows, fitted, strict=True))
    ]
    settings: dict[str, str | int | float] = {
        "k": max((used for _, used in fitted), default=0),
        "k_asked": arm.k,
        "k_mean": sum(used for _, used in fitted) / max(len(fitted), 1),
        "source": "train rows" if arm.documents is None else arm.documents.name,
    }
    if arm.by != "bm25":
        settings["by"] = arm.by
    fit = _fit([used for _, used in fitted], min(arm.k, len(texts)))
    return ArmRequests(arm.name, "retrieval", tuple(requests), settings, fit)


def within(arm: ArmRequests, window: Window) -> ArmRequests:
    """The arm with the answer limit of each row lowered to what the context leaves beside its prompt.

    A prompt that leaves no room for a single token is sent as it is: the server's refusal is the row's answer.
    """
    requests = tuple(_with_room(request, window) for request in arm.requests)
    lowered = sum(request.completion is not None for request in requests)
    return arm._replace(requests=requests, fit=arm.fit.model_copy(update={"lowered_limits": lowered}))


def prompt_messages(row: EvalRow, system: str | None) -> tuple[Message, ...]:
    """The row's messages; with `system`, it alone stands where the row's system messages stood."""
    if system is None:
        return row.messages
    _, turns = _split(row.messages)
    return (SystemMessage(system), *turns)


def choose_examples(train: Sequence[ChatExample], k: int, *, seed: int) -> list[ChatExample]:
    """`k` train rows to show, or as many as there are; the same for the same seed.

    Raises:
        EvaluationError: no train row ends in an assistant's text.
    """
    pool = _examples(train)
    return [pool[index] for index in random.Random(seed).sample(range(len(pool)), min(k, len(pool)))]


def few_shot_messages(row: EvalRow, examples: Sequence[ChatExample]) -> tuple[Message, ...]:
    """The row's system messages, the examples' turns, the row's own turns.

    An example's system message that the row has too is not repeated; another one goes to the head of the example's
    first user turn, as many chat templates refuse a system message in the middle of a conversation.
    """
    if not examples:
        return row.messages
    system, turns = _split(row.messages)
    shown = [message for example in examples for message in _shown(example, system)]
    return (*system, *shown, *turns)


def passage_messages(row: EvalRow, passages: Sequence[str]) -> tuple[Message, ...]:
    """The row with the passages, best first and numbered, before the text of its last user turn."""
    if not passages:
        return row.messages
    last = max((i for i, message in enumerate(row.messages) if isinstance(message, UserMessage)), default=None)
    block = "Passages:\n\n" + "\n\n".join(f"[{number}] {text}" for number, text in enumerate(passages, start=1))
    if last is None:
        return (*row.messages, UserMessage(block))
    return (*row.messages[:last], _prefixed(row.messages[last], block), *row.messages[last + 1 :])


def fitting_k(rows: Sequence[EvalRow], examples: Sequence[ChatExample], window: Window) -> int:
    """The largest k for which the first k examples fit before every row."""
    # Longest first: where k is too large, the first row tells.
    longest_first = sorted(rows, key=lambda row: -window.tokens(row.messages, row.tools))
    for k in range(len(examples), 0, -1):
        if all(window.holds(few_shot_messages(row, examples[:k]), row.tools) for row in longest_first):
            return k
    return 0


def read_passages(documents: Path) -> list[str]:
    """The `text` of each line of a JSONL file.

    Raises:
        DataError: a line that is no object with a text, or no lines.
    """
    passages = [
        _passage(documents, line, document) for line, document in read_jsonl_objects(documents, param=_DOCUMENTS)
    ]
    if not passages:
        raise DataError("empty_file", f"{documents}: no documents", param=_DOCUMENTS)
    return passages


_DOCUMENTS = "arms.retrieval.documents"
_Builder = Callable[[EvalRow, Sequence[int]], tuple[Message, ...]]


def _passage_builder(passages: Sequence[str]) -> _Builder:
    return lambda row, best: passage_messages(row, [passages[index] for index in best])


def _example_builder(pool: Sequence[ChatExample]) -> _Builder:
    # The most similar example stands last, next to the question, where a small model heeds it most.
    return lambda row, best: few_shot_messages(row, [pool[index] for index in reversed(best)])


def _fit_row(row: EvalRow, best: Sequence[int], build: _Builder, window: Window) -> tuple[tuple[Message, ...], int]:
    for k in range(len(best), 0, -1):
        messages = build(row, best[:k])
        if window.holds(messages, row.tools):
            return messages, k
    return row.messages, 0


def _fit(shown: Sequence[int], planned: int) -> Fit:
    """How many rows show fewer than `planned` examples; there can be fewer examples than the config asks for."""
    return Fit(fewer_examples=sum(k < planned for k in shown), no_examples=sum(k == 0 < planned for k in shown))


def _with_room(request: Request, window: Window) -> Request:
    room = window.room(request.messages, request.tools)
    return request._replace(completion=room) if 0 < room < window.completion else request


def _examples(train: Sequence[ChatExample]) -> list[ChatExample]:
    pool = [example for example in train if answer_of(example) is not None]
    if not pool:
        raise EvaluationError("no_train_answers", "no train row ends in an assistant's text to show as an example")
    return pool


def _split(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    system: list[Message] = [m for m in messages if isinstance(m, SystemMessage | DeveloperMessage)]
    return system, [m for m in messages if not isinstance(m, SystemMessage | DeveloperMessage)]


def _shown(example: ChatExample, system: Sequence[Message]) -> list[Message]:
    own, turns = _split(example.messages)
    known = {text_of(message.content) for message in system}
    missing = [text for message in own if (text := text_of(message.content)) not in known]
    first = next((i for i, message in enumerate(turns) if isinstance(message, UserMessage)), None)
    if not missing or first is None:
        return turns
    return [*turns[:first], _prefixed(turns[first], "\n\n".join(missing)), *turns[first + 1 :]]


def _prefixed(message: Message, text: str) -> Message:
    content = message.content
    if isinstance(content, list):
        return msgspec.structs.replace(message, content=[TextPart(f"{text}\n"), *content])
    return msgspec.structs.replace(message, content=f"{text}\n\n{content or ''}")


def _passage(documents: Path, line: int, document: dict[str, object]) -> str:
    text = document.get("text")
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            "no_text", f"{documents}, line {line}: a document needs a non-empty string in `text`", param=_DOCUMENTS
        )
    return text
