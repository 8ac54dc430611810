"""A study's files, for its process and for whoever follows it: what is asked, what happens, how it ended.

Knows `contracts.study`, and how far a run is that has such files. A half-written line of the journal is left out when
it is read, and ended when one is added.
"""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from tunewise.contracts.evaluations import (
    STAGES,
    UNFINISHED,
    Evaluation,
    StageName,
    StageState,
    StudyProgress,
    StudyStage,
)
from tunewise.contracts.jobs import Job
from tunewise.contracts.run import EVENTS_FILE, RESULT_FILE
from tunewise.contracts.study import STUDY_FILE, Study, StudyEvent, StudyResult

SECONDS_BETWEEN = 0.25


def read_study(directory: Path) -> Study | None:
    """What is asked; None where nothing is, or by another version of this program."""
    try:
        return Study.model_validate_json((directory / STUDY_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def key_of(directory: Path) -> str:
    """The hash (sha256, hex) of what is asked, by which a result names it."""
    return hashlib.sha256((directory / STUDY_FILE).read_bytes()).hexdigest()


def result_of(directory: Path) -> StudyResult | None:
    """How the study ended; None while it has not, or where the result is that of another `study.json`."""
    try:
        result = StudyResult.model_validate_json((directory / RESULT_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return result if result.study == key_of(directory) else None


class JournalWatcher:
    """A `Watcher` that appends to the journal. Of a stage's progress a few lines a second are kept, and the last."""

    def __init__(self, directory: Path) -> None:
        self._file = (directory / EVENTS_FILE).open("ab")
        self._told = 0.0
        if self._file.tell():
            self._file.write(b"\n")

    def stage(self, name: str, title: str) -> None:
        """A stage begins."""
        self._write(StudyEvent(created_at=time.time(), type="stage", name=name, text=title))

    def reused(self, name: str, detail: str) -> None:
        """Something was there already."""
        self._write(StudyEvent(created_at=time.time(), type="reused", name=name, text=detail))

    def progress(self, done: float, total: float, detail: str) -> None:
        """Work within the stage."""
        if done >= total or time.monotonic() - self._told > SECONDS_BETWEEN:
            self._told = time.monotonic()
            self._write(StudyEvent(created_at=time.time(), type="progress", text=detail, done=done, total=total))

    def note(self, text: str) -> None:
        """A line worth reading."""
        self._write(StudyEvent(created_at=time.time(), type="note", text=text))

    def _write(self, event: StudyEvent) -> None:
        self._file.write(event.model_dump_json().encode() + b"\n")
        self._file.flush()


def read_journal(directory: Path) -> list[StudyEvent]:
    """What the study has told so far, oldest first."""
    try:
        lines = (directory / EVENTS_FILE).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return [event for line in lines if line and (event := _parsed(line)) is not None]


def _parsed(line: bytes) -> StudyEvent | None:
    try:
        return StudyEvent.model_validate_json(line)
    except ValidationError:
        return None


def progress_of(job: Job, evaluation: Evaluation, journal: Sequence[StudyEvent]) -> StudyProgress:
    """How far the run is. What a restarted process goes through again is done already, and shown so."""
    current = _current(job, evaluation, journal)
    place = STAGES.index(current)
    states = [_state(job, evaluation, stage, index - place) for index, stage in enumerate(STAGES)]
    last = _last_progress(journal) if current == _furthest(journal) else None
    return StudyProgress(
        stage=current,
        done=last.done if last else 0.0,
        total=last.total if last else 0.0,
        detail=last.text if last else "",
        stages=tuple(StudyStage(name=name, state=state) for name, state in zip(STAGES, states, strict=True)),
        notes=tuple(dict.fromkeys(event.text for event in journal if event.type == "note")),
    )


def _current(job: Job, evaluation: Evaluation, journal: Sequence[StudyEvent]) -> StageName:
    """The stage under way, or the one that the run ended in."""
    if evaluation.status == "succeeded":
        return "verdict"
    furthest = _furthest(journal)
    if evaluation.scores is None:  # the alternatives are not all asked
        return furthest
    return "train" if job.status != "succeeded" else max(furthest, "evaluate", key=STAGES.index)


def _furthest(journal: Sequence[StudyEvent]) -> StageName:
    reached = {event.name for event in journal if event.type == "stage"}
    return next((stage for stage in reversed(STAGES) if stage in reached), STAGES[0])


def _state(job: Job, evaluation: Evaluation, stage: StageName, ahead: int) -> StageState:
    """`ahead`: how many stages this one is after the one under way."""
    if evaluation.status == "succeeded" or ahead < 0 or (stage == "train" and job.status == "succeeded"):
        return "done"
    if ahead > 0:
        return "waiting"
    if evaluation.status not in UNFINISHED:
        return "stopped"
    return "waiting" if job.status in {"validating_files", "paused"} else "running"


def _last_progress(journal: Sequence[StudyEvent]) -> StudyEvent | None:
    """The last progress of the stage that was begun last."""
    for event in reversed(journal):
        if event.type == "progress":
            return event
        if event.type == "stage":
            return None
    return None
