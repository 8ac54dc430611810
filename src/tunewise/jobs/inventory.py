"""What models a caller has: base models, tuned ones, deployments; where one comes from, and what hangs on it.

Reads the store and the disk, and changes nothing.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sqlalchemy.orm import Session

from tunewise import catalogue
from tunewise.catalogue import Listing
from tunewise.contracts.jobs import Caller, Deployment, Job, StoredFile, TunedModel
from tunewise.errors import RequestError
from tunewise.jobs.names import resolve
from tunewise.jobs.platform import Platform
from tunewise.jobs.weights import Kind, kind_in
from tunewise.store import files, jobs, models


class Inventory(NamedTuple):
    """Everything that a caller can chat with; tuned models newest first, deployments oldest first."""

    bases: tuple[Listing, ...]
    tuned: list[TunedModel]
    deployments: list[Deployment]
    aliases: dict[str, str]


class Lineage(NamedTuple):
    """Where a tuned model comes from, and what hangs on it.

    `job` and the files are None where they are another project's, or deleted. `siblings`: the other models that the
    same job has left. `shared_with`: how many other projects may use it.
    """

    model: TunedModel
    is_own: bool
    job: Job | None
    training_file: StoredFile | None
    validation_file: StoredFile | None
    siblings: list[TunedModel]
    deployments: list[Deployment]
    shared_with: int
    usage: dict[str, int]
    adapter_bytes: int
    kind: Kind


def inventory(platform: Platform, caller: Caller) -> Inventory:
    """What there is for the caller."""
    with platform.database.read() as session:
        tuned = models.visible(session, caller.project)
        deployed = models.deployments(session, caller.project)
    return Inventory(catalogue.known(platform.settings), tuned, deployed, platform.settings.aliases)


def own_names(platform: Platform, caller: Caller, names: Iterable[str]) -> set[str]:
    """Those of these names that are tuned models which the caller may see."""
    with platform.database.read() as session:
        return {name for name in names if models.find(session, caller.project, name) is not None}


def lineage(platform: Platform, caller: Caller, name: str) -> Lineage:
    """The story of a tuned model or a checkpoint, by any of its names.

    Raises:
        RequestError: model_not_found, also where the name is a base model's, which has no story here.
    """
    with platform.database.read() as session:
        model = resolve(session, platform.settings, caller, name).tuned
        if model is None:
            raise RequestError(
                "model_not_found",
                f"{name!r} is a base model, and was not tuned here; `/models` shows it",
                param="model",
            )
        is_own = model.project == caller.project
        job = jobs.get(session, caller.project, model.job_id)
        return Lineage(
            model=model,
            is_own=is_own,
            job=job,
            training_file=_file(session, caller, None if job is None else job.request.training_file),
            validation_file=_file(session, caller, None if job is None else job.request.validation_file),
            siblings=[other for other in models.of_job(session, model.job_id) if is_own and other.id != model.id],
            deployments=models.deployments(session, caller.project, model=model.name),
            shared_with=models.count_permissions(session, model.name) if is_own else 0,
            usage=models.usage(session, caller.project, model.name),
            adapter_bytes=size_of(platform.settings.state_dir / model.adapter),
            kind=kind_in(platform.settings.state_dir / model.adapter),
        )


def size_of(directory: Path) -> int:
    """Bytes of the files below a directory; 0 where there is none. Links are not followed."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):  # a trainer may be removing a checkpoint
                total += os.lstat(Path(folder, name)).st_size
    return total


def _file(session: Session, caller: Caller, file_id: str | None) -> StoredFile | None:
    return None if file_id is None else files.get(session, caller.project, file_id)
