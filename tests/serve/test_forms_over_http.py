"""Forms of answers through the real openai SDK: JSON of a schema, tool calls, penalties, and what is refused."""

import json
from typing import Annotated, Any, Literal

import openai
import pytest
from openai import LengthFinishReasonError, OpenAI, pydantic_function_tool
from pydantic import BaseModel, ConfigDict, Field

from serve.running import Server
from serve.tools import CITY, TOOLS, assert_callable

MESSAGES: list[Any] = [{"role": "user", "content": "Is it raining in Rome?"}]


class Recipe(BaseModel):
    """As users write them for `.parse`."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(max_length=20)
    minutes: int = Field(ge=1, le=500)
    course: Literal["starter", "main", "dessert"]
    steps: list[Annotated[str, Field(max_length=20)]] = Field(max_length=2)


class Weather(BaseModel):
    """A tool as users write them."""

    model_config = ConfigDict(extra="forbid")

    city: str = Field(max_length=12)
    unit: Literal["c", "f"]


def ask(client: OpenAI, **changes: Any) -> Any:  # noqa: ANN401  # the SDK's overloads cannot be spread
    wanted: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "max_tokens": 500, "temperature": 1.2, "seed": 4}
    return client.chat.completions.create(**wanted | changes)


def finished(answer: Any) -> list[Any]:  # noqa: ANN401
    return [choice for choice in answer.choices if choice.finish_reason != "length"]


def test_parse_gives_the_pydantic_object(server: Server) -> None:
    parsed = server.client.chat.completions.parse(
        model="tiny", messages=MESSAGES, response_format=Recipe, temperature=1.0, seed=1, max_tokens=1000
    )
    assert isinstance(parsed.choices[0].message.parsed, Recipe)
    assert parsed.choices[0].finish_reason == "stop"


def test_parse_tells_of_an_answer_that_was_cut(server: Server) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        server.client.chat.completions.parse(
            model="tiny", messages=MESSAGES, response_format=Recipe, temperature=1.0, max_tokens=3
        )


def test_any_json_object(server: Server) -> None:
    answer = ask(server.client, response_format={"type": "json_object"}, n=8, max_tokens=200)
    assert finished(answer)
    assert all(isinstance(json.loads(choice.message.content), dict) for choice in finished(answer))


def test_a_streamed_schema_is_the_whole_one(server: Server) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    whole = ask(server.client, response_format=form, logprobs=True).choices[0]
    chunks = [chunk.choices[0] for chunk in ask(server.client, response_format=form, stream=True)]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == whole.message.content
    assert chunks[-1].finish_reason == whole.finish_reason == "stop"
    assert b"".join(bytes(item.bytes) for item in whole.logprobs.content).decode() == whole.message.content


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_that_must_be_made_is_made(server: Server, choice: Any) -> None:  # noqa: ANN401
    answer = ask(server.client, tools=TOOLS, tool_choice=choice, n=4)
    assert finished(answer)
    ids = set()
    for one in finished(answer):
        assert one.finish_reason == "tool_calls"
        assert one.message.content is None
        for call in one.message.tool_calls:
            assert call.id.startswith("call_")
            assert call.type == "function"
            ids.add(call.id)
            assert_callable(call.function.name, json.loads(call.function.arguments))
        if choice != "required":
            assert [call.function.name for call in one.message.tool_calls] == ["weather"]
    assert len(ids) == sum(len(one.message.tool_calls) for one in finished(answer))


def test_streamed_calls_are_the_whole_ones(server: Server) -> None:
    settings: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "n": 3, "logprobs": True}
    settings["parallel_tool_calls"] = False  # noise goes on calling, and a call that is cut before its name is text
    whole = ask(server.client, **settings)
    calls: list[list[list[str]]] = [[] for _ in whole.choices]
    reasons: list[str | None] = [None] * 3
    logprobs = [0] * 3
    arguments_pieces = 0
    for chunk in ask(server.client, stream=True, **settings):
        for choice in chunk.choices:
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
            logprobs[choice.index] += len(choice.logprobs.content) if choice.logprobs else 0
            assert not choice.delta.content
            for call in choice.delta.tool_calls or []:
                if call.id:
                    assert call.index == len(calls[choice.index])
                    assert call.type == "function"
                    calls[choice.index].append([call.function.name, call.function.arguments])
                else:
                    arguments_pieces += 1
                    calls[choice.index][call.index][1] += call.function.arguments
    assert calls == [
        [[call.function.name, call.function.arguments] for call in choice.message.tool_calls or []]
        for choice in whole.choices
    ]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert logprobs == [len(choice.logprobs.content) for choice in whole.choices]
    assert arguments_pieces > sum(map(len, calls))


def test_the_sdks_stream_helper_gathers_calls_and_parses_them(server: Server) -> None:
    kinds = []
    with server.client.chat.completions.stream(
        model="tiny",
        messages=MESSAGES,
        tools=[pydantic_function_tool(Weather)],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=1.0,
        seed=2,
        max_tokens=500,
    ) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_completion().choices[0].message
    assert message.content is None
    assert message.tool_calls is not None
    assert [type(call.function.parsed_arguments) for call in message.tool_calls] == [Weather]
    assert "tool_calls.function.arguments.delta" in kinds
    assert "tool_calls.function.arguments.done" in kinds


def test_a_strict_tool_or_a_schema_as_the_model_likes(server: Server) -> None:
    seen = set()
    for seed in range(12):
        try:
            parsed = server.client.chat.completions.parse(
                model="tiny",
                messages=MESSAGES,
                response_format=Recipe,
                tools=[pydantic_function_tool(Weather)],
                temperature=1.5,
                seed=seed,
                max_tokens=1000,
            )
        except LengthFinishReasonError:  # a model of noise may not find the end of a string
            continue
        message = parsed.choices[0].message
        seen.add(parsed.choices[0].finish_reason)
        if parsed.choices[0].finish_reason == "tool_calls":
            assert message.content is None
            assert all(isinstance(call.function.parsed_arguments, Weather) for call in message.tool_calls or [])
        else:
            assert isinstance(message.parsed, Recipe)
    assert seen == {"stop", "tool_calls"}


def test_an_answer_is_sent_back_with_what_the_tool_said(server: Server) -> None:
    first = server.client.chat.completions.parse(
        model="tiny",
        messages=MESSAGES,
        tools=[pydantic_function_tool(Weather)],
        tool_choice="required",
        temperature=1.0,
        seed=3,
        max_tokens=800,
    )
    message = first.choices[0].message
    assert message.tool_calls
    told = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    second = ask(server.client, messages=[*MESSAGES, message, *told], tools=TOOLS, max_tokens=5)
    assert second.usage.prompt_tokens > first.usage.prompt_tokens if first.usage else False
    assert second.choices[0].message.tool_calls is None
    dumped = ask(server.client, messages=[*MESSAGES, message.model_dump(), *told], tools=TOOLS, max_tokens=5)
    assert dumped.choices[0].message.content == second.choices[0].message.content


def test_tools_are_told_to_the_model_unless_none_may_be_called(server: Server) -> None:
    plain = ask(server.client, max_tokens=1).usage.prompt_tokens
    assert ask(server.client, max_tokens=1, tools=TOOLS).usage.prompt_tokens > plain + 50
    assert ask(server.client, max_tokens=1, tools=TOOLS, tool_choice="none").usage.prompt_tokens == plain
    assert ask(server.client, max_tokens=1, tools=[], tool_choice="auto").usage.prompt_tokens == plain


def test_penalties_and_bias_reach_chat_and_completions(server: Server) -> None:
    settings: dict[str, Any] = {"max_tokens": 16, "temperature": 0, "extra_body": {"ignore_eos": True}}
    forced = ask(server.client, logit_bias={"17": 100}, logprobs=True, **settings)
    assert len({item.token for item in forced.choices[0].logprobs.content}) == 1
    varied = ask(
        server.client, logit_bias={"17": 100}, frequency_penalty=2, presence_penalty=2, logprobs=True, **settings
    )
    assert len({item.token for item in varied.choices[0].logprobs.content}) == 1  # 100 outweighs 4 + 15 · 2
    texts = [
        server.client.completions.create(
            model="tiny", prompt="one two", logprobs=0, frequency_penalty=penalty, **settings
        )
        for penalty in (-1.0, 1.0)
    ]
    counts = [len(set(text.choices[0].logprobs.tokens)) for text in texts if text.choices[0].logprobs]
    assert counts[0] < counts[1]


WEATHER: Any = TOOLS[0]
REFUSED: list[tuple[dict[str, Any], str, str | None]] = [
    ({"response_format": {"type": "xml"}}, "invalid_value", "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "invalid_value", "response_format"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
        "invalid_value",
        "response_format.json_schema.name",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}},
        "invalid_json_schema",
        "response_format.json_schema.schema",
    ),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "invalid_value", "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"description": "x"}}]}, "invalid_value", "tools[0].function"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "invalid_value", "tools[0].function.name"),
    ({"tools": [WEATHER, WEATHER]}, "invalid_value", "tools[1].function.name"),
    ({"tools": [WEATHER], "tool_choice": "perhaps"}, "invalid_value", "tool_choice"),
    ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
    (
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "gone"}}},
        "invalid_value",
        "tool_choice.function.name",
    ),
    (
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}],
            "tool_choice": "required",
        },
        "invalid_json_schema",
        "tools[0].function.parameters",
    ),
    ({"parallel_tool_calls": "yes please"}, "invalid_value", "parallel_tool_calls"),
]


@pytest.mark.parametrize(("changes", "code", "param"), REFUSED, ids=[str(at) for at in range(len(REFUSED))])
def test_refusals_name_the_field(server: Server, changes: dict[str, Any], code: str, param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(server.client, **changes)
    assert (refused.value.code, refused.value.param) == (code, param)
