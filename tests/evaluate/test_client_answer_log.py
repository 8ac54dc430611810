from pathlib import Path

import pytest

from evaluate.making import answer
from tunewise.errors import EvaluationError
from tunewise.evaluate.answer_log import NOTHING_COLLECTED, AnswerLog, read_answers


def write(path: Path, *entries: tuple[str, int]) -> None:
    with AnswerLog(path) as log:
        for text, row in entries:
            log.write(answer(text, row))


def texts(path: Path) -> dict[int, str]:
    return {entry.row: entry.text for entry in read_answers(path).answers}


def test_a_missing_file_holds_nothing(tmp_path: Path) -> None:
    assert read_answers(tmp_path / "none.jsonl") == NOTHING_COLLECTED


def test_an_answer_is_in_the_file_once_it_is_written(tmp_path: Path) -> None:
    with AnswerLog(tmp_path / "a.jsonl") as log:
        log.write(answer("line\nbreak \u2028 ж", 0))
        assert texts(tmp_path / "a.jsonl") == {0: "line\nbreak \u2028 ж"}


def test_a_later_answer_to_the_same_row_replaces_the_earlier(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ("first", 0), ("other", 1))
    write(tmp_path / "a.jsonl", ("second", 0))
    assert texts(tmp_path / "a.jsonl") == {0: "second", 1: "other"}


def test_a_file_cut_at_any_byte_keeps_its_whole_lines_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, ("one", 0), ("two", 1))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = {row: text for row, text in enumerate(["one", "two"]) if cut >= [first, len(whole)][row]}
        assert texts(path) == kept
        write(path, ("three", 2))
        assert texts(path) == kept | {2: "three"}


def test_the_wall_time_is_that_of_all_stretches(tmp_path: Path) -> None:
    line = '{{"stretch": {}, "elapsed": {}, "answer": {}}}\n'
    lines = [(0, 1.0, 0), (0, 4.0, 1), (1, 0.5, 2), (1, 2.0, 3)]
    text = "".join(line.format(stretch, at, answer("x", row).model_dump_json()) for stretch, at, row in lines)
    (tmp_path / "a.jsonl").write_text(text)
    collected = read_answers(tmp_path / "a.jsonl")
    assert (collected.seconds, collected.stretches, len(collected.answers)) == (6.0, 2, 4)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(EvaluationError, match=r"a\.jsonl, line 1 is no answer; delete the file"):
        AnswerLog(tmp_path / "a.jsonl")
