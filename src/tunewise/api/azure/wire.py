"""Azure's objects as they are sent: OpenAI's with other ids, names and words. Knows no route.

What Azure leaves null although the SDK's types forbid it (`organization_id`, `result_files`) is filled in.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from tunewise.api.openai.requests import CreateFineTuningJob
from tunewise.api.openai.wire import (
    Identified,
    IntegrationObject,
    Listing,
    Metrics,
    Wire,
    checkpoint_metrics,
    integrations,
)
from tunewise.api.texts import Label
from tunewise.contracts.fine_tuning import MethodType, TrainingOptions
from tunewise.contracts.jobs import Job, JobEvent, JobStatus, Level, TunedModel
from tunewise.contracts.run import RunFailure
from tunewise.jobs.fine_tuning import Submission
from tunewise.jobs.names import azure_model_name
from tunewise.jobs.results import result_file_id
from tunewise.settings import Settings

AUTO = -1  # what Azure's clients send and read for "auto"
CHECKPOINT_PREFIX = "ftchkpt-"


class AzureCreateJob(CreateFineTuningJob):
    """POST /openai/fine_tuning/jobs: OpenAI's request, where -1 is "auto", and Azure's training type."""

    trainingType: Label | Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(  # noqa: N815
        default=None, description="Azure's tier: kept, told, and of no effect here.", examples=["Standard"]
    )

    @model_validator(mode="before")
    @classmethod
    def _read_auto(cls, body: object) -> object:
        return _with_auto(body)

    def submission(self) -> Submission:
        """The job that is asked for.

        Raises:
            RequestError: see `CreateFineTuningJob.submission`.
        """
        tier = None if self.trainingType is None else str(self.trainingType)
        return super().submission()._replace(training_type=tier)


def _is_absent(settings: object) -> bool:
    return settings is None


class AzureHyperparameters(Wire):
    """The numbers; -1 where "auto" is not resolved yet."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float


class AzurePreferenceHyperparameters(AzureHyperparameters):
    """With those of preferences."""

    beta: float


class AzureSettings(Wire):
    """Settings of a method; those beside the hyperparameters as they were asked for."""

    model_config = ConfigDict(extra="allow")

    hyperparameters: AzurePreferenceHyperparameters | AzureHyperparameters


class AzureMethod(Wire):
    """How the job trains: the settings stand under the name of the type."""

    type: MethodType
    supervised: AzureSettings | None = Field(default=None, exclude_if=_is_absent)
    dpo: AzureSettings | None = Field(default=None, exclude_if=_is_absent)
    orpo: AzureSettings | None = Field(default=None, exclude_if=_is_absent)
    kto: AzureSettings | None = Field(default=None, exclude_if=_is_absent)
    pretraining: AzureSettings | None = Field(default=None, exclude_if=_is_absent)


class AzureJob(Identified):
    """A fine-tuning job."""

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    model: str
    created_at: int = Field(description="Unix time in seconds.")
    finished_at: int | None
    fine_tuned_model: str | None
    organization_id: str
    result_files: list[str]
    status: JobStatus | Literal["pending"]
    paused: bool = Field(description="Whether the job waits to be resumed; the SDK's statuses have no word for it.")
    hyperparameters: AzurePreferenceHyperparameters | AzureHyperparameters
    method: AzureMethod
    training: TrainingOptions = Field(description="Ours: what is trained beside the method, as asked for.")
    training_file: str
    validation_file: str | None
    trained_tokens: int | None
    error: RunFailure | None
    seed: int
    estimated_finish: int | None
    integrations: list[IntegrationObject] | None
    metadata: dict[str, str] | None
    suffix: str | None
    trainingType: str | None  # noqa: N815


class AzureEvent(Identified):
    """One line of a job's story; messages have no `data`."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Level
    message: str
    type: Literal["message", "metrics"]
    data: Metrics | None = None


class AzureCheckpoint(Identified):
    """A checkpoint; the final model is the newest of them."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: Metrics


