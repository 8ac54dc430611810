"""What those who attend to a job share: the worker's desk, the look at the job that they hold, and their patience."""

import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import NamedTuple

from tunewise.contracts.jobs import Job
from tunewise.jobs.platform import Platform
from tunewise.jobs.trainer import Child, Spawn, spawn_module
from tunewise.machine import Machine
from tunewise.store import jobs

MAX_DEATHS = 3
GRACE_SECONDS = 15.0
POLL_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 30.0
# A child needs this much to write down why it failed; with less, its silent end is the disk's fault.
LEAST_FREE_BYTES = 256 * 1024


def spawn_study(directory: Path, lock: int) -> Child:
    """`python -m tunewise.jobs.study STUDY_DIR`."""
    return spawn_module("tunewise.jobs.study", directory, lock)


class Desk(NamedTuple):
    """What a worker gives to the one who attends to a job. `machine`: what a trainer has of it; `leaving`: it goes."""

    platform: Platform
    worker: str
    machine: Callable[[], Machine]
    spawn: Spawn
    leaving: Event
    started: Callable[[Child], None]
    spawn_study: Spawn = spawn_study

    def run_dir(self, job_id: str) -> Path:
        """Where the job's run lies."""
        return self.platform.runs_dir / job_id


class Lost(Exception):  # noqa: N818  # no error: another worker goes on with the job
    """The job is not, or no longer, this worker's."""


def look(desk: Desk, job_id: str) -> Job:
    """The job as it stands.

    Raises:
        Lost: another worker holds it, or none.
    """
    with desk.platform.database.read() as session:
        job = jobs.find(session, job_id)
    if job is None or job.owner != desk.worker:
        raise Lost
    return job


def disk_is_full(directory: Path) -> bool:
    """Whether a child's silent end is the disk's fault."""
    return shutil.disk_usage(directory).free < LEAST_FREE_BYTES


class Backoff:
    """Waits, each time twice as long; ends early when the worker leaves."""

    def __init__(self, leaving: Event) -> None:
        self._leaving = leaving
        self._seconds = 0.25

    def __call__(self) -> None:
        """Wait."""
        self._leaving.wait(self._seconds)
        self._seconds = min(2 * self._seconds, LONGEST_BACKOFF_SECONDS)
