"""Jobs survive: workers, trainers and both are killed with -9 at every stage, and nothing is lost or told twice.

Each test ends in the same weights, the same metrics and the same story as a run that nobody disturbed.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2e.undisturbed import CANCELLED, COUNTS, EPOCH_STEPS, PAUSED, RESUMED, metrics, weights, whole
from jobs.nursery import Nursery
from jobs.surviving import Place, WorkerProcess, alive_trainers, make_place, start_worker, working
from tunewise.contracts.run import BaseModelRef
from tunewise.jobs import trainer

pytestmark = pytest.mark.usefixtures("counts")


def kill_worker(place: Place, job_id: str, worker: WorkerProcess) -> None:
    COUNTS[f"workers killed while {place.job(job_id).status}"] += 1
    worker.kill()


def kill_trainer(place: Place, job_id: str) -> None:
    if trainer.send(place.run_dir(job_id), signal.SIGKILL):
        COUNTS["trainers killed"] += 1
        place.wait(lambda: not trainer.is_running(place.run_dir(job_id)))


def test_a_worker_killed_while_validating(place: Place, undisturbed: tuple[Place, str]) -> None:
    job_id = place.submit()
    worker = start_worker(place)
    place.wait(lambda: len(place.events(job_id)) == 2)
    kill_worker(place, job_id, worker)
    with working(place):
        whole(place, job_id, undisturbed)


def test_a_worker_killed_while_the_job_is_queued(place: Place, undisturbed: tuple[Place, str]) -> None:
    job_id = place.submit()
    worker = start_worker(place)
    place.wait_for(job_id, "queued")
    kill_worker(place, job_id, worker)
    with working(place):
        whole(place, job_id, undisturbed)


def test_a_living_trainer_is_adopted_when_its_worker_was_killed(place: Place, undisturbed: tuple[Place, str]) -> None:
    job_id = place.submit()
    worker = start_worker(place)
    place.wait_for_steps(job_id, 3)
    kill_worker(place, job_id, worker)
    with working(place):
        whole(place, job_id, undisturbed)
    assert place.starts(job_id) == 1


def test_a_worker_killed_between_a_checkpoints_copy_and_its_row(place: Place, undisturbed: tuple[Place, str]) -> None:
    """The row waits for the test's own transaction, so that the adapter is in its place and no model is named."""
    job_id = place.submit()
    worker = start_worker(place)
    place.wait_for_steps(job_id, 3)
    with place.platform.database.write():
        place.wait((place.platform.adapters_dir / f"{job_id}-step-10").is_dir)
        kill_worker(place, job_id, worker)
    assert place.models(job_id) == []
    with working(place):
        whole(place, job_id, undisturbed)
    assert sorted(path.name for path in place.platform.adapters_dir.iterdir()) == [
        f"{job_id}-step-10",
        f"{job_id}-step-20",
    ]


def test_a_worker_that_leaves_lets_the_trainer_go_on(place: Place, undisturbed: tuple[Place, str]) -> None:
    job_id = place.submit()
    worker = start_worker(place)
    place.wait_for_steps(job_id, 3)
    worker.leave()
    assert place.job(job_id).status == "running"
    COUNTS["workers that left"] += 1
    with working(place):
        whole(place, job_id, undisturbed)
    assert place.starts(job_id) == 1


def test_a_killed_trainer_goes_on_from_its_checkpoint(place: Place, undisturbed: tuple[Place, str]) -> None:
    job_id = place.submit()
    with working(place):
        for steps in (4, 13, 24):
            place.wait_for_steps(job_id, steps)
            kill_trainer(place, job_id)
        job = whole(place, job_id, undisturbed)
    assert job.attempts == 3
    assert place.starts(job_id) == 4


def test_a_trainer_that_is_killed_too_often_fails_with_the_cause(place: Place) -> None:
    job_id = place.submit()
    with working(place):
        while place.job(job_id).status not in {"failed", "succeeded"}:
            if place.starts(job_id) > place.job(job_id).attempts:
                kill_trainer(place, job_id)
    job = place.job(job_id)
    assert (job.status, job.attempts) == ("failed", 4)
    assert job.error is not None
    assert job.error.code == "training_killed"
    assert "ended 4 times without a result" in (place.events(job_id)[-1].message or "")
    assert place.models(job_id) == []


@pytest.mark.parametrize("seed", range(4))
def test_everything_killed_at_any_moment(place: Place, undisturbed: tuple[Place, str], seed: int) -> None:
    """The machine is restarted again and again: no process is left, and what follows begins from the disk alone."""
    chance = random.Random(seed)
    job_id = place.submit()
    for _ in range(3):
        worker = start_worker(place)
        wanted, later = chance.randrange(1, 32), chance.random() * 0.2
        place.wait_for_steps(job_id, wanted)
        time.sleep(later)
        kill_worker(place, job_id, worker)
        kill_trainer(place, job_id)
    with working(place):
        job = whole(place, job_id, undisturbed)
    assert job.attempts == 0, "a restart of the machine is no fault of the trainer"


