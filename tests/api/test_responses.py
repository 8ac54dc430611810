"""The Responses API with the real SDK in strict mode and a real model server: the same answers as chat's."""

import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AzureOpenAI, OpenAI

from api.live import Live, live
from jobs.nursery import Nursery
from jobs.tuned import BASE, add_tuned, make_platform
from tunewise.contracts.jobs import TunedModel
from tunewise.contracts.run import BaseModelRef
from tunewise.store import models

MESSAGES: list[Any] = [{"role": "user", "content": "Title: Crème brûlée"}]
WAIT_SECONDS = 20.0
ASKED: dict[str, Any] = {"model": BASE, "input": MESSAGES, "max_output_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def server(tiny_model: BaseModelRef, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(make_platform(tmp_path_factory.mktemp("responses"), tiny_model), nursery=nursery) as running:
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


def chat(client: OpenAI, messages: list[Any], **changes: Any) -> Any:  # noqa: ANN401  # the SDK's overloads
    wanted: dict[str, Any] = {"model": BASE, "messages": messages, "max_completion_tokens": 12, "temperature": 0}
    return client.chat.completions.create(**wanted | changes)


def respond(client: OpenAI, **changes: Any) -> Any:  # noqa: ANN401  # the SDK's overloads cannot be spread
    return client.responses.create(**ASKED | changes)


def test_a_response_says_what_chat_says_and_tells_its_tokens(client: OpenAI) -> None:
    same, made = chat(client, MESSAGES), respond(client, metadata={"a": "b"}, user="u")
    assert made.output_text == same.choices[0].message.content
    assert (made.object, made.model, made.metadata, made.user) == ("response", BASE, {"a": "b"}, "u")
    assert (made.status, made.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    used = (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens)
    assert used == (same.usage.prompt_tokens, same.usage.completion_tokens, same.usage.total_tokens)


def test_instructions_parts_and_an_earlier_answer_are_the_messages_of_a_chat(client: OpenAI) -> None:
    system = [{"role": "system", "content": "Be brief."}]
    assert respond(client, input="Hi", instructions="Be brief.").output_text == (
        chat(client, [*system, {"role": "user", "content": "Hi"}]).choices[0].message.content
    )
    first = respond(client)
    part = {"type": "input_text", "text": "And then?"}
    asked = [*MESSAGES, *(item.model_dump() for item in first.output), {"role": "user", "content": [part]}]
    said = [
        *MESSAGES,
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And then?"},
    ]
    assert respond(client, input=asked).output_text == chat(client, said).choices[0].message.content


def test_a_stream_tells_the_whole_story_in_order(client: OpenAI) -> None:
    whole = respond(client)
    told = list(respond(client, stream=True))
    kinds = [event.type.removeprefix("response.") for event in told]
    assert [kind for kind in kinds if kind != "output_text.delta"] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "incomplete",
    ]
    assert [event.sequence_number for event in told] == list(range(len(told)))
    assert "".join(event.delta for event in told if event.type == "response.output_text.delta") == whole.output_text
    last = told[-1].response
    assert (last.output_text, last.usage, last.model) == (whole.output_text, whole.usage, whole.model)
    assert {event.response.id for event in told if hasattr(event, "response")} == {last.id}
    assert told[0].response.status == "in_progress"


def test_the_sdks_stream_with_snapshots_agrees(client: OpenAI) -> None:
    with client.responses.stream(**ASKED) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
    assert snapshots[-1] == respond(client).output_text


def test_azures_clients_are_answered_by_deployment_or_tuned_model(server: Live, tuned: TunedModel) -> None:
    common: dict[str, Any] = {"api_key": "k", "max_retries": 0, "_strict_response_validation": True}
    with (
        AzureOpenAI(azure_endpoint=server.url, api_version="2025-04-01-preview", **common) as dated,
        OpenAI(base_url=f"{server.url}/openai/v1", default_query={"api-version": "preview"}, **common) as dateless,
        OpenAI(base_url=f"{server.url}/v1", **common) as plain,
    ):
        answers = [
            respond(dated, model=tuned.azure_name),
            respond(dateless, model=tuned.azure_name),
            respond(plain, model=tuned.name),
        ]
        assert len({answer.output_text for answer in answers}) == 1
        assert [answer.model for answer in answers] == [tuned.azure_name, tuned.azure_name, tuned.name]
        assert answers[0].output_text != respond(plain).output_text


def test_usage_is_kept_streamed_or_not(server: Live, client: OpenAI) -> None:
    billed = client.with_options(default_headers={"OpenAI-Project": "billed"})
    one = respond(billed).usage
    respond(billed)
    list(respond(billed, stream=True))
    kept = used(server, "billed", requests=3)
    assert (kept["prompt_tokens"], kept["completion_tokens"]) == (3 * one.input_tokens, 3 * one.output_tokens)


def used(server: Live, project: str, requests: int) -> dict[str, int]:
    """What the project has asked of the base model, once so many requests are written down."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        with server.platform.database.read() as session:
            found = models.usage(session, project, BASE)
        if found["requests"] == requests:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"store": True}, "unsupported_parameter", "store"),
    ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
    ({"background": True}, "unsupported_parameter", "background"),
    ({"tools": [{"type": "web_search"}]}, "invalid_value", "tools.0.type"),
    (
        {"tools": [{"type": "function", "name": "a b", "strict": True, "parameters": {}}]},
        "invalid_value",
        "tools[0].name",
    ),
    ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
    ({"tool_choice": {"type": "function", "name": "gone"}}, "invalid_value", "tool_choice.name"),
    ({"max_tool_calls": 3}, "unsupported_parameter", "max_tool_calls"),
    ({"reasoning": {"effort": "high"}}, "unsupported_parameter", "reasoning"),
    ({"text": {"format": {"type": "xml"}}}, "invalid_value", "text.format"),
    ({"text": {"verbosity": "low"}}, "unknown_parameter", "text.verbosity"),
    (
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"not": {}}}}},
        "invalid_json_schema",
        "text.format.schema",
    ),
    ({"truncation": "auto"}, "unsupported_parameter", "truncation"),
    ({"include": ["reasoning.encrypted_content"]}, "unsupported_parameter", "include"),
    ({"extra_body": {"colour": "red"}}, "unknown_parameter", "colour"),
    ({"extra_body": {"seed": 1}}, "unknown_parameter", "seed"),
    ({"extra_query": {"colour": "red"}}, "unknown_parameter", "colour"),
    ({"temperature": 3}, "invalid_value", "temperature"),
    ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
    ({"max_output_tokens": 5000}, "context_length_exceeded", "input"),
    ({"input": []}, "invalid_value", "input"),
    ({"input": [{"role": "tool", "content": "a"}]}, "invalid_value", "input.0.role"),
    ({"input": [{"type": "function_call_output", "call_id": "a"}]}, "missing_required_parameter", "input.0.output"),
    ({"input": [{"type": "reasoning", "summary": []}]}, "invalid_value", "input.0"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://x.test/a"}]}]},
        "",
        "input.0.content.0.type",
    ),
]


@pytest.mark.parametrize(("changes", "code", "param"), REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(
    client: OpenAI, changes: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        respond(client, **changes)
    assert (caught.value.code if code else "", caught.value.param) == (code, param)


def test_what_asks_for_nothing_is_taken(client: OpenAI) -> None:
    nothing: dict[str, Any] = {
        "store": False,
        "tools": [],
        "tool_choice": "auto",
        "truncation": "disabled",
        "text": {"format": {"type": "text"}},
        "background": False,
        "previous_response_id": None,
        "parallel_tool_calls": True,
    }
    assert respond(client, **nothing).output_text == respond(client).output_text


def test_an_unknown_model_is_told_what_there_is_and_nothing_can_be_looked_up(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        respond(client, model="gpt-9")
    assert caught.value.code == "model_not_found"
    made = respond(client)
    for gone in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            gone(made.id)
