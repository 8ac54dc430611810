"""Jobs survive: workers, trainers and both are killed with -9 at every stage, and nothing is lost or told twice.

Each test ends in the same weights, the same metrics and the same story as a run that nobody disturbed.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread

import pytest

from jobs.nursery import Nursery
from jobs.surviving import Place, WorkerProcess, alive_trainers, kill_trainers, make_place, start_worker, working
from tunewise.contracts.jobs import Job
from tunewise.contracts.run import BaseModelRef
from tunewise.jobs import trainer
from tunewise.jobs.publish import publish
from tunewise.store import jobs

COUNTS: Counter[str] = Counter()


@pytest.fixture
def place(tmp_path: Path, nursery: Nursery, tiny_model: BaseModelRef) -> Iterator[Place]:
    place = make_place(tmp_path, nursery, tiny_model)
    yield place
    kill_trainers(place)
    place.platform.database.close()


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, nursery: Nursery, tiny_model: BaseModelRef
) -> Iterator[tuple[Place, str]]:
    place = make_place(tmp_path_factory.mktemp("undisturbed"), nursery, tiny_model)
    job_id = place.submit()
    with working(place):
        assert place.wait_for(job_id, "succeeded", "failed").status == "succeeded"
    yield place, job_id
    place.platform.database.close()


@pytest.fixture(scope="module", autouse=True)
def counts(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    reporter.write_line("\nsurvival: " + ", ".join(f"{name} {count}" for name, count in sorted(COUNTS.items())))


def whole(place: Place, job_id: str, undisturbed: tuple[Place, str]) -> Job:
    """Check that the job has ended as the undisturbed one: weights, metrics, models, files, a story without gaps."""
    reference, reference_id = undisturbed
    job = place.wait_for(job_id, "succeeded", "failed", "cancelled")
    assert job.status == "succeeded", place.story()
    assert weights(place, job_id) == weights(reference, reference_id)
    assert metrics(place, job_id) == metrics(reference, reference_id)
    assert place.words(job_id) == reference.words(reference_id)
    numbers = place.numbers(job_id)
    assert numbers == list(range(1, len(numbers) + 1))
    assert [model.step for model in place.models(job_id)] == [10, 20, 30]
    assert table(place, job_id) == table(reference, reference_id)
    assert not trainer.is_running(place.run_dir(job_id))
    COUNTS["jobs"] += 1
    COUNTS["events compared"] += len(numbers)
    return job


def weights(place: Place, job_id: str) -> str | None:
    result = trainer.result_of(place.run_dir(job_id))
    assert result is not None
    return result.adapter_sha256


def metrics(place: Place, job_id: str) -> list[object]:
    return [event.data for event in place.events(job_id) if event.type == "metrics"]


def table(place: Place, job_id: str) -> bytes:
    result_file = place.job(job_id).result_file
    assert result_file is not None
    return (place.platform.files_dir / result_file).read_bytes()


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
        assert place.move(job_id, "paused", "The job was paused")
        place.wait_until_released(job_id)
        assert alive_trainers(place) == []
        assert place.move(job_id, "queued", "The job was resumed")
        job = place.wait_for(job_id, "succeeded", "failed")
    assert job.status == "succeeded"
    assert weights(place, job_id) == weights(*undisturbed)
    assert metrics(place, job_id) == metrics(*undisturbed)
    assert job.attempts == 0


@pytest.mark.parametrize("seed", range(3))
def test_cancelling_races_with_success(place: Place, undisturbed: tuple[Place, str], seed: int) -> None:
    job_id = place.submit()
    with working(place):
        place.wait_for_steps(job_id, 29)
        time.sleep(seed * 0.15)
        if place.move(job_id, "cancelled", "The job was cancelled"):
            COUNTS["cancelled before success"] += 1
            place.wait_until_released(job_id)
            assert alive_trainers(place) == []
            assert place.models(job_id) == []
            assert place.job(job_id).result_file is None
        else:
            COUNTS["succeeded before cancelling"] += 1
            whole(place, job_id, undisturbed)


def test_publishing_races_with_cancelling(place: Place, undisturbed: tuple[Place, str]) -> None:
    """Fifty times, on a run that has ended: all of success or nothing of it."""
    reference, reference_id = undisturbed
    result = trainer.result_of(reference.run_dir(reference_id))
    assert result is not None
    won = Counter[str]()
    for _ in range(50):
        job_id = place.submit()
        shutil.copytree(reference.run_dir(reference_id), place.run_dir(job_id))
        with place.platform.database.write() as session:
            jobs.transition(session, job_id, "queued")
            job = jobs.transition(session, job_id, "running", owner=None)
            assert job is not None
            jobs.claim(session, job, "w")
        barrier = Barrier(2)

        def finish(job: Job = job, barrier: Barrier = barrier) -> None:
            barrier.wait()
            won["published"] += publish(place.platform, job, result, "w")

        thread = Thread(target=finish)
        thread.start()
        barrier.wait()
        won["cancelled"] += place.move(job_id, "cancelled", "The job was cancelled")
        thread.join()
        job = place.job(job_id)
        assert (len(place.models(job_id)), job.result_file is not None) == (
            (3, True) if job.status == "succeeded" else (0, False)
        )
        shutil.rmtree(place.run_dir(job_id))
    assert won.total() == 50, "one of the two wins, never both"
    COUNTS["races of publishing"] += 50


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
        assert place.move(job_id, "cancelled", "The job was cancelled")
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