def test_two_workers_share_six_jobs_and_each_is_trained_once(place: Place, undisturbed: tuple[Place, str]) -> None:
    job_ids = [place.submit() for _ in range(6)]
    with working(place), working(place):
        for job_id in job_ids:
            whole(place, job_id, undisturbed)
    assert [place.starts(job_id) for job_id in job_ids] == [1] * 6


def test_a_clock_that_is_set_back_changes_nothing(place: Place, undisturbed: tuple[Place, str]) -> None:
    job_id = place.submit()
    worker = start_worker(place, clock_shift=3600)
    place.wait(lambda: place.steps_told(job_id) >= 3 and len(place.events(job_id)) > 5)
    kill_worker(place, job_id, worker)
    with working(place):
        whole(place, job_id, undisturbed)
    times = [event.created_at for event in place.events(job_id)]
    assert times != sorted(times), "the clock was set back indeed"


def test_a_paused_job_goes_on_where_it_was(place: Place, undisturbed: tuple[Place, str]) -> None:
    job_id = place.submit()
    with working(place):
        place.wait_for_steps(job_id, 5)
        assert place.move(job_id, "paused", PAUSED)
        place.wait_until_released(job_id)
        assert alive_trainers(place) == []
        assert place.move(job_id, "queued", RESUMED)
        job = place.wait_for(job_id, "succeeded", "failed")
    assert job.status == "succeeded"
    assert weights(place, job_id) == weights(*undisturbed)
    assert metrics(place, job_id) == metrics(*undisturbed)
    assert job.attempts == 0
    assert [model.step for model in place.models(job_id) if model.step % EPOCH_STEPS == 0] == [10, 20, 30]


def test_a_job_cancelled_while_no_worker_was_there_is_stopped_by_the_next(place: Place) -> None:
    for leaves in (True, False):
        job_id = place.submit()
        worker = start_worker(place)
        place.wait_for_steps(job_id, 2)
        if leaves:
            worker.leave()
        else:
            kill_worker(place, job_id, worker)
        pid = trainer.pid_of(place.run_dir(job_id))
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        assert place.move(job_id, "cancelled", CANCELLED)
        next_worker = start_worker(place)
        os.kill(pid, signal.SIGCONT)
        place.wait_until_released(job_id)
        assert alive_trainers(place) == []
        next_worker.leave()


def test_a_full_disk_is_waited_out(
    tmp_path: Path, nursery: Nursery, tiny_model: BaseModelRef, undisturbed: tuple[Place, str]
) -> None:
    disk = tmp_path / "home-of-all"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", disk], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    place = make_place(disk, nursery, tiny_model)
    try:
        job_id = place.submit()
        with working(place):
            place.wait(lambda: "waiting" in place.story() or "disk is full" in str(place.words(job_id)))
            COUNTS["full disks"] += 1
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            job = place.wait_for(job_id, "succeeded", "failed")
        assert job.status == "succeeded"
        assert weights(place, job_id) == weights(*undisturbed)
        assert metrics(place, job_id) == metrics(*undisturbed)
        numbers = place.numbers(job_id)
        assert numbers == list(range(1, len(numbers) + 1))
    finally:
        place.platform.database.close()
        subprocess.run(["umount", "-l", disk], check=True)


def test_the_command_trains_and_its_trainer_outlives_it(place: Place, undisturbed: tuple[Place, str]) -> None:
    """Nothing is forked here: `tunewise worker` starts `python -m tunewise.train`, is killed, and is started again."""
    settings = place.platform.settings
    variables = {
        "TUNEWISE_HOME": str(settings.home),
        "TUNEWISE_STATE": str(settings.state_dir),
        "TUNEWISE_LEASE_SECONDS": "2",
    }
    command = [sys.executable, "-m", "tunewise.cli", "worker"]
    job_id = place.submit()
    with (settings.state_dir / "worker-command.log").open("ab") as log:
        first = subprocess.Popen(command, env={**os.environ, **variables}, stderr=log)
        place.wait(lambda: trainer.is_running(place.run_dir(job_id)), 120)
        first.kill()
        first.wait()
        COUNTS["workers killed while running"] += 1
        assert trainer.is_running(place.run_dir(job_id)), "while torch is imported, nobody else can start a second one"
        second = subprocess.Popen(command, env={**os.environ, **variables}, stderr=log)
        place.wait_for(job_id, "succeeded", "failed", seconds=240)
        second.terminate()
        assert second.wait(60) == 0
    assert place.job(job_id).attempts == 0
    assert place.starts(job_id) == 1
    assert metrics(place, job_id)[-1] is not None
    told, expected = place.words(job_id), undisturbed[0].words(undisturbed[1])
    assert [words.split("=")[0] for words in told] == [words.split("=")[0] for words in expected]
    logged = (settings.state_dir / "worker-command.log").read_text().splitlines()
    assert all(json.loads(line)["level"] in {"info", "warning"} for line in logged)
