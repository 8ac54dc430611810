"""The result files of a job: its metrics, one row a step, once with OpenAI's columns and once with Azure's.

Both are made at the job's end from the same events, each a file of its own, so that its size, hash and content are one
under every route. Knows columns and bytes; nothing of how a job ends.
"""

import csv
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from tunewise.contracts.fine_tuning import PREFERENCES, MethodType
from tunewise.contracts.jobs import Job, StoredFile
from tunewise.contracts.run import REWARD_METRICS, TEXT_METRICS
from tunewise.jobs.platform import Platform
from tunewise.jobs.stages import sync_directory
from tunewise.store.rows import new_id, now

Dialect: TypeAlias = Literal["openai", "azure"]
DIALECTS: tuple[Dialect, Dialect] = ("openai", "azure")
FILENAMES: dict[Dialect, str] = {"openai": "step_metrics.csv", "azure": "results.csv"}
_AS_NAMED = (
    "step",
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)
# The columns, and under which names the events have them.
COLUMNS: dict[Dialect, dict[str, str]] = {
    "openai": {
        "step": "step",
        "train_loss": "train_loss",
        "train_accuracy": "train_mean_token_accuracy",
        "valid_loss": "valid_loss",
        "valid_mean_token_accuracy": "valid_mean_token_accuracy",
    },
    "azure": dict(zip(_AS_NAMED, _AS_NAMED, strict=True)),
}
_DECIMALS = 5


def result_file_id(job_id: str, dialect: Dialect) -> str:
    """Which file a job's result is in: it follows from the job, so that a repeated try replaces it."""
    digest = hashlib.sha256(f"{job_id} {FILENAMES[dialect]}".encode()).hexdigest()
    return f"file-{digest[:32]}"


def write_result(
    platform: Platform, job: Job, metrics: Sequence[Mapping[str, float | int | None]], dialect: Dialect
) -> StoredFile:
    """Put a result file on the disk, whole; the row that says that there is one is the caller's to write.

    Raises:
        OSError: the disk is full.
    """
    table = result_csv(metrics, dialect, extra_columns(job.request.method.type)).encode()
    file = StoredFile(
        id=result_file_id(job.id, dialect),
        project=job.project,
        filename=FILENAMES[dialect],
        purpose="fine-tune-results",
        bytes=len(table),
        sha256=hashlib.sha256(table).hexdigest(),
        created_at=now(),
    )
    aside = platform.incoming_dir / new_id(f"{file.id}.")
    with aside.open("wb") as stream:
        stream.write(table)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(platform.files_dir / file.id)
    sync_directory(platform.files_dir)
    return file


def result_csv(metrics: Sequence[Mapping[str, float | int | None]], dialect: Dialect, extra: Sequence[str] = ()) -> str:
    """One row a step, five decimals, blank where nothing was measured; `extra` columns are called alike in both."""
    columns = COLUMNS[dialect] | {name: name for name in extra}
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows([_cell(step.get(name)) for name in columns.values()] for step in metrics)
    return text.getvalue()


def extra_columns(method: MethodType) -> tuple[str, ...]:
    """What is measured with this method only, under the names that the events have."""
    if method == "pretraining":
        return TEXT_METRICS
    return REWARD_METRICS if method in PREFERENCES else ()


def _cell(number: float | int | None) -> float | int | str:
    return "" if number is None else round(number, _DECIMALS)
