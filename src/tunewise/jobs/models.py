"""Use cases of models: which there are, deleting a tuned one, and sharing a checkpoint with other projects."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sqlalchemy.orm import Session

from tunewise import catalogue, embedding_models
from tunewise.contracts.evaluations import UNFINISHED
from tunewise.contracts.jobs import Caller, Permission, TunedModel
from tunewise.errors import RequestError
from tunewise.jobs.access import project_name, require_admin, require_projects
from tunewise.jobs.checkpoints import remove_adapters
from tunewise.jobs.names import base_names, resolve
from tunewise.jobs.platform import Platform
from tunewise.settings import Settings
from tunewise.store import evaluations, jobs, models
from tunewise.store.rows import Order, Page, new_id, now

OWNER_OF_BASES = "system"
_OTHERS = "a project that was let use it; take its permission back, or wait"


class ListedModel(NamedTuple):
    """One entry of the list of models."""

    name: str
    created_at: int
    owner: str


def list_models(platform: Platform, caller: Caller) -> list[ListedModel]:
    """Base models, aliases, and the tuned models and checkpoints that the caller owns or was granted."""
    with platform.database.read() as session:
        tuned = models.visible(session, caller.project)
    return [*_bases(platform.settings), *map(_tuned, tuned)]


def retrieve(platform: Platform, caller: Caller, name: str) -> ListedModel:
    """One model under the name that was asked for.

    Raises:
        RequestError: model_not_found, with the names that there are.
    """
    base = next((model for model in _bases(platform.settings) if model.name == name), None)
    if base is not None:
        return base
    with platform.database.read() as session:
        found = resolve(session, platform.settings, caller, name)
    if found.tuned is None:
        return ListedModel(name, 0, OWNER_OF_BASES)
    return _tuned(found.tuned)._replace(name=name)


def delete(platform: Platform, caller: Caller, name: str) -> None:
    """Delete a tuned model or a checkpoint, and its weights. A job goes on from checkpoints of its own.

    Raises:
        RequestError: model_not_found, not_owner, model_not_deletable, model_deployed or model_in_use.
    """
    with platform.database.write() as session:
        model = _deletable(session, platform, caller, name)
        models.remove(session, model.id)
    remove_adapters(platform, [model])


def grant(platform: Platform, caller: Caller, name: str, projects: Sequence[str]) -> list[Permission]:
    """Let projects of the organization use a checkpoint; granting twice gives the first permission again.

    Raises:
        RequestError: admin_required, model_not_found, invalid_project or invalid_name.
    """
    require_admin(caller, "Sharing a checkpoint")
    with platform.database.write() as session:
        model = _own(session, platform, caller, name)
        asked = [
            Permission(id=new_id("cp_"), model=model.name, project=project_name(project), created_at=now())
            for project in projects
        ]
        require_projects(session, caller, projects, "project_ids")
        return [models.grant(session, permission) for permission in asked]


def list_permissions(
    platform: Platform,
    caller: Caller,
    name: str,
    *,
    project: str | None,
    after: str | None,
    limit: int,
    order: Order,
) -> Page[Permission]:
    """A page of a checkpoint's permissions.

    Raises:
        RequestError: admin_required, model_not_found or invalid_cursor.
    """
    require_admin(caller, "Looking up who may use a checkpoint")
    with platform.database.read() as session:
        model = _own(session, platform, caller, name)
        found = models.permissions(session, model.name, project=project, after=after, limit=limit, order=order)
    if found is None:
        raise RequestError("invalid_cursor", f"after: there is no {after!r} in this list", param="after")
    return found


def revoke(platform: Platform, caller: Caller, name: str, permission_id: str) -> None:
    """Take a permission back.

    Raises:
        RequestError: admin_required, model_not_found or permission_not_found.
    """
    require_admin(caller, "Sharing a checkpoint")
    with platform.database.write() as session:
        model = _own(session, platform, caller, name)
        if not models.revoke(session, model.name, permission_id):
            raise RequestError(
                "permission_not_found", f"{name} has no permission {permission_id!r}", param="permission_id"
            )


def _bases(settings: Settings) -> list[ListedModel]:
    paths = {listing.name: listing.path for listing in catalogue.known(settings)}
    paths |= {name: embedding_models.find(name).path for name in embedding_models.names_here()}
    bases = {name: _changed(paths.get(name)) for name in base_names(settings)}
    aliases = {name: bases[base] for name, base in settings.aliases.items() if base in bases}
    return [ListedModel(name, created_at, OWNER_OF_BASES) for name, created_at in (bases | aliases).items()]


def _changed(path: Path | None) -> int:
    """When a model's directory was made (Unix time, seconds); 0 where it is not here, or not yet."""
    return int(path.stat().st_mtime) if path is not None and path.exists() else 0


def _tuned(model: TunedModel) -> ListedModel:
    return ListedModel(model.name, model.created_at, model.organization)


def _own(session: Session, platform: Platform, caller: Caller, name: str) -> TunedModel:
    model = models.owned(session, caller.project, name)
    if model is not None:
        return model
    if resolve(session, platform.settings, caller, name).tuned is None:
        raise RequestError(
            "model_not_deletable", f"{name!r} is no tuned model; only those have an owner", param="model"
        )
    raise RequestError("not_owner", f"{name!r} belongs to another project, which lets this one use it", param="model")


def _deletable(session: Session, platform: Platform, caller: Caller, name: str) -> TunedModel:
    model = _own(session, platform, caller, name)
    deployed = models.deployment_of(session, model)
    if deployed is not None:
        mine = deployed.project == caller.project
        what = f"has the deployment {deployed.name!r}; delete that first" if mine else f"is deployed by {_OTHERS}"
        raise RequestError("model_deployed", f"{name!r} {what}", param="model")
    evaluation = evaluations.find(session, model.job_id)
    if evaluation is not None and evaluation.status in UNFINISHED and model.is_final:
        raise RequestError(
            "model_in_use",
            f"{name!r} is being evaluated; wait for the verdict, or cancel the evaluation",
            param="model",
        )
    job = jobs.using_model(session, model.name)
    if job is not None:
        mine = job.project == caller.project
        what = f"job {job.id}, which is {job.status}" if mine else _OTHERS
        raise RequestError("model_in_use", f"{name!r} is tuned further by {what}", param="model")
    return model
