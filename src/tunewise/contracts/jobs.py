"""What the control plane keeps: files, jobs, events, tuned models, deployments, keys. Types only; no wire, no database.

Every record belongs to a project; `created_at` and its kin are Unix times in seconds. Records are listed by the order
in which they were written, never by time, so that a clock that is set back changes no order.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from tunewise.contracts.fine_tuning import Method, TrainingOptions
from tunewise.contracts.frozen import Frozen
from tunewise.contracts.run import RunFailure

JobStatus: TypeAlias = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
Purpose: TypeAlias = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals", "fine-tune-results"]
Role: TypeAlias = Literal["member", "admin"]
WandbName: TypeAlias = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]+$")]
Level: TypeAlias = Literal["info", "warn", "error"]
UploadStatus: TypeAlias = Literal["pending", "completed", "cancelled", "expired"]

# From each status, where a job may go. `store.jobs.transition` is the only writer of a status.
TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    "validating_files": frozenset({"queued", "failed", "cancelled"}),
    "queued": frozenset({"running", "failed", "cancelled", "paused"}),
    "running": frozenset({"paused", "succeeded", "failed", "cancelled"}),
    "paused": frozenset({"queued", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
ACTIVE: tuple[JobStatus, ...] = ("validating_files", "queued", "running")
FINAL: tuple[JobStatus, ...] = ("succeeded", "failed", "cancelled")


class Caller(Frozen):
    """Who asks: what every use case is told, and what bounds what it may see."""

    organization: str
    project: str
    role: Role


class StoredFile(Frozen):
    """An uploaded or made file; its bytes lie under its id in the state directory."""

    id: str
    project: str
    filename: str
    purpose: Purpose
    bytes: int
    sha256: str
    created_at: int
    expires_at: int | None = None
    details: str | None = Field(default=None, description="What was made of it, where a copy in rows is what trains.")


class Upload(Frozen):
    """A file that arrives in parts."""

    id: str
    project: str
    filename: str
    purpose: Purpose
    bytes: int
    mime_type: str
    created_at: int
    expires_at: int
    status: UploadStatus
    file_id: str | None = None
    file_seconds: int | None = Field(default=None, description="Life of the finished file, where it is to expire.")


class UploadPart(Frozen):
    """One part of an upload."""

    id: str
    upload_id: str
    bytes: int
    created_at: int


class WandbIntegration(Frozen):
    """Where Weights & Biases files the run; the limits are OpenAI's where it tells them, else the package's own."""

    project: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00/\\#?%:]+$")]
    name: WandbName | None = None
    entity: Annotated[WandbName, Field(pattern=r"^[^\x00/]+$")] | None = None
    tags: Annotated[tuple[Annotated[WandbName, Field(max_length=64)], ...], Field(max_length=50)] = ()


class Integration(Frozen):
    """A service that is told of the run."""

    type: Literal["wandb"]
    wandb: WandbIntegration


class JobRequest(Frozen):
    """A fine-tuning job as both dialects ask for it, the defaults filled in and the model's alias resolved."""

    model: str = Field(description="As asked for: a base model, an alias, a tuned model or a checkpoint.")
    base: str = Field(description="The base model's catalogue name.")
    parent: str | None = Field(default=None, description="The tuned model that is tuned further.")
    training_file: str
    validation_file: str | None = None
    method: Method = Method()
    training: TrainingOptions = TrainingOptions()
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    metadata: dict[str, str] | None = None
    integrations: tuple[Integration, ...] | None = None
    training_type: str | None = Field(default=None, description="Azure's; kept and told, and of no effect here.")

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the job reads."""
        return (self.training_file,) if self.validation_file is None else (self.training_file, self.validation_file)


class ResolvedHyperparameters(Frozen):
    """What "auto" became."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    beta: float | None = Field(default=None, description="Of the methods that have one.")


class Job(Frozen):
    """A fine-tuning job as it stands."""

    id: str
    project: str
    organization: str
    request: JobRequest
    status: JobStatus
    created_at: int
    finished_at: int | None = None
    hyperparameters: ResolvedHyperparameters | None = None
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    estimated_finish: int | None = None
    result_file: str | None = None
    error: RunFailure | None = None
    owner: str | None = Field(default=None, description="The worker that holds it.")
    beat: int = Field(default=0, description="Counts up while the owner lives; compared, never read as a time.")
    attempts: int = Field(default=0, description="How often its trainer died without a result.")


class JobEvent(Frozen):
    """One line of a job's story. `seq` counts from 1 without gaps."""

    id: str
    job_id: str
    seq: int
    created_at: int
    level: Level
    type: Literal["message", "metrics"]
    message: str | None = Field(description="In OpenAI's words; None: Azure alone tells it.")
    azure_message: str | None = Field(description="In Azure's words; None: OpenAI alone tells it.")
    data: dict[str, float | int | None] | None = None


class TunedModel(Frozen):
    """A tuned model, or a checkpoint that can be used as one; the same weights under both dialects' names."""

    id: str = Field(description="Of the checkpoint: `ftckpt_` and 32 hex digits; Azure's differs in the prefix.")
    name: str = Field(description="`ft:BASE:ORG:SUFFIX:ID`, with `:ckpt-step-N` for a checkpoint.")
    azure_name: str = Field(description="`BASE.ft-HEX[-SUFFIX]`, with `:ckpt-step-N` for a checkpoint.")
    project: str
    organization: str
    job_id: str
    base: str
    step: int
    is_final: bool
    adapter: str = Field(description="Directory of the adapter, relative to the state directory.")
    metrics: dict[str, float | int | None]
    created_at: int


class Permission(Frozen):
    """That another project may use a checkpoint."""

    id: str
    model: str
    project: str = Field(description="The project that is granted access.")
    created_at: int


class Deployment(Frozen):
    """Azure's: a name under which a model is hosted."""

    name: str
    scope: str = Field(description="`SUBSCRIPTION/RESOURCE_GROUP/ACCOUNT`, as the resource manager's path names them.")
    project: str
    model: str
    model_format: str = "OpenAI"
    model_version: str = "1"
    sku: str = "Standard"
    capacity: int = 1
    created_at: int
    updated_at: int


class ApiKey(Frozen):
    """A key, without its secret."""

    id: str
    hint: str = Field(description="The first characters, to tell keys apart.")
    role: Role
    organization: str
    project: str
    created_at: int
    revoked_at: int | None = None
