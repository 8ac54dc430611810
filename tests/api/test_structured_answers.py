"""Schemas and tools all the way through the API: what the real SDK sends, and what its helpers make of the answers."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel, ConfigDict, Field

from api.live import Live, live
from jobs.nursery import Nursery
from jobs.tuned import BASE, add_tuned, make_platform
from tunewise.contracts.run import BaseModelRef

MESSAGES: list[Any] = [{"role": "user", "content": "Is it raining in Rome?"}]
FLAT_TOOL: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["c", "f"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}
SAMPLED: dict[str, Any] = {"model": BASE, "temperature": 1.0}


class Recipe(BaseModel):
    """As users write them."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(max_length=20)
    minutes: int = Field(ge=1, le=500)
    course: Literal["starter", "main", "dessert"]


class Weather(BaseModel):
    """A tool as users write them."""

    model_config = ConfigDict(extra="forbid")

    city: str = Field(max_length=12)
    unit: Literal["c", "f"]


@pytest.fixture(scope="module")
def server(tiny_model: BaseModelRef, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(make_platform(tmp_path_factory.mktemp("structured"), tiny_model), nursery=nursery) as running:
        yield running


@pytest.fixture
def client(server: Live) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=120, _strict_response_validation=True
    ) as client:
        yield client


def test_parse_gives_pydantic_objects_of_base_and_tuned_models(
    server: Live, client: OpenAI, tiny_model: BaseModelRef
) -> None:
    for model in (BASE, add_tuned(server.platform, tiny_model).name):
        parsed = client.chat.completions.parse(
            model=model, messages=MESSAGES, response_format=Recipe, temperature=1.0, seed=5, max_tokens=600
        )
        assert isinstance(parsed.choices[0].message.parsed, Recipe)


def test_a_named_tool_is_called_and_its_answer_sent_back(client: OpenAI) -> None:
    parsed = client.chat.completions.parse(
        **SAMPLED,
        messages=MESSAGES,
        tools=[pydantic_function_tool(Weather)],
        tool_choice={"type": "function", "function": {"name": "Weather"}},
        seed=2,
        max_tokens=400,
    )
    (choice,) = parsed.choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Weather)
    told: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages: Any = [*MESSAGES, choice.message, told]
    tools: Any = [pydantic_function_tool(Weather)]
    after = client.chat.completions.create(**SAMPLED, messages=messages, tools=tools, max_tokens=4)
    assert after.choices[0].finish_reason == "length"


def test_calls_stream_and_the_helper_gathers_them(client: OpenAI) -> None:
    with client.chat.completions.stream(
        **SAMPLED,
        messages=MESSAGES,
        tools=[pydantic_function_tool(Weather)],
        tool_choice="required",
        parallel_tool_calls=False,
        seed=4,
        max_tokens=400,
    ) as stream:
        deltas = [event.arguments_delta for event in stream if event.type == "tool_calls.function.arguments.delta"]
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert final.choices[0].finish_reason == "tool_calls"
    assert len(deltas) > 2
    assert Weather.model_validate_json("".join(deltas)) == call.function.parsed_arguments


def test_the_responses_api_parses_text(client: OpenAI) -> None:
    made = client.responses.parse(**SAMPLED, input="A recipe, please.", text_format=Recipe, max_output_tokens=600)
    assert isinstance(made.output_parsed, Recipe)
    assert made.text is not None
    assert made.text.format is not None
    assert made.text.format.type == "json_schema"
    loose = client.responses.create(
        **SAMPLED, input="Any.", text={"format": {"type": "json_object"}}, max_output_tokens=800
    )
    assert loose.status == "incomplete" or isinstance(json.loads(loose.output_text), dict)


def test_the_responses_api_calls_functions_and_takes_what_came_of_them(client: OpenAI) -> None:
    asked: Any = {"input": MESSAGES, "tools": [FLAT_TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    made = client.responses.create(**SAMPLED, **asked, max_output_tokens=400)
    assert (made.status, made.tool_choice, made.parallel_tool_calls) == ("completed", "required", False)
    (call,) = made.output
    assert call.type == "function_call"
    assert set(json.loads(call.arguments)) == {"city", "unit"}
    told: Any = [*MESSAGES, call, {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    after = client.responses.create(**SAMPLED, input=told, tools=asked["tools"], max_output_tokens=4)
    assert after.usage is not None
    assert made.usage is not None
    assert after.usage.input_tokens > made.usage.input_tokens


def test_a_streamed_function_call_is_told_as_it_grows(client: OpenAI) -> None:
    asked: Any = {"input": MESSAGES, "tools": [FLAT_TOOL], "tool_choice": {"type": "function", "name": "weather"}}
    told: list[Any] = list(client.responses.create(**SAMPLED, **asked, stream=True, max_output_tokens=400))
    kinds = [event.type.removeprefix("response.") for event in told]
    deltas = [event.delta for event in told if event.type == "response.function_call_arguments.delta"]
    assert [kind for kind in kinds if kind != "function_call_arguments.delta"] == [
        "created",
        "in_progress",
        "output_item.added",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in told] == list(range(len(told)))
    (item,) = told[-1].response.output
    assert (item.type, item.name, item.arguments) == ("function_call", "weather", "".join(deltas))
    assert len(deltas) > 2


def test_what_cannot_be_enforced_is_a_400_with_the_reason(client: OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as refused:
        client.chat.completions.create(**SAMPLED, messages=MESSAGES, response_format=form)
    assert refused.value.param == "response_format.json_schema.schema"
