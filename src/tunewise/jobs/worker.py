"""A worker: takes jobs that nobody holds, or whose holder has fallen silent, and attends to each in a thread.

Time is only ever measured here, on this process's monotonic clock: another worker has fallen silent when its beat has
stood still for the length of a lease while this one was watching. Knows which jobs to take and when; what is done with
a job is `jobs.attend`'s.
"""

import logging
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from threading import Event, Thread

from tunewise import machine
from tunewise.contracts.jobs import Job, JobStatus
from tunewise.contracts.study import STUDY_DIR
from tunewise.errors import StoreError
from tunewise.evaluate.wording import size
from tunewise.jobs import room, trainer
from tunewise.jobs.attend import attend
from tunewise.jobs.desk import Desk, spawn_study
from tunewise.jobs.platform import Platform
from tunewise.jobs.trainer import Child, Spawn, spawn
from tunewise.store import events, jobs
from tunewise.store.jobs import LEFT
from tunewise.store.rows import new_id

log = logging.getLogger(__name__)

LONGEST_TICK_SECONDS = 0.5
LEAVE_SECONDS = 5.0
VALIDATIONS_AT_ONCE = 2
# Of a job that has succeeded, the evaluation is under way as long as a worker holds it.
WORKING: tuple[JobStatus, ...] = ("queued", "running", "succeeded")
WAITING = "The job waits until there is enough memory for it"


class Worker:
    """Holds jobs from `run`'s start until it leaves."""

    def __init__(self, platform: Platform, spawn: Spawn = spawn, spawn_study: Spawn = spawn_study) -> None:
        self.name = new_id("worker-")
        self._platform = platform
        self._at_once = platform.settings.trainings_at_once
        self._leaving = Event()
        self._threads: dict[str, Thread] = {}
        self._neighbours: list[str] = []
        self._told: set[str] = set()
        self._children: list[Child] = []
        self._silence = Silence(platform.settings.lease_seconds)
        self._tick_seconds = min(LONGEST_TICK_SECONDS, platform.settings.lease_seconds / 4)
        share = cache(lambda: machine.share(machine.probe(), self._at_once))
        self._desk = Desk(platform, self.name, share, spawn, self._leaving, self._children.append, spawn_study)

    def run(self, should_leave: Callable[[], bool]) -> None:
        """Work until `should_leave` says so, then leave: trainers go on, and the next worker adopts them."""
        log.info("worker %s: at work, %d job(s) may train at once", self.name, self._at_once)
        while not should_leave():
            try:
                self.tick()
            except StoreError as error:
                log.warning("worker %s: waiting, %s", self.name, error.message)
            time.sleep(self._tick_seconds)
        self._leave()

    def tick(self) -> None:
        """Show that this worker lives, and take what there is to take.

        Raises:
            StoreError: database_unavailable.
        """
        self._children[:] = [child for child in self._children if child.poll() is None]
        with self._platform.database.write() as session:
            held = jobs.heartbeat(session, self.name)
        self._threads = {job_id: thread for job_id, thread in self._threads.items() if thread.is_alive()}
        for job_id in held.keys() - self._threads.keys():
            self._attend(job_id)
        self._take_over(held)
        self._take_new(held)

    def _take_over(self, held: dict[str, JobStatus]) -> None:
        """Jobs left behind, or of a worker that has fallen silent, whatever their status."""
        with self._platform.database.read() as session:
            others = [job for job in jobs.owned(session) if job.owner != self.name]
        self._neighbours = [job.id for job in others if self._is_at_work(job.id)]
        for job in [*(job for job in others if job.owner == LEFT), *self._silence.broken(others)]:
            if job.status not in WORKING or self._has_room(job, held):
                self._claim(job, held)

    def _take_new(self, held: dict[str, JobStatus]) -> None:
        """Jobs that nobody holds; of those that wait to train, the oldest first, and none before an older one."""
        validating = sum(status == "validating_files" for status in held.values())
        with self._platform.database.read() as session:
            new = jobs.unowned(session, ["validating_files"], limit=max(0, VALIDATIONS_AT_ONCE - validating))
            waiting = jobs.waiting(session, limit=self._at_once)
        for job in new:
            self._claim(job, held)
        for job in waiting:
            if not self._has_room(job, held):
                return
            self._claim(job, held)

    def _claim(self, job: Job, held: dict[str, JobStatus]) -> None:
        with self._platform.database.write() as session:
            claimed = jobs.claim(session, job, self.name)
        if claimed is not None:
            log.info("%s: taken, it is %s", job.id, claimed.status)
            held[job.id] = claimed.status
            self._attend(job.id)

    def _attend(self, job_id: str) -> None:
        thread = Thread(target=attend, args=(self._desk, job_id), name=job_id, daemon=True)
        self._threads[job_id] = thread
        thread.start()

    def _has_room(self, job: Job, held: dict[str, JobStatus]) -> bool:
        """Whether the job may train now; one that does already takes nothing more."""
        if self._is_at_work(job.id):
            return True
        training = [job_id for job_id, status in held.items() if status in WORKING or self._is_at_work(job_id)]
        if len(training) >= self._at_once:
            return False
        return self._has_memory(job, [self._desk.run_dir(job_id) for job_id in {*training, *self._neighbours}])

    def _is_at_work(self, job_id: str) -> bool:
        """Whether a trainer or a study is at work on the job, whoever started it."""
        run_dir = self._desk.run_dir(job_id)
        return trainer.is_running(run_dir) or trainer.is_running(run_dir / STUDY_DIR)

    def _has_memory(self, job: Job, beside: list[Path]) -> bool:
        """Whether there is enough; where not, the job's story says so."""
        wanted = room.memory_wanted(self._desk.run_dir(job.id), beside)
        free = room.memory_free(beside, self._platform.settings)
        if wanted > free and job.id not in self._told:
            log.info("%s: waits for memory, %s are wanted and %s are free", job.id, size(wanted), size(free))
            self._tell_of_waiting(job)
        return wanted <= free

    def _tell_of_waiting(self, job: Job) -> None:
        with self._platform.database.write() as session:
            if jobs.held(session, job.id, job.owner) is not None and not events.told(session, job.id, WAITING):
                events.tell(session, job.id, WAITING)
        self._told.add(job.id)

    def _leave(self) -> None:
        """Finish what cannot be left, such as the stopping of a trainer, and leave the rest as it stands."""
        self._leaving.set()
        deadline = time.monotonic() + LEAVE_SECONDS
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        try:
            with self._platform.database.write() as session:
                jobs.leave(session, self.name)
        except StoreError as error:
            log.warning("worker %s: %s; its jobs are taken over later", self.name, error.message)
        log.info("worker %s: left", self.name)


class Silence:
    """Which holders have fallen silent: those whose beat has stood still for a whole lease while it was watched."""

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._since: dict[tuple[str, str | None, int], float] = {}
        self._looked = clock()

    def broken(self, owned: Iterable[Job]) -> list[Job]:
        """Of the jobs that others hold, those that may be taken over.

        What this process did not see, because it was stopped itself, is no silence: it begins to watch anew.
        """
        moment = self._clock()
        if moment - self._looked > self._lease_seconds / 2:
            self._since.clear()
        self._looked = moment
        seen = {(job.id, job.owner, job.beat): job for job in owned}
        self._since = {key: self._since.get(key, moment) for key in seen}
        return [seen[key] for key, since in self._since.items() if moment - since >= self._lease_seconds]
