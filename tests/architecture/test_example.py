"""The shipped example: its files are what its script makes, and nothing in the test rows was trained on."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "recipe-assistant"
SPLITS = ("train", "valid", "test")


def messages(split: str) -> list[tuple[str, str, str]]:
    """System, user and assistant text of each row."""
    rows = (EXAMPLE / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [tuple(message["content"] for message in json.loads(row)["messages"]) for row in rows]


def shingles(text: str) -> set[str]:
    normal = re.sub(r"\W+", " ", text.lower())
    return {normal[at : at + 5] for at in range(len(normal) - 4)}


def test_the_script_makes_the_same_bytes_again(tmp_path: Path) -> None:
    subprocess.run([sys.executable, EXAMPLE / "generate.py", tmp_path], check=True)
    for split in SPLITS:
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (EXAMPLE / f"{split}.jsonl").read_bytes()


def test_there_are_enough_rows() -> None:
    assert [len(messages(split)) for split in SPLITS] == [400, 60, 100]


def test_no_two_rows_are_nearly_alike() -> None:
    marks = [shingles(f"{user} {assistant}") for split in SPLITS for _, user, assistant in messages(split)]
    closest = max(len(one & other) / len(one | other) for one, other in itertools.combinations(marks, 2))
    assert closest < 0.8


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_lists_of_generic_names_without_repetition(split: str) -> None:
    for _, user, assistant in messages(split):
        names = json.loads(assistant)
        assert len(names) == len(set(names)) >= 3, user
        assert all(re.fullmatch(r"[a-z]+( [a-z]+)*", name) for name in names), user
        assert "water" not in names


def test_every_rule_stands_in_enough_training_rows_to_be_learned() -> None:
    users = [user for _, user, _ in messages("train")]
    for rule in (
        r" or (?!to|more)",
        r"[Ss]alt (and|&)",
        r"water|ice cubes",
        r"\(optional\)",
        r"juice|zest",
        r"\n\* (For|To) ",
    ):
        assert sum(bool(re.search(rule, user)) for user in users) >= 30, rule
