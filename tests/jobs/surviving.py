"""A state directory with the tiny model, jobs in it, and workers and trainers that are real processes to be killed."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from jobs.nursery import Nursery, ask, is_alive
from train.making import row
from tunewise.contracts.fine_tuning import Hyperparameters, Method, Supervised
from tunewise.contracts.jobs import Job, JobEvent, JobRequest, JobStatus, StoredFile, TunedModel
from tunewise.contracts.run import ADAPTER_WEIGHTS_FILE, BaseModelRef, RunResult
from tunewise.jobs import trainer
from tunewise.jobs.platform import Platform, open_platform
from tunewise.settings import Settings
from tunewise.store import events, files, jobs, models
from tunewise.store.rows import new_id

BASE = "test/tiny"
PROJECT = "p"
STEPS = 30
NAMES = re.compile(r"(ftjob-|file-)[0-9a-f]{32}|ft:\S+")


class Place(NamedTuple):
    """A state directory."""

    platform: Platform
    nursery: Path

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

    def numbers(self, job_id: str) -> list[int]:
        """The numbers of all events of both dialects."""
        with self.platform.database.read() as session:
            azure = events.listed_for_azure(session, job_id, after=None, limit=10_000)
        assert azure is not None
        return sorted({event.seq for event in [*azure.items, *self.events(job_id)]})

    def words(self, job_id: str) -> list[str]:
        """The messages without what differs from job to job."""
        return [NAMES.sub("…", event.message or "") for event in self.events(job_id)]

    def models(self, job_id: str) -> list[TunedModel]:
        """The models that the job has made."""
        with self.platform.database.read() as session:
            return models.of_job(session, job_id)

    def adapter_sha256(self, model: TunedModel) -> str:
        """The hash of a model's weights."""
        weights = self.platform.settings.state_dir / model.adapter / ADAPTER_WEIGHTS_FILE
        return sha256(weights.read_bytes()).hexdigest()

    def result(self, job_id: str) -> RunResult:
        """What the job's run has left."""
        result = trainer.result_of(self.run_dir(job_id))
        assert result is not None
        return result

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
            assert time.monotonic() < deadline, self.story()
            time.sleep(0.01)

    def wait_for(self, job_id: str, *statuses: JobStatus, seconds: float = 90.0) -> Job:
        """The job once it stands so."""
        self.wait(lambda: self.job(job_id).status in statuses, seconds)
        return self.job(job_id)

    def steps_told(self, job_id: str) -> int:
        """Lines in the trainer's journal."""
        path = self.run_dir(job_id) / "events.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def wait_for_steps(self, job_id: str, steps: int) -> None:
        """Return when so many steps are told, or the job has ended."""
        ends = ("succeeded", "failed")
        self.wait(lambda: self.steps_told(job_id) >= steps or self.job(job_id).status in ends)

    def wait_until_released(self, job_id: str) -> None:
        """Return when no worker holds the job."""
        self.wait(lambda: self.job(job_id).owner is None)

    def starts(self, job_id: str) -> int:
        """How many trainers have begun with the job."""
        log = self.run_dir(job_id) / trainer.LOG_FILE
        return log.read_text().count("tunewise.train: step ") if log.exists() else 0

    def story(self) -> str:
        """What workers and trainers have logged."""
        logs = sorted(self.platform.settings.state_dir.glob("worker*.log")) + sorted(
            self.platform.runs_dir.glob("*/log.txt")
        )
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in logs)


def make_place(directory: Path, nursery: Nursery, tiny_model: BaseModelRef, **settings: object) -> Place:
    """An empty state directory whose only base model is the tiny one."""
    mine = {"home": directory / "home", "state": directory / "state", "lease_seconds": 1.0}
    chosen = Settings.model_validate(mine | settings)
    chosen.models_dir.mkdir(parents=True)
    (chosen.models_dir / "hub--test--tiny").symlink_to(tiny_model.path)
    return Place(open_platform(chosen), nursery.address)


class WorkerProcess(NamedTuple):
    """A worker that can be killed."""

    pid: int

    def kill(self) -> None:
        """Kill -9, and return when it is gone."""
        self.end(signal.SIGKILL)

    def leave(self) -> None:
        """SIGTERM, and return when it is gone."""
        self.end(signal.SIGTERM)

    def end(self, number: signal.Signals) -> None:
        """Send a signal that ends it, and return when it is gone."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
        deadline = time.monotonic() + 30
        while is_alive(self.pid):
            assert time.monotonic() < deadline
            time.sleep(0.005)


def start_worker(place: Place, clock_shift: int = 0) -> WorkerProcess:
    """A worker process, its clock so many seconds ahead; what it logs goes to the state directory."""
    settings = place.platform.settings
    log = settings.state_dir / f"worker-{len(list(settings.state_dir.glob('worker-*')))}.log"
    arguments = [str(place.nursery), str(clock_shift), settings.model_dump_json(by_alias=False)]
    return WorkerProcess(ask(place.nursery, "worker", arguments, log, []))


@contextmanager
def working(place: Place) -> Iterator[WorkerProcess]:
    """A worker that is there until the end; killed then, and what trains with it."""
    process = start_worker(place)
    try:
        yield process
    finally:
        process.kill()
        kill_trainers(place)


def kill_trainers(place: Place) -> int:
    """Kill -9 every trainer of this state directory; how many there were."""
    return sum(trainer.send(run_dir, signal.SIGKILL) for run_dir in place.platform.runs_dir.iterdir())


def alive_trainers(place: Place) -> list[str]:
    """The jobs whose trainer is at work."""
    return [run_dir.name for run_dir in place.platform.runs_dir.iterdir() if trainer.is_running(run_dir)]
