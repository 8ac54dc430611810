"""A question to one model: the request, its answer piece by piece with what it took, and the same as code.

Goes the way that the API's requests go (`jobs.completions`), and what is shown as code is what was sent. Knows no
pages.
"""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from pprint import pformat
from typing import Any, NamedTuple, TypeAlias

import msgspec
from msgspec import Raw

from tunewise.contracts.jobs import Caller
from tunewise.errors import RequestError, ServingError
from tunewise.jobs.completions import DATA, DONE, END, Asked, Relay, Whole, complete

Json: TypeAlias = dict[str, Any]
WIDTH = 100
KEY_VARIABLE = "TUNEWISE_API_KEY"


class Sampling(NamedTuple):
    """How an answer is drawn; None: as the model server does by itself."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None


class Took(NamedTuple):
    """What an answer took: tokens, and seconds from the question to the first text and to the end."""

    prompt: int
    cached: int
    completion: int
    first: float | None
    total: float

    @property
    def tokens_per_second(self) -> float | None:
        """The speed after the first token; None for answers too short to say."""
        spent = self.total - (self.first or 0)
        return (self.completion - 1) / spent if self.completion > 1 and spent > 0 else None


class Piece(NamedTuple):
    """A part of an answer: some text, why it ended, what it took. The last piece has all but text."""

    text: str = ""
    reason: str | None = None
    took: Took | None = None


def request(model: str, messages: list[Json], sampling: Sampling) -> Json:
    """The body of the chat request."""
    chosen = {name: value for name, value in sampling._asdict().items() if value is not None}
    return {
        "model": model,
        "messages": messages,
        **chosen,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def ask(relay: Relay, caller: Caller, body: Json) -> AsyncGenerator[Piece, None]:
    """Send a request; closing the iterator ends the model's work on it.

    Raises:
        RequestError: the model is not there, or refuses the request.
        ServingError: the model's server did not start, or stopped.
    """
    began, first, reason = time.monotonic(), None, None
    fields = {name: Raw(msgspec.json.encode(value)) for name, value in body.items()}
    async with AsyncExitStack() as held:
        asked = Asked("chat/completions", fields, body["model"], wants_usage=True)
        answer = await complete(relay, lambda: caller, asked, held)
        if isinstance(answer, Whole):
            raise _refusal(msgspec.json.decode(answer.content))
        async for chunk in _chunks(answer.events):
            if "error" in chunk:
                raise ServingError(str(chunk["error"]["code"]), chunk["error"]["message"])
            for choice in chunk["choices"]:
                reason = choice["finish_reason"] or reason
                if text := choice["delta"].get("content"):
                    first = first or time.monotonic() - began
                    yield Piece(text)
            if usage := chunk.get("usage"):
                yield Piece(reason=reason, took=_took(usage, first, time.monotonic() - began))


def as_curl(body: Json, base_url: str) -> str:
    """The request as a command for a shell."""
    document = json.dumps(body, ensure_ascii=False, indent=2)
    return "\n".join(
        [
            f"curl -N {base_url}/chat/completions \\",
            '  -H "Content-Type: application/json" \\',
            f'  -H "Authorization: Bearer ${{{KEY_VARIABLE}:-none}}" \\',
            "  --data-binary @- <<'JSON'",
            document,
            "JSON",
            "",
        ]
    )


def as_python(body: Json, base_url: str) -> str:
    """The request as a script for OpenAI's client."""
    arguments = [f"    {name}={_literal(value)}," for name, value in body.items()]
    return "\n".join(
        [
            "from os import environ",
            "",
            "from openai import OpenAI",
            "",
            f'client = OpenAI(base_url="{base_url}", api_key=environ.get("{KEY_VARIABLE}", "none"))',
            "stream = client.chat.completions.create(",
            *arguments,
            ")",
            "for chunk in stream:",
            "    for choice in chunk.choices:",
            '        print(choice.delta.content or "", end="", flush=True)',
            "print()",
            "",
        ]
    )


async def _chunks(events: AsyncIterator[bytes]) -> AsyncIterator[Json]:
    async for several in events:
        for event in several.split(END):
            if event.startswith(DATA) and event != DONE:
                yield msgspec.json.decode(event.removeprefix(DATA))


def _took(usage: Json, first: float | None, total: float) -> Took:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Took(usage["prompt_tokens"], cached, usage["completion_tokens"], first, total)


def _refusal(answer: Json) -> RequestError:
    error = answer["error"]
    return RequestError(str(error["code"]), error["message"], param=error["param"])


def _literal(value: object) -> str:
    return pformat(value, width=WIDTH, sort_dicts=False).replace("\n", "\n    ")
