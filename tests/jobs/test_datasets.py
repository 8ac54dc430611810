"""What is brought is kept as rows where it is rows of some method, and as a table to be converted where it is not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tunewise.contracts.jobs import Caller, Purpose
from tunewise.jobs import datasets
from tunewise.jobs.incoming import Receiver
from tunewise.jobs.platform import Platform, open_platform
from tunewise.settings import Settings, get_settings

CALLER = Caller(organization="o", project="p", role="admin")
ASKED, ANSWERED = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
PAIR = {"input": {"messages": [ASKED]}, "preferred_output": [ANSWERED], "non_preferred_output": [ANSWERED]}


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = open_platform(Settings(home=get_settings().home, state=tmp_path / "state"))
    yield platform
    platform.database.close()


@pytest.mark.parametrize(
    ("row", "purpose"),
    [
        ({"messages": [ASKED, ANSWERED]}, "fine-tune"),
        (PAIR, "fine-tune"),
        ({"text": "Once upon a time."}, "fine-tune"),
        ({"question": "q", "answer": "a"}, "user_data"),
        ({"instruction": "q", "input": "", "output": "a"}, "user_data"),
        ({"text": "q", "category": "a"}, "user_data"),
    ],
)
def test_rows_of_every_method_are_kept_as_rows(platform: Platform, row: dict[str, Any], purpose: Purpose) -> None:
    receiver = Receiver(platform, "rows.jsonl")
    receiver.write((json.dumps(row) + "\n").encode() * 3)
    kept = datasets.keep(platform, CALLER, receiver.finish())
    receiver.discard()
    assert kept.purpose == purpose