class AzureJobList(Listing[AzureJob]):
    """A page of jobs."""


class AzureEventList(Listing[AzureEvent]):
    """A page of a job's events."""


class AzureCheckpointList(Listing[AzureCheckpoint]):
    """A page of a job's checkpoints."""


def job(kept: Job, settings: Settings) -> AzureJob:
    """A job as Azure sends it."""
    asked, numbers = kept.request.method, _numbers(kept)
    settings_of_type = AzureSettings(hyperparameters=numbers, **asked.settings.model_dump(exclude={"hyperparameters"}))
    return AzureJob(
        id=kept.id,
        model=kept.request.parent or kept.request.base,
        created_at=kept.created_at,
        finished_at=kept.finished_at,
        fine_tuned_model=azure_model_name(kept) if kept.fine_tuned_model else None,
        organization_id=kept.organization,
        result_files=[result_file_id(kept.id, "azure")] if kept.result_file else [],
        status=_status(kept.status, settings),
        paused=kept.status == "paused",
        hyperparameters=numbers,
        method=AzureMethod.model_validate({"type": asked.type, asked.type: settings_of_type}),
        training=kept.request.training,
        training_file=kept.request.training_file,
        validation_file=kept.request.validation_file,
        trained_tokens=kept.trained_tokens,
        error=kept.error,
        seed=kept.request.seed,
        estimated_finish=kept.estimated_finish,
        integrations=integrations(kept),
        metadata=kept.request.metadata,
        suffix=kept.request.suffix,
        trainingType=kept.request.training_type,
    )


def event(kept: JobEvent) -> AzureEvent:
    """An event as Azure sends it."""
    return AzureEvent(
        id=kept.id,
        created_at=kept.created_at,
        level=kept.level,
        message=kept.azure_message or "",
        type=kept.type,
        data=kept.data,
    )


def checkpoint(model: TunedModel) -> AzureCheckpoint:
    """A checkpoint as Azure sends it."""
    return AzureCheckpoint(
        id=checkpoint_id(model.id),
        created_at=model.created_at,
        fine_tuned_model_checkpoint=model.azure_name,
        fine_tuning_job_id=model.job_id,
        step_number=model.step,
        metrics=checkpoint_metrics(model),
    )


def checkpoint_id(ours: str) -> str:
    """The id of a checkpoint under Azure's prefix."""
    return CHECKPOINT_PREFIX + ours.removeprefix("ftckpt_")


def our_id(azure: str) -> str:
    """The id under which a checkpoint is kept."""
    return "ftckpt_" + azure.removeprefix(CHECKPOINT_PREFIX) if azure.startswith(CHECKPOINT_PREFIX) else azure


def _status(status: JobStatus, settings: Settings) -> JobStatus | Literal["pending"]:
    if settings.service_statuses:
        return "pending" if status in ("validating_files", "queued") else status
    return "queued" if status in ("validating_files", "paused") else status


def _numbers(kept: Job) -> AzureHyperparameters:
    told = (kept.hyperparameters or kept.request.method.hyperparameters).model_dump(exclude_none=True)
    numbers = {name: AUTO if value == "auto" else value for name, value in told.items()}
    if numbers["learning_rate_multiplier"] == AUTO:
        numbers["learning_rate_multiplier"] = 1  # Azure tells 1 from the beginning
    return AzurePreferenceHyperparameters(**numbers) if "beta" in numbers else AzureHyperparameters(**numbers)


def _with_auto(body: object) -> object:
    """The request with each -1 among the hyperparameters read as "auto"."""
    if isinstance(body, dict):
        return {
            key: _auto_numbers(value) if key == "hyperparameters" else _with_auto(value) for key, value in body.items()
        }
    return body


def _auto_numbers(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {key: "auto" if number == AUTO else number for key, number in value.items()}
