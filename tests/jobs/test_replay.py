"""A replayed run gives the same weights and metrics, and a changed one is found out."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from train.making import make_run, make_spec, row, train, write_rows
from tunewise.contracts.run import BaseModelRef
from tunewise.errors import TrainingError
from tunewise.jobs.replay import replay


class Silent:
    """A watcher that is told and says nothing."""

    def stage(self, name: str, title: str) -> None: ...

    def reused(self, name: str, detail: str) -> None: ...

    def progress(self, done: float, total: float, detail: str) -> None: ...

    def note(self, text: str) -> None: ...


@pytest.fixture(autouse=True)
def one_core() -> Iterator[None]:
    """As the run that is replayed: with another number of threads, sums are rounded otherwise."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(usable)})
    yield
    os.sched_setaffinity(0, usable)


@pytest.fixture
def run(tiny_model: BaseModelRef, tmp_path: Path) -> Path:
    rows = write_rows(tmp_path / "train.jsonl", [row(number) for number in range(12)])
    run = make_run(tmp_path / "run", make_spec(tiny_model, rows, n_epochs=1))
    assert train(run) == 0
    return run


def test_a_replay_gives_the_same_and_a_changed_metric_is_found(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    compared = replay(run, again, {"tunewise": "newer"}, Silent())
    assert compared.is_equal
    assert compared.steps == 3
    assert compared.changed_versions == {"tunewise": ("test", "newer")}
    events = run / "events.jsonl"
    events.write_text(events.read_text().replace('"train_loss":', '"train_loss":1', 1))
    changed = replay(run, again, {}, Silent())
    assert (changed.is_equal, changed.differing_steps) == (False, (1,))


def test_only_a_run_that_has_succeeded_is_replayed(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no run that has succeeded"):
        replay(tmp_path, tmp_path / "again", {}, Silent())
