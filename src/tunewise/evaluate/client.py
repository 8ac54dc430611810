"""Asking a model: requests to any OpenAI-compatible server, answers with tokens and latency back.

Knows HTTP through the `openai` SDK alone; knows nothing of arms, graders or which engine answers.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import msgspec
from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AuthenticationError,
    DefaultAsyncHttpxClient,
    NotFoundError,
    OpenAIError,
    PermissionDeniedError,
)
from openai.types.chat import ChatCompletion

from tunewise.addresses import is_local
from tunewise.contracts.chat import Json, Message, Tool
from tunewise.contracts.evaluation import Answer, ArmAnswers
from tunewise.errors import EvaluationError
from tunewise.evaluate.answer_log import NOTHING_COLLECTED, Collected
from tunewise.evaluate.arms import ArmRequests, Request

# A server that refuses this many requests one after the other, each retried, is gone; the rest would fail alike.
GIVE_UP_AFTER = 8
MAX_RETRIES = 4
TIMEOUT_SECONDS = 600.0
# Retried or not, these say the same of every row.
_HOPELESS = (AuthenticationError, PermissionDeniedError, NotFoundError)


class Server(NamedTuple):
    """Where to ask, and for which model. `timeout` is in seconds for each attempt."""

    base_url: str
    model: str
    api_key: str | None = None
    max_retries: int = MAX_RETRIES
    timeout: float = TIMEOUT_SECONDS


class Sampling(NamedTuple):
    """How answers are drawn; the same for all arms of a run, but for rows whose context has less room."""

    max_completion_tokens: int
    temperature: float
    seed: int | None


async def collect(
    requests: Sequence[Request],
    server: Server,
    sampling: Sampling,
    *,
    concurrency: int,
    on_answer: Callable[[Answer], None] | None = None,
    collected: Sequence[Answer] = (),
) -> list[Answer]:
    """Ask every request, `concurrency` at a time, and return the answers in the order of the requests.

    Rows that `collected` holds an answer to are not asked again; those it holds an error for are. `on_answer` hears
    of each new answer as it comes. A row that fails after all retries becomes an answer with an error. Cancelling the
    call cancels what is under way and closes all connections.

    Raises:
        EvaluationError: the server is unreachable, refuses the key or does not know the model; or every row failed.
    """
    known = {answer.row: answer for answer in collected if answer.error is None}
    waiting = [request for request in requests if request.row not in known]
    async with _client(server) as client:
        answers = known | await _answer_all(client, server, sampling, waiting, concurrency, on_answer)
    ordered = [answers[request.row] for request in requests]
    if ordered and all(answer.error for answer in ordered):
        raise EvaluationError(
            "all_requests_failed",
            f"{server.model} at {server.base_url} answered no row; the first failed with: {ordered[0].error}",
        )
    return ordered


async def answer_arm(
    arm: ArmRequests,
    server: Server,
    sampling: Sampling,
    *,
    concurrency: int,
    on_answer: Callable[[Answer], None] | None = None,
    collected: Collected = NOTHING_COLLECTED,
) -> ArmAnswers:
    """Collect the answers of one arm; the wall time includes that of the stretches before.

    Raises:
        EvaluationError: as `collect` does.
    """
    started = time.perf_counter()
    answers = await collect(
        arm.requests,
        server,
        sampling,
        concurrency=concurrency,
        on_answer=on_answer,
        collected=collected.answers,
    )
    drawn: dict[str, str | int | float] = {
        "temperature": sampling.temperature,
        "max_completion_tokens": sampling.max_completion_tokens,
    }
    return ArmAnswers(
        arm=arm.arm,
        kind=arm.kind,
        model=server.model,
        settings=arm.settings | drawn,
        answers=tuple(answers),
        concurrency=concurrency,
        wall_seconds=collected.seconds + time.perf_counter() - started,
        fit=arm.fit,
    )


def wire_message(message: Message) -> dict[str, Json]:
    """A message as JSON for a request: no empty fields, and no `weight`, which is for training."""
    fields = msgspec.to_builtins(message)
    return {name: value for name, value in fields.items() if value is not None and name != "weight"}


def wire_tool(tool: Tool) -> dict[str, Json]:
    """A tool as JSON for a request: no empty fields, its JSON schema as it stands."""
    fields = msgspec.to_builtins(tool)
    function = {name: value for name, value in fields["function"].items() if value is not None}
    return {**fields, "function": function}


def _client(server: Server) -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url=server.base_url,
        # The SDK wants a key, and without one would take the user's OpenAI key from the environment to any server.
        api_key=server.api_key or "none",
        max_retries=server.max_retries,
        timeout=server.timeout,
        # A proxy set for the internet must not get between this process and a server on the same machine.
        http_client=DefaultAsyncHttpxClient(trust_env=not is_local(server.base_url)),
    )


async def _answer_all(
    client: AsyncOpenAI,
    server: Server,
    sampling: Sampling,
    requests: Sequence[Request],
    concurrency: int,
    on_answer: Callable[[Answer], None] | None,
) -> dict[int, Answer]:
    answers: dict[int, Answer] = {}
    line = _Line()

    async def work(queue: Iterator[Request]) -> None:
        for request in queue:
            answer = await _answer(partial(_send, client, server.model, sampling, request), server, request.row, line)
            answers[request.row] = answer
            if on_answer is not None:
                on_answer(answer)

    queue = iter(requests)
    failure: EvaluationError | None = None
    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(concurrency, len(requests))):
                workers.create_task(work(queue))
    except* EvaluationError as failures:
        failure = next(error for error in failures.exceptions if isinstance(error, EvaluationError))
    if failure is not None:
        raise failure
    return answers


class _Line:
    """The connection's state over all workers: how many requests in a row did not get through."""

    def __init__(self) -> None:
        self._lost = 0

    def restored(self) -> None:
        self._lost = 0

    def lost(self, server: Server, error: APIConnectionError) -> None:
        """Count one more.

        Raises:
            EvaluationError: it was one too many.
        """
        self._lost += 1
        if self._lost >= GIVE_UP_AFTER:
            raise EvaluationError(
                "server_unreachable",
                f"no connection to {server.base_url} ({_cause(error)}), {self._lost} requests in a row; start the "
                "server and run again: the answers so far are kept",
            ) from error


