"""A job's trainer at the edges: started while someone looks at its lock, stopped when the job has failed."""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from tunewise.contracts.jobs import Job, JobRequest, JobStatus
from tunewise.contracts.run import LOCK_FILE
from tunewise.jobs import trainer
from tunewise.jobs.attend import _start, attend
from tunewise.jobs.desk import Desk
from tunewise.jobs.platform import Platform, open_platform
from tunewise.jobs.trainer import Child
from tunewise.machine import probe
from tunewise.settings import Settings
from tunewise.store import jobs


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = open_platform(Settings(home=tmp_path, state=tmp_path / "state"))
    yield platform
    platform.database.close()


def sleeper(_run_dir: Path, lock: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"], pass_fds=(lock,))


def desk_of(platform: Platform, started: list[Child]) -> Desk:
    return Desk(platform, "w", probe, sleeper, Event(), started.append)


def held(platform: Platform, status: JobStatus) -> Job:
    """A job in this worker's hands, with a run directory."""
    request = JobRequest(model="m", base="m", training_file="file-1", seed=1)
    job = Job(id="ftjob-1", project="p", organization="o", request=request, status=status, created_at=1, owner="w")
    (platform.runs_dir / job.id).mkdir()
    with platform.database.write() as session:
        jobs.add(session, job)
    return job


def test_a_lock_that_someone_looks_at_is_no_trainer_that_died(platform: Platform) -> None:
    started: list[Child] = []
    desk, run_dir = desk_of(platform, started), platform.runs_dir / held(platform, "running").id
    looking = os.open(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert not _start(desk, run_dir)
    os.close(looking)
    assert _start(desk, run_dir)
    trainer.stop(run_dir, 0)
    assert [child.wait() for child in started] != [0]


def test_the_trainer_of_a_job_that_failed_is_stopped_before_the_job_is_let_go(platform: Platform) -> None:
    job = held(platform, "failed")
    run_dir = platform.runs_dir / job.id
    child = trainer.start(run_dir, sleeper)
    assert child is not None
    attend(desk_of(platform, []), job.id)
    assert not trainer.is_running(run_dir)
    child.wait()
    with platform.database.read() as session:
        after = jobs.find(session, job.id)
    assert after is not None
    assert after.owner is None
