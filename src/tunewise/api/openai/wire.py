"""OpenAI's objects as they are sent: what the SDK's types ask for, field by field. Knows no route.

Where a value of ours is not among the SDK's, what strict clients take is sent, unless `service_statuses` is set.
"""

from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from tunewise.contracts.fine_tuning import Hyperparameters, Method, PreferenceHyperparameters, TrainingOptions
from tunewise.contracts.jobs import (
    Job,
    JobEvent,
    JobStatus,
    Level,
    Permission,
    Purpose,
    StoredFile,
    TunedModel,
    UploadPart,
    UploadStatus,
    WandbIntegration,
)
from tunewise.contracts.run import OPTIONAL_METRICS, RunFailure
from tunewise.jobs.integrations import wandb_run_id
from tunewise.jobs.models import ListedModel
from tunewise.jobs.uploads import UploadState
from tunewise.settings import Settings

CHECKPOINT_METRICS = (
    "step",
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)
Metrics: TypeAlias = dict[str, float | int | None]


class Wire(BaseModel):
    """An object of an answer."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


Item = TypeVar("Item", bound=Wire)
Kind = TypeVar("Kind", bound="Listing[Any]")


class Listing(Wire, Generic[Item]):
    """A page of a list. `after` of the next page is the last item's id."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class Identified(Wire):
    """An object with an id."""

    id: str


class WandbObject(WandbIntegration):
    """Where Weights & Biases files the run, and under which id."""

    run_id: str


class IntegrationObject(Wire):
    """A service that is told of the run."""

    type: Literal["wandb"] = "wandb"
    wandb: WandbObject


class FineTuningJob(Identified):
    """A fine-tuning job."""

    id: str = Field(examples=["ftjob-6f1d8d1f8b0a4b6f9c4e7a3b2d1c0e9f"])
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    model: str = Field(description="The model that is tuned, its alias resolved.")
    created_at: int = Field(description="Unix time in seconds.")
    finished_at: int | None
    fine_tuned_model: str | None = Field(description="The tuned model's name, once the job has succeeded.")
    organization_id: str
    result_files: list[str] = Field(description="The id of the file with the metrics of each step.")
    status: JobStatus
    paused: bool = Field(description="Whether the job waits to be resumed; the SDK's statuses have no word for it.")
    hyperparameters: PreferenceHyperparameters | Hyperparameters = Field(description='"auto" until it is resolved.')
    method: Method
    training: TrainingOptions = Field(description="Ours: what is trained beside the method, as asked for.")
    training_file: str
    validation_file: str | None
    trained_tokens: int | None = Field(description="Tokens of all rows over all epochs, once the job has succeeded.")
    error: RunFailure | None = Field(description="Why the job failed.")
    seed: int
    estimated_finish: int | None
    integrations: list[IntegrationObject] | None
    metadata: dict[str, str] | None
    user_provided_suffix: str | None


class FineTuningEvent(Identified):
    """One line of a job's story."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Level
    message: str
    type: Literal["message", "metrics"]
    data: Metrics | None = Field(description="The numbers of a step, for events of the type `metrics`.")


class FineTuningCheckpoint(Identified):
    """A checkpoint: usable as a model, and as the base of a new job."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: Metrics


class FileObject(Identified):
    """An uploaded or made file."""

    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"
    status_details: str | None = Field(description="What was made of a table that was uploaded to train on.")


class FileDeleted(Identified):
    """That a file is gone."""

    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class UploadObject(Identified):
    """A file that arrives in parts."""

    object: Literal["upload"] = "upload"
    bytes: int = Field(description="How many bytes the whole file was announced with.")
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: UploadStatus
    file: FileObject | None = Field(description="The file, once the upload is completed.")


class UploadPartObject(Identified):
    """One part of an upload."""

    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


class ModelObject(Identified):
    """A model that can be used and tuned further."""

    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(Wire):
    """All models; there are no pages."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelDeleted(Identified):
    """That a model is gone."""

    object: Literal["model"] = "model"
    deleted: Literal[True] = True


class CheckpointPermission(Identified):
    """That a project may use a checkpoint."""

    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str


class PermissionDeleted(Identified):
    """That a permission is taken back."""

    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    deleted: Literal[True] = True


class FileList(Listing[FileObject]):
    """A page of files."""


class PermissionList(Listing[CheckpointPermission]):
    """A page of a checkpoint's permissions."""


class FineTuningJobList(Listing[FineTuningJob]):
    """A page of jobs."""


