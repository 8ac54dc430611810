"""The stage cache: same inputs, same result, taken from the disk; and never half a file."""

from pathlib import Path

import pytest

from tunewise.contracts.evaluation import Interval
from tunewise.jobs.stages import cached, input_key, write_whole

RESULT = Interval(value=0.5, low=0.4, high=0.6)


def test_a_result_is_made_once(tmp_path: Path) -> None:
    made: list[Interval] = []

    def make() -> Interval:
        made.append(RESULT)
        return RESULT

    first = cached(tmp_path / "stages" / "x.json", Interval, make)
    second = cached(tmp_path / "stages" / "x.json", Interval, make)
    assert (first, second) == ((RESULT, False), (RESULT, True))
    assert len(made) == 1


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> Interval:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cached(tmp_path / "x.json", Interval, fail)
    assert list(tmp_path.iterdir()) == []


def test_keys_tell_inputs_apart() -> None:
    keys = {input_key(), input_key(1), input_key("1"), input_key(RESULT), input_key(Path("a")), input_key([1], 2)}
    assert len(keys) == 6
    assert input_key({"a": 1, "b": 2}) == input_key({"b": 2, "a": 1})


def test_writing_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_whole(path, "long old text")
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
