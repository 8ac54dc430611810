"""More than one training at once: how many there is memory for, and what becomes of the others. Real trainers."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from jobs.nursery import Nursery
from jobs.surviving import Place, alive_trainers, kill_trainers, make_place, working
from tunewise.contracts.run import BaseModelRef, TrainSpec
from tunewise.jobs import room, trainer
from tunewise.jobs.worker import WAITING

# The tiny model's training is estimated at about 450 MiB: in 1500 two of them fit, in 700 one, in 300 none.
TWO, ONE, NONE = 1500, 700, 300


@pytest.fixture
def place_of(tmp_path: Path, nursery: Nursery, tiny_model: BaseModelRef) -> Callable[..., Place]:
    def make(megabytes: int, at_once: int = 2) -> Place:
        settings = {"training_memory_mb": megabytes, "trainings_at_once": at_once}
        return make_place(tmp_path, nursery, tiny_model, **settings)

    return make


def stop_trainer(place: Place, job_id: str) -> int:
    """Let the trainer stand still where it is; its process id."""
    place.wait_for_steps(job_id, 1)
    pid = trainer.pid_of(place.run_dir(job_id))
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_two_jobs_that_fit_train_at_once_each_on_its_share_of_the_cores(place_of: Callable[..., Place]) -> None:
    place = place_of(TWO)
    first, second = place.submit(), place.submit()
    with working(place):
        pid = stop_trainer(place, first)
        place.wait_for_steps(second, 1)
        assert sorted(alive_trainers(place)) == sorted([first, second])
        os.kill(pid, signal.SIGCONT)
        assert [place.wait_for(job_id, "succeeded", "failed").status for job_id in (first, second)] == ["succeeded"] * 2
    assert place.result(first).adapter_sha256 == place.result(second).adapter_sha256
    assert WAITING not in place.words(second)
    specs = [
        TrainSpec.model_validate_json((place.run_dir(job_id) / "spec.json").read_bytes()) for job_id in (first, second)
    ]
    assert [spec.threads for spec in specs] == [max(1, (psutil.cpu_count(logical=False) or 1) // 2)] * 2


def test_a_job_that_does_not_fit_waits_says_so_and_starts_when_there_is_room(place_of: Callable[..., Place]) -> None:
    place = place_of(ONE)
    first, second = place.submit(), place.submit()
    with working(place):
        pid = stop_trainer(place, first)
        place.wait(lambda: WAITING in place.words(second))
        assert place.job(second).status == "queued"
        assert alive_trainers(place) == [first]
        assert f"{second}: waits for memory, " in place.story()
        os.kill(pid, signal.SIGCONT)
        assert place.wait_for(second, "succeeded", "failed").status == "succeeded"
    assert place.job(first).status == "succeeded"
    assert place.words(second).count(WAITING) == 1
    numbers = place.numbers(second)
    assert numbers == list(range(1, len(numbers) + 1))
    started = [event.created_at for event in place.events(second) if event.message == "Fine-tuning job started"]
    assert started[0] >= (place.job(first).finished_at or 0)


def test_a_job_that_can_never_fit_fails_and_says_why(place_of: Callable[..., Place]) -> None:
    place = place_of(NONE)
    job_id = place.submit()
    with working(place):
        job = place.wait_for(job_id, "succeeded", "failed")
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("insufficient_memory", "model")
    allowed = r"takes at least 4\d\d MiB of memory, and TUNEWISE_TRAINING_MEMORY_MB allows 300 MiB"  # by number format
    assert re.search(allowed, job.error.message)
    assert "choose a smaller base model" in (place.events(job_id)[-1].message or "")


def test_two_workers_on_one_machine_count_each_others_trainers(place_of: Callable[..., Place]) -> None:
    place = place_of(ONE, at_once=1)
    first = place.submit()
    with working(place), working(place):
        pid = stop_trainer(place, first)
        second = place.submit()
        place.wait(lambda: WAITING in place.words(second))
        assert alive_trainers(place) == [first]
        os.kill(pid, signal.SIGCONT)
        assert place.wait_for(second, "succeeded", "failed").status == "succeeded"


def test_the_trainer_of_a_paused_job_keeps_its_place_until_it_has_ended(place_of: Callable[..., Place]) -> None:
    place = place_of(TWO, at_once=1)
    first, second = place.submit(), place.submit()
    with working(place):
        pid = stop_trainer(place, first)
        assert place.move(first, "paused", "The job was paused")
        place.wait(lambda: place.story().count("heartbeat") >= 0 and place.job(first).owner is not None)
        assert alive_trainers(place) == [first]
        os.kill(pid, signal.SIGCONT)
        assert place.wait_for(second, "succeeded", "failed").status == "succeeded"
    assert place.job(first).status == "paused"


def test_a_run_alone_needs_less_than_one_beside_others_and_more_beside_one_that_has_not_grown(
    place_of: Callable[..., Place],
) -> None:
    place = place_of(TWO)
    first, second = place.submit(), place.submit()
    with working(place):
        pid = stop_trainer(place, first)
        place.wait_for(second, "running", "succeeded")
        run, other = place.run_dir(second), place.run_dir(first)
        alone, beside = room.memory_wanted(run, []), room.memory_wanted(run, [other])
        assert alone < beside
        grown = room.memory_free([], place.platform.settings) - room.memory_free([other], place.platform.settings)
        assert grown == psutil.Process(pid).memory_info().rss
        kill_trainers(place)
