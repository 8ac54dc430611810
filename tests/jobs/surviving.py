"""A state directory with the tiny model, jobs in it, and workers and trainers that are real processes to be killed.

Workers and trainers are forked from one process that has imported torch already: a start takes a tenth of a second,
not ten. What runs in them is the product's own code, and a trainer outlives its worker as a started one does.
"""

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import NamedTuple

import psutil

from train.making import row
from tunewise.contracts.fine_tuning import Hyperparameters, Method, Supervised
from tunewise.contracts.jobs import Job, JobEvent, JobRequest, JobStatus, StoredFile, TunedModel
from tunewise.contracts.run import BaseModelRef
from tunewise.jobs import trainer
from tunewise.jobs.platform import Platform, open_platform
from tunewise.settings import Settings
from tunewise.store import events, files, jobs, models
from tunewise.store.rows import new_id

BASE = "test/tiny"
PROJECT = "p"
STEPS = 30

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tunewise.train.__main__", "tunewise.jobs.worker"])


class Place(NamedTuple):
    """A state directory."""

    platform: Platform

    def add_file(self, rows: list[str]) -> str:
        """A stored training file; its id."""
        data = "".join(f"{line}\n" for line in rows).encode()
        file_id = new_id("file-")
        (self.platform.files_dir / file_id).write_bytes(data)
        file = StoredFile(
            id=file_id,
            project=PROJECT,
            filename="rows.jsonl",
            purpose="fine-tune",
            bytes=len(data),
            sha256=sha256(data).hexdigest(),
            created_at=1,
        )
        with self.platform.database.write() as session:
            files.add(session, file)
        return file_id

    def submit(self, rows: list[str] | None = None, **changes: object) -> str:
        """A job of 30 steps in three epochs; its id."""
        training_file = self.add_file(rows or [row(number) for number in range(40)])
        hyperparameters = Hyperparameters(n_epochs=3, batch_size=4)
        asked: dict[str, object] = {
            "model": BASE,
            "base": BASE,
            "training_file": training_file,
            "method": Method(supervised=Supervised(hyperparameters=hyperparameters)),
            "seed": 3,
        }
        job = Job(
            id=new_id("ftjob-"),
            project=PROJECT,
            organization="org",
            request=JobRequest.model_validate(asked | changes),
            status="validating_files",
            created_at=1,
        )
        with self.platform.database.write() as session:
            jobs.add(session, job)
            events.tell(session, job.id, f"Created fine-tuning job: {job.id}")
        return job.id

    def job(self, job_id: str) -> Job:
        """The job as it stands."""
        with self.platform.database.read() as session:
            found = jobs.find(session, job_id)
        assert found is not None
        return found

    def events(self, job_id: str) -> list[JobEvent]:
        """The job's story as OpenAI's dialect tells it, oldest first."""
        with self.platform.database.read() as session:
            page = events.listed(session, job_id, after=None, limit=10_000)
        assert page is not None
        return page.items[::-1]

    def models(self, job_id: str) -> list[TunedModel]:
        """The models that the job has made."""
        with self.platform.database.read() as session:
            return models.of_job(session, job_id)

    def run_dir(self, job_id: str) -> Path:
        """Where the job's run lies."""
        return self.platform.runs_dir / job_id

    def move(self, job_id: str, to: JobStatus, message: str) -> bool:
        """What the API does at cancel, pause and resume; whether it could."""
        with self.platform.database.write() as session:
            moved = jobs.transition(session, job_id, to)
            if moved is not None:
                events.tell(session, job_id, message)
            return moved is not None

    def wait(self, reached: Callable[[], bool], seconds: float = 60.0) -> None:
        """Return when it is so."""
        deadline = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < deadline, self._story()
            time.sleep(0.01)

    def wait_for(self, job_id: str, *statuses: JobStatus, seconds: float = 90.0) -> Job:
        """The job once it stands so."""
        self.wait(lambda: self.job(job_id).status in statuses, seconds)
        return self.job(job_id)

    def steps_told(self, job_id: str) -> int:
        """Lines in the trainer's journal."""
        path = self.run_dir(job_id) / "events.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def starts(self, job_id: str) -> int:
        """How many trainers have begun with the job."""
        log = self.run_dir(job_id) / trainer.LOG_FILE
        return log.read_text().count("step ") if log.exists() else 0

    def kill_trainer(self, job_id: str) -> None:
        """Kill -9, and return when it is gone."""
        assert trainer.send(self.run_dir(job_id), signal.SIGKILL)
        self.wait(lambda: not trainer.is_running(self.run_dir(job_id)))

    def _story(self) -> str:
        logs = sorted(self.platform.settings.state_dir.glob("worker*.log")) + sorted(
            self.platform.runs_dir.glob("*/log.txt")
        )
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in logs)


def make_place(directory: Path, tiny_model: BaseModelRef, **settings: object) -> Place:
    """An empty state directory whose only base model is the tiny one."""
    mine = {"home": directory / "home", "state": directory / "state", "lease_seconds": 1.0}
    chosen = Settings.model_validate(mine | settings)
    chosen.models_dir.mkdir(parents=True)
    (chosen.models_dir / "hub--test--tiny").symlink_to(tiny_model.path)
    return Place(open_platform(chosen))


class Forked:
    """A trainer that was forked instead of started; otherwise as `subprocess.Popen`."""

    def __init__(self, run_dir: Path, lock: int) -> None:
        self._process = _context.Process(target=_be_trainer, args=(run_dir, DupFd(lock)))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        return self._process.exitcode or 0


def start_worker(place: Place, concurrency: int = 1) -> ForkServerProcess:
    """A worker process; what it logs goes to the state directory."""
    process = _context.Process(target=_be_worker, args=(place.platform.settings, concurrency))
    process.start()
    return process


@contextmanager
def working(place: Place, concurrency: int = 1) -> Iterator[ForkServerProcess]:
    """A worker that is there until the end; killed then, and its trainers with it."""
    process = start_worker(place, concurrency)
    try:
        yield process
    finally:
        kill(process)
        for run_dir in place.platform.runs_dir.iterdir():
            trainer.send(run_dir, signal.SIGKILL)


def kill(process: ForkServerProcess) -> None:
    """Kill -9."""
    process.kill()
    process.join()


def leave(process: ForkServerProcess) -> None:
    """SIGTERM, and wait until it has gone."""
    process.terminate()
    process.join(30)
    assert process.exitcode == 0


def alive_trainers(place: Place) -> list[int]:
    """The trainers of this state directory."""
    return [
        pid
        for run_dir in place.platform.runs_dir.iterdir()
        if trainer.is_running(run_dir) and (pid := trainer.pid_of(run_dir)) and psutil.pid_exists(pid)
    ]


def _be_worker(settings: Settings, concurrency: int) -> None:
    from tunewise.cli.worker import _leaves, log_as_json
    from tunewise.jobs.worker import Worker

    _write_to(settings.state_dir / f"worker-{os.getpid()}.log")
    log_as_json()
    Worker(open_platform(settings), concurrency, spawn=Forked).run(_leaves(None))
    # Not through the interpreter's end, where `multiprocessing` would wait for the trainers.
    logging.shutdown()
    os._exit(0)


def _be_trainer(run_dir: Path, lock: DupFd) -> None:
    from tunewise.train.__main__ import main

    os.setsid()
    _write_to(run_dir / trainer.LOG_FILE)
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[os.getpid() % len(os.sched_getaffinity(0))]})
    sys.exit(main([str(run_dir), "--lock", str(lock.detach())]))


def _write_to(path: Path) -> None:
    with path.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
