"""The tables. `n` is the order in which rows were written, and what every list is sorted by."""

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite numbers rows by itself only where the key is INTEGER; AUTOINCREMENT never gives a number twice.
Number = BigInteger().with_variant(Integer, "sqlite")
SQLITE = {"sqlite_autoincrement": True}


class Table(DeclarativeBase):
    """What all tables share: JSON columns for dictionaries."""

    type_annotation_map = {dict[str, Any]: JSON(none_as_null=True), str: String, int: BigInteger}  # noqa: RUF012


class Listed(Table):
    """A table whose rows have an id and are listed page by page."""

    __abstract__ = True
    n: Mapped[int] = mapped_column(Number, primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)


class FileRow(Listed):
    """An uploaded or made file."""

    __tablename__ = "files"
    project: Mapped[str]
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str]
    created_at: Mapped[int]
    expires_at: Mapped[int | None]
    details: Mapped[str | None]
    __table_args__ = (Index("files_of_project", "project", "n"), SQLITE)


class UploadRow(Listed):
    """A file that arrives in parts."""

    __tablename__ = "uploads"
    project: Mapped[str]
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int]
    mime_type: Mapped[str]
    created_at: Mapped[int]
    expires_at: Mapped[int]
    status: Mapped[str]
    file_id: Mapped[str | None]
    file_seconds: Mapped[int | None]
    __table_args__ = SQLITE


class PartRow(Listed):
    """One part of an upload."""

    __tablename__ = "upload_parts"
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    bytes: Mapped[int]
    created_at: Mapped[int]
    __table_args__ = SQLITE


class JobRow(Listed):
    """A fine-tuning job. `owner` and `beat` are its lease; `request` is a `JobRequest`."""

    __tablename__ = "jobs"
    project: Mapped[str]
    organization: Mapped[str]
    request: Mapped[dict[str, Any]]
    status: Mapped[str]
    created_at: Mapped[int]
    finished_at: Mapped[int | None]
    hyperparameters: Mapped[dict[str, Any] | None]
    fine_tuned_model: Mapped[str | None]
    trained_tokens: Mapped[int | None]
    estimated_finish: Mapped[int | None]
    result_file: Mapped[str | None]
    error: Mapped[dict[str, Any] | None]
    owner: Mapped[str | None]
    beat: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    __table_args__ = (
        Index("jobs_of_project", "project", "n"),
        Index("jobs_by_status", "status", "n"),
        Index("jobs_by_owner", "owner"),
        SQLITE,
    )


class EvaluationRow(Table):
    """What a job is judged by, and how far that is. `request` is an `EvaluationRequest`."""

    __tablename__ = "evaluations"
    n: Mapped[int] = mapped_column(Number, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    project: Mapped[str]
    request: Mapped[dict[str, Any]]
    status: Mapped[str]
    scores: Mapped[dict[str, Any] | None]
    outcome: Mapped[str | None]
    headline: Mapped[str | None]
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[int]
    finished_at: Mapped[int | None]
    attempts: Mapped[int] = mapped_column(default=0)
    __table_args__ = (Index("evaluations_by_status", "status"), SQLITE)


class EventRow(Listed):
    """One line of a job's story; `run_seq` is its number in the trainer's own journal, where it comes from there.

    `message` and `azure_message` are its words under the two dialects; a dialect without words does not list it.
    """

    __tablename__ = "events"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    seq: Mapped[int]
    run_seq: Mapped[int | None]
    created_at: Mapped[int]
    level: Mapped[str]
    type: Mapped[str]
    message: Mapped[str | None]
    azure_message: Mapped[str | None]
    data: Mapped[dict[str, Any] | None]
    __table_args__ = (UniqueConstraint("job_id", "seq"), UniqueConstraint("job_id", "run_seq"), SQLITE)


class ModelRow(Listed):
    """A tuned model or a checkpoint."""

    __tablename__ = "models"
    name: Mapped[str] = mapped_column(unique=True)
    azure_name: Mapped[str] = mapped_column(unique=True)
    project: Mapped[str]
    organization: Mapped[str]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    base: Mapped[str]
    step: Mapped[int]
    is_final: Mapped[bool]
    adapter: Mapped[str]
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[int]
    __table_args__ = (
        UniqueConstraint("job_id", "step", "is_final"),
        Index("models_of_project", "project", "n"),
        SQLITE,
    )


class PermissionRow(Listed):
    """That another project may use a checkpoint."""

    __tablename__ = "permissions"
    model: Mapped[str]
    project: Mapped[str]
    created_at: Mapped[int]
    __table_args__ = (UniqueConstraint("model", "project"), SQLITE)


class DeploymentRow(Table):
    """A name under which a model is hosted; one per name and project, as chat by deployment name knows no account."""

    __tablename__ = "deployments"
    n: Mapped[int] = mapped_column(Number, primary_key=True)
    name: Mapped[str]
    scope: Mapped[str]
    project: Mapped[str]
    model: Mapped[str]
    model_format: Mapped[str]
    model_version: Mapped[str]
    sku: Mapped[str]
    capacity: Mapped[int]
    created_at: Mapped[int]
    updated_at: Mapped[int]
    __table_args__ = (UniqueConstraint("project", "name"), SQLITE)


class KeyRow(Listed):
    """An API key: its SHA-256, never itself."""

    __tablename__ = "keys"
    sha256: Mapped[str] = mapped_column(unique=True)
    hint: Mapped[str]
    role: Mapped[str]
    organization: Mapped[str]
    project: Mapped[str]
    created_at: Mapped[int]
    revoked_at: Mapped[int | None]
    __table_args__ = SQLITE


class UsageRow(Table):
    """The tokens of one answered request."""

    __tablename__ = "usage"
    n: Mapped[int] = mapped_column(Number, primary_key=True)
    project: Mapped[str]
    model: Mapped[str]
    created_at: Mapped[int]
    prompt_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    __table_args__ = (Index("usage_of_project", "project", "model"), SQLITE)
