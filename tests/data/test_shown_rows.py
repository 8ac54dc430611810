"""What alternatives to training may show of a file: answers that are wanted, and none where there is no answer."""

import json
from pathlib import Path
from typing import Any

import pytest

from tunewise.data.formats import read_conversations

ASKED = [{"role": "user", "content": "q"}]
GOOD, BAD = [{"role": "assistant", "content": "good"}], [{"role": "assistant", "content": "bad"}]
FILES: list[tuple[list[dict[str, Any]], list[str]]] = [
    ([{"messages": [*ASKED, *GOOD]}], ["good"]),
    ([{"input": {"messages": ASKED}, "preferred_output": GOOD, "non_preferred_output": BAD}], ["good"]),
    ([{"messages": [*ASKED, *BAD], "label": False}, {"messages": [*ASKED, *GOOD], "label": True}], ["good"]),
    ([{"text": "Rye is ground at Thornby."}], []),
]


@pytest.mark.parametrize(("rows", "answers"), FILES)
def test_only_wanted_answers_are_shown(tmp_path: Path, rows: list[dict[str, Any]], answers: list[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [example.messages[-1].content for example in read_conversations(path)] == answers
