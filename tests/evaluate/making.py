"""Rows, examples and answers in one line each, for the tests of the evaluation."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tunewise.contracts.chat import AssistantMessage, ChatExample, Json, Message, SystemMessage, UserMessage
from tunewise.contracts.evaluation import Answer
from tunewise.evaluate.rows import EvalRow


def example(question: str, answer: str, *, system: str | None = "Be brief.") -> ChatExample:
    start: list[Message] = [] if system is None else [SystemMessage(system)]
    return ChatExample([*start, UserMessage(question), AssistantMessage(answer)])


def row(reference: str = "", *, question: str = "?", system: str | None = "Be brief.", **item: Json) -> EvalRow:
    messages = tuple(example(question, reference, system=system).messages[:-1])
    return EvalRow(1, messages, None, reference, {**item, "reference": reference})


def answer(text: str, index: int = 0, *, error: str | None = None) -> Answer:
    return Answer(
        row=index,
        text=text,
        finish_reason="stop",
        prompt_tokens=1,
        cached_tokens=0,
        completion_tokens=1,
        seconds=0.1,
        error=error,
    )


def answers(texts: Iterable[str]) -> list[Answer]:
    return [answer(text, index) for index, text in enumerate(texts)]


def write_jsonl(path: Path, objects: Sequence[Json]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in objects), encoding="utf-8")
    return path


def chat(*turns: tuple[str, str]) -> dict[str, Json]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}
