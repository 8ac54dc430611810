"""Looking at a run while it goes on: its steps, its memory, its log. Reads what trainers write; writes nothing."""

from pathlib import Path
from typing import NamedTuple

import psutil

from tunewise.contracts.evaluation import DECISION_FILE, HTML_FILE, JSON_FILE
from tunewise.contracts.evaluations import Evaluation, StudyProgress
from tunewise.contracts.jobs import Caller, Job, JobEvent
from tunewise.contracts.run import SPEC_FILE, StepMetrics, TrainSpec
from tunewise.contracts.study import STUDY_DIR
from tunewise.jobs import fine_tuning, trainer
from tunewise.jobs.plan import CHECK_FILE
from tunewise.jobs.platform import Platform
from tunewise.jobs.study_files import progress_of, read_journal
from tunewise.jobs.trainer import LOG_FILE, EventTail
from tunewise.store import evaluations, events

LOG_BYTES = 64 * 1024
STEPS_FILE = "step_metrics.csv"


class RunState(NamedTuple):
    """A job, its evaluation, and what its trainer has told so far.

    `memory_bytes`: of the trainer; None where none is at work.
    """

    job: Job
    evaluation: Evaluation | None
    curve: tuple[StepMetrics, ...]
    memory_bytes: int | None

    @property
    def last(self) -> StepMetrics | None:
        """The newest step."""
        return self.curve[-1] if self.curve else None

    @property
    def seconds_left(self) -> float | None:
        """Until the last step, at the speed so far; None before the first."""
        last = self.last
        return None if last is None else last.seconds / last.step * (last.total_steps - last.step)


class Story(NamedTuple):
    """All that a page of the run shows: how it stands, how far its evaluation is, its newest events, its files."""

    state: RunState
    progress: StudyProgress | None
    events: list[JobEvent]
    files: tuple[str, ...]


class Follower:
    """Follows one job: each look reads only what is new of its steps, however long the run."""

    def __init__(self, platform: Platform, job_id: str) -> None:
        self.job_id = job_id
        self._run_dir = platform.runs_dir / job_id
        self._tail = EventTail(self._run_dir)
        self._steps: dict[int, StepMetrics] = {}

    def look(self, platform: Platform, caller: Caller) -> RunState:
        """The job as it stands.

        Raises:
            RequestError: fine_tune_not_found.
        """
        with platform.database.read() as session:
            job = fine_tuning.job_of(session, caller, self.job_id)
            evaluation = evaluations.get(session, caller.project, job.id)
        return self._state(job, evaluation)

    def read_story(self, platform: Platform, caller: Caller, newest: int) -> Story:
        """The job as it stands, and what has happened, down to its `newest` last events; in one transaction.

        Raises:
            RequestError: fine_tune_not_found.
        """
        with platform.database.read() as session:
            job = fine_tuning.job_of(session, caller, self.job_id)
            evaluation = evaluations.get(session, caller.project, job.id)
            page = events.listed(session, job.id, after=None, limit=newest)
        progress = None
        if evaluation is not None:
            progress = progress_of(job, evaluation, read_journal(self._run_dir / STUDY_DIR))
        return Story(
            state=self._state(job, evaluation),
            progress=progress,
            events=[] if page is None else page.items,
            files=tuple(_files(platform, job)),
        )

    def _state(self, job: Job, evaluation: Evaluation | None) -> RunState:
        for event in self._tail.read():
            if event.data is not None:
                self._add(event.data)
        return RunState(job, evaluation, tuple(self._steps.values()), _memory(self._run_dir))

    def _add(self, metrics: StepMetrics) -> None:
        """A trainer that was killed goes on from a checkpoint, and tells the steps after it again."""
        later = [step for step in self._steps if step >= metrics.step]
        for step in later:
            del self._steps[step]
        self._steps[metrics.step] = metrics


def spec_of(platform: Platform, caller: Caller, job_id: str) -> TrainSpec | None:
    """The run's manifest; None before the job's files are validated.

    Raises:
        RequestError: fine_tune_not_found.
    """
    job = fine_tuning.retrieve(platform, caller, job_id)
    path = platform.runs_dir / job.id / SPEC_FILE
    return TrainSpec.model_validate_json(path.read_bytes()) if path.exists() else None


def log_of(platform: Platform, caller: Caller, job_id: str) -> str:
    """The end of what the trainer said.

    Raises:
        RequestError: fine_tune_not_found.
    """
    path = platform.runs_dir / fine_tuning.retrieve(platform, caller, job_id).id / LOG_FILE
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        return file.read().decode(errors="replace")


def files_of(platform: Platform, caller: Caller, job_id: str) -> dict[str, Path]:
    """The files of the run that are there by now, by name.

    Raises:
        RequestError: fine_tune_not_found.
    """
    return _files(platform, fine_tuning.retrieve(platform, caller, job_id))


def _files(platform: Platform, job: Job) -> dict[str, Path]:
    places = {name: platform.runs_dir / job.id / name for name in (SPEC_FILE, CHECK_FILE, LOG_FILE)}
    if job.result_file is not None:
        places[STEPS_FILE] = platform.files_dir / job.result_file
    study = platform.runs_dir / job.id / STUDY_DIR
    places |= {name: study / name for name in (HTML_FILE, JSON_FILE, DECISION_FILE)}
    return {name: path for name, path in places.items() if path.exists()}


def _memory(run_dir: Path) -> int | None:
    pid = trainer.pid_of(run_dir)
    if pid is None or not trainer.is_running(run_dir):
        return None
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return None