async def _answer(send: Callable[[], Awaitable[ChatCompletion]], server: Server, row: int, line: _Line) -> Answer:
    started = time.perf_counter()
    try:
        completion = await send()
    except _HOPELESS as error:
        raise EvaluationError(
            "request_refused", f"{server.base_url} refused model {server.model!r}: {_cause(error)}"
        ) from error
    except OpenAIError as error:
        # A time-out is a connection error to the SDK, but it may be one long row's.
        if isinstance(error, APIConnectionError) and not isinstance(error, APITimeoutError):
            line.lost(server, error)
        return _failed(row, time.perf_counter() - started, _cause(error))
    line.restored()
    return _read(completion, row, time.perf_counter() - started)


async def _send(client: AsyncOpenAI, model: str, sampling: Sampling, request: Request) -> ChatCompletion:
    # The SDK's parameter types are TypedDicts of its own; ours are checked structs of the same form.
    body = {
        "model": model,
        "messages": [wire_message(message) for message in request.messages],
        "max_completion_tokens": request.completion or sampling.max_completion_tokens,
        "temperature": sampling.temperature,
    }
    if request.tools:
        body["tools"] = [wire_tool(tool) for tool in request.tools]
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    return await client.post("/chat/completions", body=body, cast_to=ChatCompletion)


def _read(completion: ChatCompletion, row: int, seconds: float) -> Answer:
    # The SDK checks no answer: a proxy's HTML page arrives as a str, and any field may be missing.
    if not isinstance(completion, ChatCompletion) or not completion.choices:
        return _failed(row, seconds, f"no chat completion came back but {str(completion)[:200]!r}")
    if completion.usage is None:
        raise EvaluationError(
            "no_usage", f"the server of {completion.model!r} reports no token usage, without which costs are unknown"
        )
    choice, usage = completion.choices[0], completion.usage
    details = usage.prompt_tokens_details
    return Answer(
        row=row,
        text=_printable(choice.message.content or ""),
        finish_reason=choice.finish_reason or "stop",
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=(details.cached_tokens if details else None) or 0,
        completion_tokens=usage.completion_tokens,
        seconds=seconds,
    )


def _failed(row: int, seconds: float, error: str) -> Answer:
    return Answer(
        row=row,
        text="",
        finish_reason="error",
        prompt_tokens=0,
        cached_tokens=0,
        completion_tokens=0,
        seconds=seconds,
        error=_printable(error),
    )


def _cause(error: OpenAIError) -> str:
    if isinstance(error, APIStatusError):
        return f"HTTP {error.status_code}: {error.message}"
    return f"{error} {error.__cause__ or ''}".strip()


def _printable(text: str) -> str:
    # JSON may escape half a surrogate pair, which no file can hold.
    return text.encode(errors="replace").decode()
