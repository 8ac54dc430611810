"""What is trained on under each family's template, as a person reads it, and that it is what the model is asked with.

`python tests/data/test_template_families.py` writes the golden files anew. In them, « and » enclose what carries loss.
"""

import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from transformers import AutoTokenizer

from tunewise.contracts.chat import (
    AssistantMessage,
    ChatExample,
    FunctionCall,
    FunctionSpec,
    Message,
    SystemMessage,
    Tool,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from tunewise.contracts.run import BaseModelRef
from tunewise.data.sandbox import TODAY
from tunewise.data.template import Rendered, Template
from tunewise.errors import DataError

GOLDEN = Path(__file__).parents[1] / "golden" / "templates"
NAMES = ("llama3", "qwen2", "qwen3", "gemma3", "phi3", "phi4", "mistral")
WEATHER = Tool(function=FunctionSpec(name="weather", description="Of a city.", parameters={"type": "object"}))
CALL = ToolCall(id="call_Rome", function=FunctionCall(name="weather", arguments='{"city": "Rome"}'))
OTHER_CALL = ToolCall(id="call_Oslo", function=FunctionCall(name="weather", arguments='{"city": "Oslo"}'))


def turns(first_weight: Literal[0, 1] | None = None) -> list[Message]:
    return [
        UserMessage(content="Is it raining in Rome?"),
        AssistantMessage(content="No.", weight=first_weight),
        UserMessage(content="And in Oslo?"),
        AssistantMessage(content="Yes: été.\nTake a coat."),
    ]


def with_system(first_weight: Literal[0, 1] | None = None) -> list[Message]:
    return [SystemMessage(content="Be brief."), *turns(first_weight)]


def called(*calls: ToolCall) -> list[Message]:
    return [
        UserMessage(content="Is it raining in Rome?"),
        AssistantMessage(tool_calls=list(calls), weight=0),
        *(ToolMessage(content="sunny", tool_call_id=call.id) for call in calls),
        AssistantMessage(content="No."),
    ]


EXAMPLES = {
    "several turns": ChatExample(messages=turns()),
    "several turns, the last trained on": ChatExample(messages=turns(0)),
    "a system message": ChatExample(messages=with_system(0)),
    "a call": ChatExample(
        messages=[UserMessage(content="Is it raining in Rome?"), AssistantMessage(tool_calls=[CALL])], tools=[WEATHER]
    ),
    "a call and its answer": ChatExample(messages=called(CALL), tools=[WEATHER]),
    "two calls at once": ChatExample(messages=called(CALL, OTHER_CALL), tools=[WEATHER]),
}


def marked(template: Template, rendered: Rendered) -> str:
    """The text, with « and » around what carries loss."""
    text, trained = "", False
    for piece, on in zip(template.pieces(rendered.ids), rendered.mask, strict=True):
        if bool(on) != trained and piece:
            text += "«" if on else "»"
            trained = bool(on)
        text += piece
    return text + ("»" if trained else "")


def golden_text(template: Template) -> str:
    stops = " ".join(sorted(template.decode([stop], skip_special=False) for stop in template.stop_ids))
    parts = [f"ends at: {stops}\n"]
    for name, outcome in zip(EXAMPLES, template.render_batch(list(EXAMPLES.values())), strict=True):
        shown = marked(template, outcome) if isinstance(outcome, Rendered) else f"refused: {outcome.message}"
        parts.append(f"=== {name}\n{shown}\n")
    return "\n".join(parts)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_on_is_the_golden_text(name: str, family_model: Callable[[str], BaseModelRef]) -> None:
    template = Template.load(family_model(name).path)
    assert golden_text(template) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_answers_end_at_the_token_at_which_generation_stops(
    name: str, family_model: Callable[[str], BaseModelRef]
) -> None:
    template = Template.load(family_model(name).path)
    for rendered in template.render_batch(list(EXAMPLES.values())):
        if isinstance(rendered, DataError):
            continue
        trained = [i for i, on in zip(*rendered, strict=True) if on]
        assert trained[-1] in template.stop_ids
        ends = [at for at, on in enumerate(rendered.mask) if on and not any(rendered.mask[at + 1 : at + 2])]
        assert [at for at, i in enumerate(rendered.ids) if rendered.mask[at] and i in template.stop_ids] == ends


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_the_beginnings_of_rows(name: str, family_model: Callable[[str], BaseModelRef]) -> None:
    template = Template.load(family_model(name).path)
    compared = 0
    for example in EXAMPLES.values():
        rendered = template.render_batch([example])[0]
        if isinstance(rendered, DataError):
            continue
        prompt = template.prompt_ids(example.messages[:-1], example.tools)
        assert rendered.ids[: len(prompt)] == prompt
        assert (rendered.mask[len(prompt) - 1], rendered.mask[len(prompt)]) == (0, 1)
        compared += 1
    assert compared >= 4


@pytest.mark.parametrize("name", NAMES)
def test_ids_equal_those_of_transformers(name: str, family_model: Callable[[str], BaseModelRef]) -> None:
    """Where the template is told not to think, and that today is our day."""
    directory = family_model(name).path
    template, tokenizer = Template.load(directory), AutoTokenizer.from_pretrained(directory)
    for messages in (turns(0), with_system(0), with_system(0)[:3]):
        plain: list[dict[str, Any]] = [
            {"role": type(message).__name__.removesuffix("Message").lower(), "content": message.content}
            for message in messages
        ]
        text = str(tokenizer.apply_chat_template(plain, tokenize=False, enable_thinking=False))
        text = re.sub("(?<=Today Date: ).*", TODAY.strftime("%d %b %Y"), text)
        theirs = tokenizer(text, add_special_tokens=False)["input_ids"]
        weighted = [AssistantMessage(content=m.content) if m is messages[-1] else m for m in messages]
        assert template.render(ChatExample(messages=weighted)).ids == theirs


@pytest.mark.parametrize("name", NAMES)
def test_earlier_answers_are_trained_on_unless_the_template_rewrites_them(
    name: str, family_model: Callable[[str], BaseModelRef]
) -> None:
    (outcome,) = Template.load(family_model(name).path).render_batch([EXAMPLES["several turns"]])
    if name == "qwen3":
        assert isinstance(outcome, DataError)
        assert outcome.code == "template_rewrites_history"
    else:
        assert isinstance(outcome, Rendered)


def _write_golden() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from modeling.families import FAMILIES, make

    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for family in FAMILIES:
            directory = Path(scratch) / family.name
            make(family, directory)
            text = golden_text(Template.load(directory))
            (GOLDEN / f"{family.name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    _write_golden()
