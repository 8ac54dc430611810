"""What becomes of each row is counted, and what cannot be used is named with its file and line."""

from pathlib import Path

import pytest

from train.making import SUPERVISED, row, write_rows
from tunewise.contracts.run import BaseModelRef
from tunewise.data.template import Rendered, Template
from tunewise.errors import DataError, TrainingError
from tunewise.train.rows import load_rows

LONG = row(10, answers=6)


@pytest.fixture(scope="module")
def template(tiny_model: BaseModelRef) -> Template:
    return Template.load(tiny_model.path)


def test_an_overlong_row_is_an_error_with_its_line(template: Template, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "train.jsonl", [row(1), row(2), LONG])
    with pytest.raises(DataError, match=r"train\.jsonl, line 3: \d+ tokens, but a row may have 150") as caught:
        load_rows(file, template, SUPERVISED, max_tokens=150, overlong="error")
    assert caught.value.code == "overlong_row"


def test_truncation_cuts_the_end_and_is_counted(template: Template, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "train.jsonl", [row(1), LONG])
    whole = load_rows(file, template, SUPERVISED, max_tokens=2048, overlong="error").units
    loaded = load_rows(file, template, SUPERVISED, max_tokens=150, overlong="truncate")
    assert loaded.units[0] == whole[0]
    assert loaded.units[1].rows == (Rendered(whole[1].rows[0].ids[:150], whole[1].rows[0].mask[:150]),)
    assert (loaded.counts.rows, loaded.counts.trained, loaded.counts.truncated) == (2, 2, 1)


def test_dropped_and_silent_rows_are_counted(template: Template, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "train.jsonl", [row(1), LONG, row(3, weight=0)])
    counts = load_rows(file, template, SUPERVISED, max_tokens=150, overlong="drop").counts
    assert counts.model_dump() == {
        "rows": 3,
        "trained": 1,
        "truncated": 0,
        "dropped": 1,
        "nothing_to_train_on": 1,
    }


def test_a_row_that_is_cut_before_its_answer_has_nothing_to_train_on(template: Template, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "train.jsonl", [row(1)])
    with pytest.raises(DataError, match="none of 1 rows has an answer to train on within 5 tokens") as caught:
        load_rows(file, template, SUPERVISED, max_tokens=5, overlong="truncate")
    assert caught.value.code == "nothing_to_train_on"


def test_a_changed_file_is_refused(template: Template, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "train.jsonl", [row(1)])
    file.path.write_text(row(2) + "\n")
    with pytest.raises(TrainingError, match="restore the file") as caught:
        load_rows(file, template, SUPERVISED, max_tokens=150, overlong="error")
    assert caught.value.code == "changed_file"


def test_a_missing_file_is_named(template: Template, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "train.jsonl", [row(1)])
    file.path.unlink()
    with pytest.raises(TrainingError, match=r"train\.jsonl: no such file") as caught:
        load_rows(file, template, SUPERVISED, max_tokens=150, overlong="error")
    assert caught.value.code == "missing_file"


def test_a_bad_row_is_named_with_its_line(template: Template, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "train.jsonl", [row(1), '{"messages": 3}'])
    with pytest.raises(DataError, match="line 2"):
        load_rows(file, template, SUPERVISED, max_tokens=150, overlong="error")
