"""A study as files: the evaluation of one training run, done by a process of its own.

This module and `python -m tunewise.jobs.study STUDY_DIR` are the whole border between a worker and a study.

    RUN_DIR/study/
      study.json                Study: complete; the run's own spec.json, result.json and adapter lie in RUN_DIR
      events.jsonl              one StudyEvent a line, across restarts
      stages/                   finished stages and every answer, each under the hash of its inputs
      report.html, report.json  what `tunewise run` writes too
      result.json               StudyResult: written last, by rename
      .lock                     held (flock) by the process while it lives
"""

from typing import Literal

from pydantic import Field

from tunewise.contracts.config import RunConfig
from tunewise.contracts.evaluation import Interval, Outcome
from tunewise.contracts.frozen import Frozen
from tunewise.contracts.run import RunFailure

STUDY_DIR = "study"
STUDY_FILE = "study.json"


class Study(Frozen):
    """What is to be found out, and how far to go now: with `baselines`, what can be known before training."""

    until: Literal["baselines", "verdict"]
    asked_at: int = Field(description="Unix time, seconds: the same question asked again is another study.")
    title: str
    tuned_name: str
    config: RunConfig


class StudyEvent(Frozen):
    """What happened: a stage begins, something was there already, work within a stage, a line worth reading."""

    created_at: float
    type: Literal["stage", "reused", "progress", "note"]
    name: str = ""
    text: str
    done: float = 0.0
    total: float = 0.0


class StudyResult(Frozen):
    """How a study ended. `study`: sha256 (hex) of the `study.json` that it answers."""

    study: str
    error: RunFailure | None = None
    scores: dict[str, Interval] = Field(default={}, description="Of each arm asked, on the primary grader.")
    outcome: Outcome | None = None
    headline: str | None = None
