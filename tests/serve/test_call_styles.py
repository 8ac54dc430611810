"""Each family's way of writing calls is found, enforced and read back."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from serve.tools import CITY, TOOLS, assert_callable
from tunewise.contracts.chat import AssistantMessage, ChatExample, FunctionCall, ToolCall, UserMessage
from tunewise.contracts.run import BaseModelRef
from tunewise.data.template import Template
from tunewise.errors import ConfigError
from tunewise.serve.call_reader import CallArguments, CallBegun, Said, Told
from tunewise.serve.call_styles import Style, call_writer
from tunewise.serve.forms import Forms, Prepared
from tunewise.serve.grammars import allowed
from tunewise.serve.wire_forms import Form, read_form

STYLES: dict[str, Style] = {
    "llama3": "bare",
    "qwen2": "tags",
    "qwen3": "tags",
    "gemma3": "tags",
    "phi3": "tags",
    "phi4": "tags",
    "mistral": "list",
}
WALKS, TOKENS_MAX = 30, 400


def strict_tools() -> list[dict[str, Any]]:
    return [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]


def answers(template: Template, prepared: Prepared, seed: int = 0) -> list[str]:
    """Texts that the grammar lets through, drawn at random; those that came to an end."""
    assert prepared.grammar is not None
    numbers, size = random.Random(seed), template.tokenizer.get_vocab_size()
    decode = prepared.decode or template.decode
    texts = []
    for _ in range(WALKS):
        walk, ids = prepared.grammar.begin(), list[int]()
        while not walk.is_over() and len(ids) < TOKENS_MAX:
            token = numbers.choice(allowed([walk], size)[0].nonzero().flatten().tolist())
            walk.take(token)
            if token not in template.stop_ids:
                ids.append(token)
        assert walk.problem() is None
        if walk.is_over():
            texts.append(decode(ids))
    return texts


def read(prepared: Prepared, text: str) -> tuple[str, list[tuple[str, Any]]]:
    assert prepared.calls is not None
    told: list[Told] = prepared.calls.reader().push(text, final=True)
    calls = [(one.name, one.number) for one in told if isinstance(one, CallBegun)]
    said = "".join(one.text for one in told if isinstance(one, Said))

    def arguments(number: int) -> str:
        return "".join(one.text for one in told if isinstance(one, CallArguments) and one.number == number)

    return said, [(name, json.loads(arguments(number))) for name, number in calls]


@pytest.fixture(params=[*STYLES, "smollm2"])
def template(
    request: pytest.FixtureRequest, family_model: Callable[[str], BaseModelRef], smollm2: BaseModelRef
) -> Template:
    return Template.load(smollm2.path if request.param == "smollm2" else family_model(request.param).path)


def prepared(template: Template, **fields: Any) -> Prepared:  # noqa: ANN401
    wanted = {"response_format": None, "tools": TOOLS, "tool_choice": "auto", "parallel": None} | fields
    return Forms(template, template.tokenizer.get_vocab_size()).prepare(read_form(**wanted))


@pytest.mark.parametrize("name", STYLES)
def test_the_style_is_the_familys(name: str, family_model: Callable[[str], BaseModelRef]) -> None:
    assert call_writer(Template.load(family_model(name).path)).style == STYLES[name]


def test_what_training_renders_is_read_back(template: Template) -> None:
    call = ToolCall(id="call00001", function=FunctionCall(name="weather", arguments='{"city": "Åre", "days": 2}'))
    form, ready = read_form(None, TOOLS, "auto", None), prepared(template)
    question = UserMessage(content="q")
    example = ChatExample(messages=[question, AssistantMessage(tool_calls=[call])], tools=list(form.tools))
    ids, mask = template.render(example)
    prompt = template.prompt_ids([question], form.tools)
    assert ids[: len(prompt)] == prompt
    answer = [i for i, on in zip(ids, mask, strict=True) if on and i not in template.stop_ids]
    said, calls = read(ready, (ready.decode or template.decode)(answer))
    assert (said, calls) == ("", [("weather", {"city": "Åre", "days": 2})])


def test_a_required_call_is_a_call_and_nothing_else(template: Template) -> None:
    ready = prepared(template, tool_choice="required")
    made = [read(ready, text) for text in answers(template, ready)]
    assert len(made) >= WALKS // 3
    for said, calls in made:
        assert said == ""
        assert calls
        for name, arguments in calls:
            assert_callable(name, arguments)
    assert {name for _, calls in made for name, _ in calls} == {"weather", "now"}


def test_a_named_function_is_called_once(template: Template) -> None:
    ready = prepared(template, tool_choice={"type": "function", "function": {"name": "now"}})
    assert {str(read(ready, text)) for text in answers(template, ready)} == {str(("", [("now", {})]))}


def test_one_call_where_parallel_calls_are_not_wanted(template: Template) -> None:
    ready = prepared(template, tool_choice="required", parallel=False)
    assert {len(read(ready, text)[1]) for text in answers(template, ready)} == {1}


def test_a_schema_for_text_leaves_the_choice_between_text_and_calls(template: Template) -> None:
    ready = prepared(template, response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}})
    made = [read(ready, text) for text in answers(template, ready)]
    for said, calls in made:
        assert bool(said) != bool(calls)
        for name, arguments in calls:
            assert_callable(name, arguments)
        if said:
            jsonschema_rs.validate(CITY, json.loads(said))
    assert {bool(calls) for _, calls in made} == {True, False}


def test_a_strict_function_is_enforced_once_a_call_begins(template: Template) -> None:
    """The model is free until it writes the trigger, here put into its mouth; then only a right call goes on."""
    forms = Forms(template, template.tokenizer.get_vocab_size())
    ready = forms.prepare(read_form(None, strict_tools(), "auto", None))
    assert ready.grammar is not None
    trigger = {"tags": "Well, <tool_call>", "list": "[TOOL_CALLS]", "bare": '{"name": "'}[forms.writer.style or "tags"]
    walk = ready.grammar.begin()
    ids = template.encode(trigger)
    for token in ids:
        assert allowed([walk], template.tokenizer.get_vocab_size())[0, token]
        walk.take(token)
    numbers, made = random.Random(5), list(ids)
    while not walk.is_over() and len(made) < TOKENS_MAX:
        choices = allowed([walk], template.tokenizer.get_vocab_size())[0].nonzero().flatten().tolist()
        ends = template.stop_ids & set(choices)
        token = next(iter(ends)) if ends else numbers.choice(choices)
        walk.take(token)
        made += [] if ends else [token]
    assert walk.problem() is None
    said, calls = read(ready, (ready.decode or template.decode)(made))
    assert len(calls) == 1
    assert "<tool_call>" not in said  # but a token may end the call and begin further text
    assert_callable(*calls[0])


def test_functions_that_are_not_strict_are_not_enforced(template: Template) -> None:
    assert prepared(template).grammar is None


def test_no_choice_means_no_tools() -> None:
    assert read_form(None, TOOLS, "none", None) == Form()
    assert read_form(None, None, None, True) == Form()


def test_tools_are_refused_where_the_template_writes_calls_in_another_way(
    smollm2: BaseModelRef, tmp_path: Path
) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(smollm2.path / file, tmp_path / file)
    source = (smollm2.path / "chat_template.jinja").read_text()
    calls = "(message.tool_calls | string if message.tool_calls else '')"
    source = source.replace("+ message['content'] +", f"+ message['content'] + {calls} +")
    (tmp_path / "chat_template.jinja").write_text(source)
    template = Template.load(tmp_path)
    assert call_writer(template).style is None
    with pytest.raises(ConfigError, match="cannot read back") as refused:
        prepared(template)
    assert refused.value.param == "tools"


def test_a_schema_of_a_tool_is_refused_by_its_place(smollm2: BaseModelRef) -> None:
    wrong = {"type": "function", "function": {"name": "wrong", "parameters": {"not": {}}}}
    with pytest.raises(ConfigError, match="not") as refused:
        prepared(Template.load(smollm2.path), tools=[*TOOLS, wrong], tool_choice="required")
    assert refused.value.param == "tools[2].function.parameters"
    assert prepared(Template.load(smollm2.path), tools=[*TOOLS, wrong]).calls is not None
