"""Which tokens carry loss, for each choice of `loss_on`. Golden: `[…]` is trained on, the rest is not.

`python tests/data/test_loss_on.py MODEL_DIRECTORY` writes the golden files anew, with that model's template.
"""

import sys
from itertools import groupby
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from tunewise.contracts.chat import AssistantMessage, ChatExample
from tunewise.contracts.fine_tuning import LossOn
from tunewise.contracts.run import BaseModelRef
from tunewise.data.check import Limits, check
from tunewise.data.formats import read_examples
from tunewise.data.template import Rendered, Template
from tunewise.errors import DataError

GOLDEN = Path(__file__).parents[1] / "golden"
CHOICES: tuple[LossOn, ...] = get_args(LossOn)
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
ROWS: dict[str, list[dict[str, object]]] = {
    "one answer": [{"role": "user", "content": "Is the sea salt?"}, {"role": "assistant", "content": "Yes."}],
    "several answers": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And 3 more?"},
        {"role": "assistant", "content": "7"},
    ],
    "an earlier answer of weight 0": [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "5", "weight": 0},
        {"role": "user", "content": "No."},
        {"role": "assistant", "content": "4"},
    ],
    "a last answer of weight 0": [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Maybe.", "weight": 0},
    ],
    "a tool": [
        {"role": "user", "content": "How warm is it in Rome?"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "30 degrees"},
        {"role": "assistant", "content": "30 degrees."},
    ],
}


@pytest.fixture(scope="module")
def template(tiny_model: BaseModelRef) -> Template:
    return Template.load(tiny_model.path)


def example(name: str) -> ChatExample:
    return msgspec.convert({"messages": ROWS[name]}, ChatExample)


def shown(template: Template, loss_on: LossOn) -> str:
    """Every row's text with what is trained on in brackets."""
    parts = []
    for name in ROWS:
        (outcome,) = template.render_batch([example(name)], loss_on)
        text = marked(template, outcome) if isinstance(outcome, Rendered) else outcome.message
        parts.append(f"--- {name} ---\n{text}")
    return "\n".join(parts) + "\n"


def marked(template: Template, row: Rendered) -> str:
    text = ""
    for trained, run in groupby(zip(row.ids, row.mask, strict=True), key=lambda pair: pair[1]):
        piece = template.decode([i for i, _ in run], skip_special=False)
        text += f"[{piece}]" if trained else piece
    return text


@pytest.mark.parametrize("loss_on", CHOICES)
def test_the_masks_are_the_golden_ones(loss_on: LossOn, template: Template) -> None:
    assert shown(template, loss_on) == (GOLDEN / f"mask_{loss_on}.txt").read_text()


def test_the_choices_lie_within_each_other_on_real_conversations(template: Template, shared_data: Path) -> None:
    examples = [row for _, row in read_examples(shared_data / "glaive_tools" / "train.jsonl")]
    several = 0
    masks = (template.render_batch(examples, choice) for choice in CHOICES)
    for row, assistant, last, every in zip(examples, *masks, strict=True):
        assert isinstance(assistant, Rendered)
        assert isinstance(last, Rendered)
        assert isinstance(every, Rendered)
        assert assistant.ids == last.ids == every.ids
        assert every.mask == [0, *[1] * (len(every.ids) - 1)]
        first = last.mask.index(1)
        assert last.mask == [0] * first + assistant.mask[first:]
        assert template.decode(last.ids[:first]).rstrip().endswith("assistant")
        several += sum(isinstance(message, AssistantMessage) for message in row.messages) > 1
        assert (last.mask == assistant.mask) == (
            sum(isinstance(message, AssistantMessage) for message in row.messages) == 1
        )
    assert several > 100


def test_a_row_whose_last_answer_has_weight_0_has_nothing_to_train_on(template: Template) -> None:
    with pytest.raises(DataError, match="loss_on is last_assistant") as caught:
        template.render(example("a last answer of weight 0"), "last_assistant")
    assert caught.value.code == "nothing_to_train_on"


@pytest.mark.parametrize("loss_on", CHOICES)
def test_the_label_inspector_shows_the_mask_of_training(loss_on: LossOn, template: Template, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(example("several answers")) + b"\n" for _ in range(10)))
    report = check([("train", path)], Limits(template, 512, "error", 512, loss_on))
    row = template.render(example("several answers"), loss_on)
    assert [int(token.trained) for token in report.inspected[0].tokens] == row.mask
    trained = report.files[0].trained_tokens_per_row
    assert trained is not None
    assert trained.total == 10 * sum(row.mask)


if __name__ == "__main__":
    for choice in CHOICES:
        (GOLDEN / f"mask_{choice}.txt").write_text(shown(Template.load(Path(sys.argv[1])), choice))