class FineTuningEventList(Listing[FineTuningEvent]):
    """A page of a job's events."""


class FineTuningCheckpointList(Listing[FineTuningCheckpoint]):
    """A page of a job's checkpoints."""


def listing(kind: type[Kind], items: Sequence[Identified], has_more: bool = False) -> Kind:
    """A page, with the ids of its first and last item."""
    first, last = (items[0].id, items[-1].id) if items else (None, None)
    return kind(data=list(items), has_more=has_more, first_id=first, last_id=last)


def fine_tuning_job(job: Job, settings: Settings) -> FineTuningJob:
    """A job as OpenAI sends it."""
    resolved = job.hyperparameters
    method = job.request.method
    if resolved is not None:
        method = method.with_hyperparameters(resolved.model_dump(exclude_none=True))
    return FineTuningJob(
        id=job.id,
        model=job.request.parent or job.request.base,
        created_at=job.created_at,
        finished_at=job.finished_at,
        fine_tuned_model=job.fine_tuned_model,
        organization_id=job.organization,
        result_files=[job.result_file] if job.result_file else [],
        status=_status(job.status, settings),
        paused=job.status == "paused",
        hyperparameters=method.hyperparameters,
        method=method,
        training=job.request.training,
        training_file=job.request.training_file,
        validation_file=job.request.validation_file,
        trained_tokens=job.trained_tokens,
        error=job.error,
        seed=job.request.seed,
        estimated_finish=job.estimated_finish,
        integrations=integrations(job),
        metadata=job.request.metadata,
        user_provided_suffix=job.request.suffix,
    )


def integrations(job: Job) -> list[IntegrationObject] | None:
    """The services that are told of the run, and under which id; as both dialects send them."""
    asked = job.request.integrations
    if not asked:
        return None
    return [
        IntegrationObject(wandb=WandbObject(**one.wandb.model_dump(), run_id=wandb_run_id(job.id, position)))
        for position, one in enumerate(asked)
    ]


def _status(status: JobStatus, settings: Settings) -> JobStatus:
    return "queued" if status == "paused" and not settings.service_statuses else status


def event(kept: JobEvent) -> FineTuningEvent:
    """An event as OpenAI sends it."""
    return FineTuningEvent(
        id=kept.id,
        created_at=kept.created_at,
        level=kept.level,
        message=kept.message or "",
        type=kept.type,
        data=kept.data,
    )


def checkpoint(model: TunedModel) -> FineTuningCheckpoint:
    """A checkpoint as OpenAI sends it."""
    return FineTuningCheckpoint(
        id=model.id,
        created_at=model.created_at,
        fine_tuned_model_checkpoint=model.name,
        fine_tuning_job_id=model.job_id,
        step_number=model.step,
        metrics=checkpoint_metrics(model),
    )


def checkpoint_metrics(model: TunedModel) -> Metrics:
    """OpenAI's metrics, measured or not, and those that only some methods have; as both dialects send them."""
    others = {name: model.metrics[name] for name in OPTIONAL_METRICS if name in model.metrics}
    return {name: model.metrics.get(name) for name in CHECKPOINT_METRICS} | others


def file_object(file: StoredFile, settings: Settings) -> FileObject:
    """A file as OpenAI sends it. The SDK sends the purpose `evals` and has no word for it when it comes back."""
    has_no_word = file.purpose == "evals" and not settings.service_statuses
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        status_details=file.details,
        purpose="user_data" if has_no_word else file.purpose,
    )


def upload_object(state: UploadState, settings: Settings) -> UploadObject:
    """An upload as OpenAI sends it."""
    upload, file = state
    return UploadObject(
        id=upload.id,
        bytes=upload.bytes,
        created_at=upload.created_at,
        expires_at=upload.expires_at,
        filename=upload.filename,
        purpose=upload.purpose,
        status=upload.status,
        file=file_object(file, settings) if file else None,
    )


def upload_part(part: UploadPart) -> UploadPartObject:
    """A part as OpenAI sends it."""
    return UploadPartObject(id=part.id, created_at=part.created_at, upload_id=part.upload_id)


def model_object(model: ListedModel) -> ModelObject:
    """A model as OpenAI sends it."""
    return ModelObject(id=model.name, created=model.created_at, owned_by=model.owner)


def permission(kept: Permission) -> CheckpointPermission:
    """A permission as OpenAI sends it."""
    return CheckpointPermission(id=kept.id, created_at=kept.created_at, project_id=kept.project)
