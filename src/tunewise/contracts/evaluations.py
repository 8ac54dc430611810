"""The evaluation of a fine-tuning job: what is asked for, how it stands, and how far it is. Types only.

A job has one evaluation at most. Files are named by the ids of stored files: wherever a field of the plan is a path in
`tunewise.yaml`, it is a file's id here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from tunewise.contracts.config import EvaluationPlan
from tunewise.contracts.evaluation import Interval, Outcome
from tunewise.contracts.frozen import Frozen
from tunewise.contracts.run import RunFailure

FileId: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
EvaluationStatus: TypeAlias = Literal["pending", "baselines_done", "succeeded", "failed", "cancelled"]
StageName: TypeAlias = Literal["check", "freeze", "baselines", "train", "evaluate", "verdict"]
StageState: TypeAlias = Literal["waiting", "running", "done", "stopped"]

UNFINISHED: tuple[EvaluationStatus, ...] = ("pending", "baselines_done")
STAGES: tuple[StageName, ...] = ("check", "freeze", "baselines", "train", "evaluate", "verdict")


class EvaluationRequest(EvaluationPlan):
    """What a job is to be judged by: the plan of `tunewise.yaml`, with files by their ids."""

    test_file: FileId = Field(
        description="The id of the file of test rows: chat rows whose last message is the reference answer.",
        examples=["file-abc123"],
    )
    test_items: FileId | None = Field(
        default=None, description="The id of a JSONL file: line i holds more fields of test row i, for the graders."
    )

    @property
    def files(self) -> dict[str, str]:
        """Every file that is named, by the path of the field that names it."""
        named = {"test_file": self.test_file} | ({"test_items": self.test_items} if self.test_items else {})
        plan = self.model_dump(include=set(EvaluationPlan.model_fields))
        return named | dict(_paths(plan, ""))


class Evaluation(Frozen):
    """A job's evaluation as it stands. `pending`: nothing is done yet; `baselines_done`: alternatives scored."""

    job_id: str
    project: str
    request: EvaluationRequest
    status: EvaluationStatus = "pending"
    scores: dict[str, Interval] | None = Field(
        default=None, description="Of each arm that was asked, on the primary grader."
    )
    outcome: Outcome | None = None
    headline: str | None = Field(default=None, description="The verdict in one sentence.")
    error: RunFailure | None = None
    created_at: int
    finished_at: int | None = None
    attempts: int = Field(default=0, description="How often its process died without a result.")


class StudyStage(Frozen):
    """One stage of a run. `stopped`: it was under way when the evaluation failed or was cancelled."""

    name: StageName
    state: StageState


class StudyProgress(Frozen):
    """How far a run is, from the check of its data to the verdict. `done` of `total` counts within the stage."""

    stage: StageName
    done: float = 0.0
    total: float = 0.0
    detail: str = ""
    stages: tuple[StudyStage, ...]
    notes: tuple[str, ...] = ()


def _paths(value: object, at: str) -> Iterator[tuple[str, str]]:
    """Every path within a dumped model, and where it stands."""
    match value:
        case Path():
            yield at, str(value)
        case dict():
            for name, item in value.items():
                yield from _paths(item, f"{at}.{name}" if at else name)
        case list() | tuple():
            for index, item in enumerate(value):
                yield from _paths(item, f"{at}.{index}")
        case _:
            return
