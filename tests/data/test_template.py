"""Rendering agrees with transformers, and training sees exactly the prompts that serving sends."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tunewise.contracts.chat import (
    AssistantMessage,
    ChatExample,
    DeveloperMessage,
    FunctionCall,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from tunewise.contracts.run import BaseModelRef
from tunewise.data.formats import read_examples
from tunewise.data.template import Rendered, Template
from tunewise.errors import DataError, ModelError

TASKS = ["recipes", "gsm8k", "banking77", "e2e_nlg", "geosql", "squad_rag"]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module")
def template(tiny_model: BaseModelRef) -> Template:
    return Template.load(tiny_model.path)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: BaseModelRef) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model.path)


def plain(*turns: tuple[str, str]) -> ChatExample:
    def made(role: str, content: str) -> Message:
        match role:
            case "system":
                return SystemMessage(content=content)
            case "user":
                return UserMessage(content=content)
            case _:
                return AssistantMessage(content=content)

    return ChatExample(messages=[made(role, content) for role, content in turns])


def reference_ids(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int]:
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert isinstance(ids, list)
    return [i for i in ids if isinstance(i, int)]


def trained_text(template: Template, rendered: Rendered) -> str:
    return template.decode([i for i, m in zip(*rendered, strict=True) if m], skip_special=False)


@pytest.mark.parametrize("task", TASKS)
def test_ids_equal_apply_chat_template_on_real_rows(
    task: str, template: Template, tokenizer: PreTrainedTokenizerBase, shared_data: Path
) -> None:
    examples = [example for _, example in read_examples(shared_data / task / "test.jsonl")]
    rows = [json.loads(line) for line in (shared_data / task / "test.jsonl").read_bytes().split(b"\n") if line]
    for rendered, row in zip(template.render_batch(examples), rows, strict=True):
        assert isinstance(rendered, Rendered)
        assert rendered.ids == reference_ids(tokenizer, row["messages"])


def test_every_prompt_is_a_prefix_of_its_training_row(template: Template, shared_data: Path) -> None:
    for _, example in read_examples(shared_data / "glaive_tools" / "train.jsonl"):
        rendered = template.render(example)
        for index, message in enumerate(example.messages):
            if isinstance(message, AssistantMessage):
                prompt = template.prompt_ids(example.messages[:index], example.tools)
                assert rendered.ids[: len(prompt)] == prompt
                assert rendered.mask[len(prompt)] == 1


@given(system=texts, question=texts, answer=texts, follow_up=texts, second=texts)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_prompts_are_prefixes_whatever_the_texts(
    template: Template, system: str, question: str, answer: str, follow_up: str, second: str
) -> None:
    example = plain(
        ("system", system), ("user", question), ("assistant", answer), ("user", follow_up), ("assistant", second)
    )
    rendered = template.render(example)
    for index in (2, 4):
        prompt = template.prompt_ids(example.messages[:index])
        assert rendered.ids[: len(prompt)] == prompt
        assert not rendered.mask[len(prompt) - 1]
    kept = [template.decode(template.encode(text)) for text in (answer, second)]
    assert trained_text(template, rendered) == f"{kept[0]}<|im_end|>{kept[1]}<|im_end|>"


def test_an_answer_that_begins_with_a_newline_keeps_the_prompt_whole(
    template: Template, tokenizer: PreTrainedTokenizerBase
) -> None:
    """The one place where the ids differ from apply_chat_template, which merges the two newlines into one token."""
    example = plain(("user", "q"), ("assistant", "\n\nanswer"))
    rendered = template.render(example)
    theirs = reference_ids(
        tokenizer, [{"role": "user", "content": "q"}, {"role": "assistant", "content": "\n\nanswer"}]
    )
    assert rendered.ids != theirs
    assert template.decode(rendered.ids, skip_special=False) == template.decode(theirs, skip_special=False)


def test_a_conversation_that_the_assistant_opens_trains_on_its_text_only(template: Template) -> None:
    rendered = template.render(plain(("assistant", "Welcome!"), ("user", "hi"), ("assistant", "Yes?")))
    assert trained_text(template, rendered) == "Welcome!<|im_end|>Yes?<|im_end|>"


def test_weight_0_is_not_trained_on(template: Template) -> None:
    example = ChatExample(
        messages=[
            UserMessage(content="a"),
            AssistantMessage(content="no", weight=0),
            UserMessage(content="b"),
            AssistantMessage(content="yes", weight=1),
        ]
    )
    assert trained_text(template, template.render(example)) == "yes<|im_end|>"


def test_a_row_without_a_trained_answer_is_an_error_in_its_place(template: Template) -> None:
    silent = ChatExample(messages=[UserMessage(content="a"), AssistantMessage(content="no", weight=0)])
    good = plain(("user", "a"), ("assistant", "b"))
    first, second, third = template.render_batch([good, silent, good])
    assert isinstance(second, DataError)
    assert second.code == "nothing_to_train_on"
    assert first == third
    with pytest.raises(DataError):
        template.render(silent)


def test_developer_renders_as_system_and_parts_are_joined(template: Template) -> None:
    parts = ChatExample(
        messages=[
            DeveloperMessage(content="be brief"),
            UserMessage(content=[TextPart(text="one"), TextPart(text="two")]),
            AssistantMessage(content="ok"),
        ]
    )
    assert template.render(parts) == template.render(
        plain(("system", "be brief"), ("user", "one\ntwo"), ("assistant", "ok"))
    )


def test_tool_calls_are_trained_on_where_the_template_ignores_them(template: Template) -> None:
    call = ToolCall(id="c1", function=FunctionCall(name="weather", arguments='{"city":"Żary"}'))
    example = ChatExample(
        messages=[
            UserMessage(content="Is it raining?"),
            AssistantMessage(tool_calls=[call]),
            ToolMessage(content="yes", tool_call_id="c1"),
            AssistantMessage(content="It is."),
        ]
    )
    expected = '<tool_call>\n{"name": "weather", "arguments": {"city": "Żary"}}\n</tool_call><|im_end|>It is.<|im_end|>'
    assert trained_text(template, template.render(example)) == expected


@given(text=texts)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_join_to_the_text(template: Template, text: str) -> None:
    ids = template.encode(text)
    pieces = template.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == template.decode(ids, skip_special=False)


def copy_with_template(model: BaseModelRef, target: Path, source: str) -> Template:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (target / name).write_bytes((model.path / name).read_bytes())
    (target / "chat_template.jinja").write_text(source)
    return Template.load(target)


TOOL_TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif -%}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}
{%- for call in m.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor -%}
{% generation %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}"""


