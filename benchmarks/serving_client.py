"""What the benchmarks of hosting share: a client that asks many at once, first tokens, the memory of a process tree."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from openai import AsyncOpenAI

from tunewise.contracts.chat import Message
from tunewise.data.formats import read_examples
from tunewise.evaluate.client import wire_message

Conversation = list[Message]


def questions(path: Path, count: int) -> list[Conversation]:
    """The first rows without their last message; ends the program where there are too few."""
    rows = [example.messages[:-1] for _, example in islice(read_examples(path), count)]
    if len(rows) < count:
        sys.exit(f"{path} has {len(rows)} rows; {count} are needed")
    return rows


def client_of(base_url: str) -> AsyncOpenAI:
    """One client per event loop would be the rule; without keep-alive it can be shared by several in turn."""
    client = AsyncOpenAI(base_url=base_url, api_key="none", timeout=600, max_retries=0)
    return client.with_options(default_headers={"Connection": "close"})


def answer_all(
    client: AsyncOpenAI, models: Sequence[str], rows: Sequence[Conversation], tokens: int, concurrent: int
) -> int:
    """Answer all rows, so many at a time, the models taking turns; gives the tokens written."""
    return asyncio.run(_answer_all(client, models, rows, tokens, concurrent))


async def _answer_all(
    client: AsyncOpenAI, models: Sequence[str], rows: Sequence[Conversation], tokens: int, concurrent: int
) -> int:
    gate = asyncio.Semaphore(concurrent)

    async def one(model: str, row: Conversation) -> int:
        async with gate:
            answer = await client.chat.completions.create(**_request(model, row, tokens), stream=False)
        assert answer.usage is not None
        return int(answer.usage.completion_tokens)

    return sum(await asyncio.gather(*(one(models[i % len(models)], row) for i, row in enumerate(rows))))


def first_tokens(client: AsyncOpenAI, models: Sequence[str], rows: Sequence[Conversation], tokens: int) -> list[float]:
    """Seconds from request to first text, for requests sent at the same moment."""
    return asyncio.run(_first_tokens(client, models, rows, tokens))


async def _first_tokens(
    client: AsyncOpenAI, models: Sequence[str], rows: Sequence[Conversation], tokens: int
) -> list[float]:
    async def one(model: str, row: Conversation) -> float:
        began = time.perf_counter()
        first = None
        stream = await client.chat.completions.create(**_request(model, row, tokens), stream=True)
        async for chunk in stream:
            if first is None and chunk.choices and chunk.choices[0].delta.content:
                first = time.perf_counter() - began
        return first or time.perf_counter() - began

    return list(await asyncio.gather(*(one(models[i % len(models)], row) for i, row in enumerate(rows))))


def rate(work: Callable[[], int]) -> float:
    """Tokens per second of work that gives how many it wrote."""
    began = time.perf_counter()
    tokens = work()
    return tokens / (time.perf_counter() - began)


def peak_mb(pid: int | None = None) -> int:
    """The largest resident sets so far of a process and its children, added up, in MB (Linux)."""
    root = psutil.Process(os.getpid() if pid is None else pid)
    return sum(_own_peak_mb(one.pid) for one in [root, *(root.children(recursive=True) if pid else [])])


def _own_peak_mb(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def _request(model: str, row: Conversation, tokens: int) -> dict[str, Any]:
    settings = {"max_tokens": tokens, "temperature": 0, "extra_body": {"ignore_eos": True}}
    return {"model": model, "messages": [wire_message(message) for message in row], **settings}
