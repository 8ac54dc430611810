"""The decision record: every question is there, and nothing is answered that nobody knows."""

import os
from pathlib import Path

import pytest

from evaluate.finished_run import GSM8K, RECIPES, UNDECIDED, Story, evidence
from tunewise.contracts.config import UseCase
from tunewise.evaluate.decision import NOT_KNOWN, decision_markdown, decision_record

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("story", [RECIPES, GSM8K, UNDECIDED], ids=lambda story: story.title)
def test_decision_markdown_is_as_read_and_approved(story: Story) -> None:
    """TUNEWISE_WRITE_GOLDEN=1 writes the files anew; read the difference before you commit it."""
    known = evidence(story)
    text = decision_markdown(story.title, known.verdict, decision_record(known))
    path = GOLDEN / f"{story.title}.decision.md"
    if os.environ.get("TUNEWISE_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_every_topic_and_every_alternative_is_spoken_of() -> None:
    known = evidence(RECIPES)
    lines = decision_record(known)
    assert [line.topic for line in lines] == sorted(
        (line.topic for line in lines), key=["use case", "alternatives", "cost", "benefit"].index
    )
    asked = " ".join(line.question for line in lines)
    assert all(arm.arm in asked for arm in known.arms if arm.kind != "tuned")


def test_what_the_config_does_not_say_is_not_known() -> None:
    known = evidence(RECIPES)
    silent = known._replace(config=known.config.model_copy(update={"use_case": UseCase(effort="  ")}))
    unknown = [line for line in decision_record(silent) if line.source == "not known"]
    assert len(unknown) == 4
    assert {line.answer for line in unknown} == {NOT_KNOWN}


def test_text_of_several_lines_does_not_break_the_markdown() -> None:
    known = evidence(RECIPES)
    use_case = UseCase(behaviour="one\n\n# not a heading\n- nor an item")
    told = known._replace(config=known.config.model_copy(update={"use_case": use_case}))
    text = decision_markdown("a\nb", told.verdict, decision_record(told))
    assert "\n# not" not in text
    assert text.startswith("# a b: decision record\n")
