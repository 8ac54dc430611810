"""Chat and completions through the API, with the real openai SDK in strict mode and real model servers."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import psutil
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import Completion
from pydantic import ValidationError

from api.live import Live, live
from jobs.nursery import Nursery
from jobs.tuned import BASE, PROJECT, add_tuned, make_platform
from tunewise.contracts.jobs import Deployment, TunedModel
from tunewise.contracts.run import BaseModelRef
from tunewise.jobs.completions import DYING_SECONDS
from tunewise.jobs.model_server import ModelServer
from tunewise.store import models

ALIAS = "gpt-4o-mini-2024-07-18"
MESSAGES: list[Any] = [{"role": "user", "content": "Title: Crème brûlée"}]
WAIT_SECONDS = 20.0


@pytest.fixture(scope="module")
def server(tiny_model: BaseModelRef, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    platform = make_platform(tmp_path_factory.mktemp("home"), tiny_model, aliases={ALIAS: BASE})
    with live(platform, nursery=nursery) as running:
        yield running


@pytest.fixture(scope="module")
def tuned(server: Live, tiny_model: BaseModelRef) -> TunedModel:
    return add_tuned(server.platform, tiny_model)


@pytest.fixture
def client(server: Live) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=120, _strict_response_validation=True
    ) as client:
        yield client


def ask(client: OpenAI, **changes: Any) -> Any:  # noqa: ANN401  # the SDK's overloads cannot be spread
    wanted: dict[str, Any] = {"model": BASE, "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    return client.chat.completions.create(**wanted | changes)


def model_server(server: Live) -> ModelServer:
    return server.relay.hosting.servers()[BASE]


def usage_of(server: Live, model: str, project: str = PROJECT) -> dict[str, int]:
    with server.platform.database.read() as session:
        return models.usage(session, project, model)


def until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_many_first_requests_at_once_start_one_server(server: Live) -> None:
    async def all_at_once() -> list[str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", timeout=120) as client:
            asked: dict[str, Any] = {"model": BASE, "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
            answers = await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(32)))
            return [answer.choices[0].message.content for answer in answers]

    assert len(set(asyncio.run(all_at_once()))) == 1
    logs = list(server.platform.serve_dir.glob("*.log"))
    assert [log.read_text().count("hosting") for log in logs] == [1]


@pytest.mark.parametrize("extra", [{}, {"n": 2, "temperature": 1.0, "seed": 7, "logprobs": True, "top_logprobs": 2}])
def test_a_stream_gives_what_a_whole_answer_gives(client: OpenAI, extra: dict[str, Any]) -> None:
    whole = ask(client, **extra)
    texts = [""] * len(whole.choices)
    logprobs = [0] * len(whole.choices)
    for chunk in ask(client, stream=True, **extra):
        assert (chunk.model, chunk.usage) == (BASE, None)
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            logprobs[choice.index] += len(choice.logprobs.content) if choice.logprobs else 0
    assert texts == [choice.message.content for choice in whole.choices]
    assert logprobs == [len(choice.logprobs.content) if choice.logprobs else 0 for choice in whole.choices]


def test_seed_and_stop_reach_the_model(client: OpenAI) -> None:
    sampled = {"temperature": 1.0, "extra_body": {"ignore_eos": True}}
    texts = [ask(client, seed=seed, **sampled).choices[0].message.content for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    stop = texts[0][3:6]
    stopped = ask(client, seed=1, stop=[stop], **sampled).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (texts[0][: texts[0].index(stop)], "stop")


def test_usage_ends_a_stream_only_where_it_is_asked_for(client: OpenAI) -> None:
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    for options in (None, {"include_usage": False}, {}):
        assert all(chunk.choices for chunk in ask(client, stream=True, stream_options=options))


def test_usage_is_kept_by_project_and_model_for_streams_too(server: Live, client: OpenAI, tuned: TunedModel) -> None:
    billed = client.with_options(default_headers={"OpenAI-Project": "billed"})
    one = ask(billed).usage
    for _ in ask(billed, stream=True):
        pass
    list(ask(billed, stream=True, stream_options={"include_usage": True}))
    until(lambda: usage_of(server, BASE, "billed")["requests"] == 3)
    kept = usage_of(server, BASE, "billed")
    assert (kept["prompt_tokens"], kept["completion_tokens"]) == (3 * one.prompt_tokens, 3 * one.completion_tokens)
    before = usage_of(server, tuned.name)["requests"]
    ask(client, model=tuned.azure_name)
    until(lambda: usage_of(server, tuned.name)["requests"] == before + 1)


def test_text_completions_are_answered_too(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": ALIAS, "prompt": "one two", "max_tokens": 5, "temperature": 0, "logprobs": 2}
    whole = client.completions.create(**asked)
    assert whole.model == BASE
    assert len(whole.choices[0].logprobs.tokens) == whole.usage.completion_tokens
    chunks = streamed_completion(client, **asked)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole.choices[0].text


def test_a_streamed_completion_lacks_nothing_of_the_sdks_type_but_a_finish_reason_that_is_not_there_yet(
    client: OpenAI,
) -> None:
    """The SDK's type of a chunk is that of a whole answer: strictly, a reason is needed in each, and none may be null.

    No honest stream has that: OpenAI's own chunks have null there. A stream that leaves the field out fails as well.
    """
    *chunks, last = streamed_completion(client, model=BASE, prompt="one two", max_tokens=5, temperature=0)
    assert Completion.model_validate(last).choices[0].finish_reason == "length"
    assert len(chunks) > 1
    for chunk in chunks:
        (choice,) = chunk["choices"]
        assert choice.pop("finish_reason") is None
        for reason in ({}, {"finish_reason": None}):
            with pytest.raises(ValidationError) as refused:
                Completion.model_validate(chunk | {"choices": [choice | reason]})
            assert [error["loc"] for error in refused.value.errors()] == [("choices", 0, "finish_reason")]


def streamed_completion(client: OpenAI, **asked: Any) -> list[dict[str, Any]]:  # noqa: ANN401  # the SDK's overloads
    with OpenAI(base_url=client.base_url, api_key="any", max_retries=0) as lenient:
        chunks: Any = lenient.completions.create(**asked, stream=True)
        return [chunk.to_dict() for chunk in chunks]


def test_the_answer_names_the_model_behind_an_alias(client: OpenAI) -> None:
    assert ask(client, model=ALIAS).model == BASE
    assert ask(client, model=ALIAS).choices == ask(client).choices


def test_a_tuned_model_answers_by_every_name_it_has(server: Live, client: OpenAI, tuned: TunedModel) -> None:
    deployment = Deployment(
        name="my-deployment", scope="s/r/a", project=PROJECT, model=tuned.name, created_at=1, updated_at=1
    )
    with server.platform.database.write() as session:
        models.put_deployment(session, deployment)
    names = {
        tuned.name: tuned.name,
        tuned.azure_name: tuned.azure_name,
        tuned.id: tuned.name,
        "my-deployment": tuned.name,
    }
    answers = [ask(client, model=name) for name in names]
    assert [answer.model for answer in answers] == list(names.values())
    (text,) = {answer.choices[0].message.content for answer in answers}
    assert text != ask(client).choices[0].message.content
    streamed = list(ask(client, model=tuned.azure_name, stream=True))
    assert {chunk.model for chunk in streamed} == {tuned.azure_name}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == text


def test_an_unknown_model_is_told_what_there_is(client: OpenAI, tuned: TunedModel) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, model="gpt-9")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    for name in (BASE, ALIAS, tuned.name):
        assert name in caught.value.message


def test_another_projects_model_is_not_there(client: OpenAI, tuned: TunedModel) -> None:
    ask(client, model=tuned.name)
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client.with_options(default_headers={"OpenAI-Project": "other"}), model=tuned.name)
    assert tuned.name not in caught.value.message.split("The models here are")[1]


REFUSED: list[tuple[dict[str, Any], str, str | None]] = [
    ({"extra_body": {"colour": "red"}}, "unknown_parameter", "colour"),
    ({"tools": [{"type": "function", "function": {"name": "no blanks"}}]}, "invalid_value", "tools[0].function.name"),
    ({"temperature": 3}, "invalid_value", "temperature"),
    ({"max_tokens": 5000}, "context_length_exceeded", "messages"),
    ({"messages": []}, "invalid_messages", "messages"),
    ({"stream": "yes"}, "invalid_value", "stream"),
    ({"stream": True, "stream_options": {"colour": "red"}}, "unknown_parameter", "stream_options.colour"),
    ({"stream": True, "stream_options": {"include_usage": "maybe"}}, "invalid_value", "stream_options.include_usage"),
    ({"stream": True, "stream_options": 5}, "invalid_value", "stream_options"),
    ({"stream_options": {"include_usage": True}}, "invalid_value", None),
]


@pytest.mark.parametrize(("changes", "code", "param"), REFUSED)
def test_a_wrong_field_is_refused_by_name(client: OpenAI, changes: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **changes)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'{"model": ', "invalid_json"),
        (b'{"model": 5, "messages": []}', "invalid_value"),
        (b'{"model": "\xff", "messages": []}', "invalid_json"),
        (b'{"model": "\\u0000", "messages": []}', "invalid_value"),
        (b'{"messages": []}', "missing_required_parameter"),
        (b'{"model": "tests/tiny", "messages": "\xff"}', "invalid_json"),
        (b'{"model": "tests/tiny", "messages": ' + b"[" * 150 + b"]" * 150 + b"}", "invalid_value"),
        (b'{"model": "tests/tiny", "messages": ' + b"[" * 100_000 + b"}", "invalid_json"),
    ],
)
def test_a_body_that_is_no_request_is_a_clear_400(server: Live, body: bytes, code: str) -> None:
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_a_server_killed_between_requests_is_back_for_the_next(server: Live, client: OpenAI, tuned: TunedModel) -> None:
    before = ask(client, model=tuned.name).choices
    killed = model_server(server).pid
    os.kill(killed, signal.SIGKILL)
    assert ask(client, model=tuned.name).choices == before
    assert model_server(server).pid != killed


def test_a_server_killed_during_a_request_is_a_503_that_says_so(server: Live, client: OpenAI) -> None:
    ask(client)

    async def killed() -> None:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=120) as asking:
            long: dict[str, Any] = {"model": BASE, "messages": MESSAGES, "n": 16, "extra_body": {"ignore_eos": True}}
            waiting = asyncio.create_task(asking.chat.completions.create(**long))
            stream = await asking.chat.completions.create(**long, stream=True)
            await anext(aiter(stream))
            await asyncio.sleep(2 * DYING_SECONDS)
            os.kill(model_server(server).pid, signal.SIGKILL)
            with pytest.raises(openai.InternalServerError, match="stopped while it answered; send") as caught:
                await waiting
            assert (caught.value.status_code, caught.value.code) == (503, "model_server_stopped")
            with pytest.raises(openai.APIError, match="stopped while it answered; send"):
                async for _ in stream:
                    pass

    asyncio.run(killed())
    assert ask(client).choices


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_the_work(server: Live, client: OpenAI, stream: bool) -> None:
    ask(client)
    process = psutil.Process(model_server(server).pid)
    body = {"model": BASE, "messages": MESSAGES, "stream": stream, "n": 64, "ignore_eos": True}
    with httpx.Client(timeout=2) as leaving:
        if stream:
            with leaving.stream("POST", f"{server.url}/v1/chat/completions", json=body) as answer:
                assert next(answer.iter_bytes())
        else:
            with pytest.raises(httpx.ReadTimeout):
                leaving.post(f"{server.url}/v1/chat/completions", json=body)
    until(lambda: model_server(server).idle_seconds() > 0)

    def rests() -> bool:
        used = process.cpu_times().user
        time.sleep(0.5)
        return process.cpu_times().user - used < 0.1

    until(rests)


def test_too_many_requests_are_told_when_to_come_back(
    tiny_model: BaseModelRef, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def flood(url: str) -> list[httpx.Response]:
        body = {"model": BASE, "prompt": "one", "max_tokens": 20, "ignore_eos": True}
        async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=None)) as flooding:
            posts = [flooding.post(f"{url}/v1/completions", json=body) for _ in range(96)]
            return await asyncio.gather(*posts)

    platform = make_platform(tmp_path_factory.mktemp("home"), tiny_model, hosted_waiting=1)
    with live(platform, nursery=nursery) as running:
        answers = asyncio.run(flood(running.url))
    assert {answer.status_code for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "queue_full"