def test_a_template_with_tools_prints_them_itself(tiny_model: BaseModelRef, tmp_path: Path) -> None:
    template = copy_with_template(tiny_model, tmp_path, TOOL_TEMPLATE)
    call = ToolCall(id="c1", function=FunctionCall(name="weather", arguments='{"city": "Rome"}'))
    example = ChatExample(messages=[UserMessage(content="q"), AssistantMessage(tool_calls=[call])])
    assert trained_text(template, template.render(example)) == 'weather({"city": "Rome"})<|im_end|>'


def test_a_template_that_rewrites_history_is_refused_for_that_row(tiny_model: BaseModelRef, tmp_path: Path) -> None:
    source = "{% for m in messages %}{{ messages | length }}{{ m.content }}<|im_end|>{% endfor %}"
    template = copy_with_template(tiny_model, tmp_path, source)
    with pytest.raises(DataError, match="differently") as caught:
        template.render(plain(("user", "q"), ("assistant", "a")))
    assert caught.value.code == "template_rewrites_history"


def test_a_template_that_refuses_a_row_says_why(tiny_model: BaseModelRef, tmp_path: Path) -> None:
    refusal = "{% if messages[0].role == 'assistant' %}{{ raise_exception('a user begins') }}{% endif %}"
    source = refusal + "{{ messages[-1].content }}"
    template = copy_with_template(tiny_model, tmp_path, source)
    with pytest.raises(DataError, match="a user begins") as caught:
        template.render(plain(("assistant", "a"), ("user", "q"), ("assistant", "b")))
    assert caught.value.code == "template_refuses"


REFUSES_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
IGNORES_SYSTEM = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}"
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize("beginning", [REFUSES_SYSTEM, IGNORES_SYSTEM])
def test_a_template_without_system_turns_gets_the_text_before_the_next_question(
    beginning: str, tiny_model: BaseModelRef, tmp_path: Path
) -> None:
    template = copy_with_template(tiny_model, tmp_path, beginning + TURNS)
    rendered = template.render(
        plain(("system", "be brief"), ("user", "q"), ("assistant", "a"), ("system", "be long"), ("assistant", "b"))
    )
    assert template.decode(rendered.ids, skip_special=False) == (
        "<|im_start|>user\nbe brief\n\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
        "<|im_start|>user\nbe long<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    )


def test_the_ids_of_a_row_are_the_same_on_every_day(tiny_model: BaseModelRef, tmp_path: Path) -> None:
    template = copy_with_template(tiny_model, tmp_path, "{{ strftime_now('%Y-%m-%d') }}" + TURNS)
    assert template.decode(template.render(plain(("user", "q"), ("assistant", "a"))).ids).startswith("2025-01-01")


def test_a_template_cannot_reach_the_machine(tiny_model: BaseModelRef, tmp_path: Path) -> None:
    source = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[-1].content }}"
    with pytest.raises(DataError, match="unsafe"):
        copy_with_template(tiny_model, tmp_path, source).render(plain(("user", "q"), ("assistant", "a")))


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("tokenizer.json", None, "no_tokenizer"),
        ("chat_template.jinja", None, "no_chat_template"),
        ("chat_template.jinja", "{% if %}", "invalid_chat_template"),
    ],
)
def test_a_broken_model_directory_is_refused_by_name(
    tiny_model: BaseModelRef, tmp_path: Path, name: str, content: str | None, code: str
) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / file).write_bytes((tiny_model.path / file).read_bytes())
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelError) as caught:
        Template.load(tmp_path)
    assert caught.value.code == code
