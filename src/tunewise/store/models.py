"""Tuned models, checkpoints, who may use them, and the deployments that keep them."""

from sqlalchemy import bindparam, delete, func, or_, select
from sqlalchemy.orm import Session

from tunewise.contracts.jobs import Deployment, Permission, TunedModel
from tunewise.store.rows import ORDERS, Order, Page, Paged, found, lookup, now, one, page, paged, value, values
from tunewise.store.tables import DeploymentRow, ModelRow, PermissionRow, UsageRow

_MODEL = ModelRow.__table__.c
_NAMED = or_(_MODEL.name == bindparam("name"), _MODEL.azure_name == bindparam("name"), _MODEL.id == bindparam("name"))
_GRANTED = select(PermissionRow.model).where(PermissionRow.project == bindparam("project"))
_VISIBLE = or_(_MODEL.project == bindparam("project"), _MODEL.name.in_(_GRANTED))
_VISIBLE_ONE = select(ModelRow.__table__).where(_NAMED, _VISIBLE)
_OWN = lookup(ModelRow, "project").where(_NAMED)
_CHECKPOINTS = paged(ModelRow, "job_id")
_UNFINISHED = _CHECKPOINTS.where(_MODEL.is_final.is_(False))
_PERMISSIONS: dict[Order, Paged] = {order: paged(PermissionRow, "model", order=order) for order in ORDERS}
_DEPLOYMENT = lookup(DeploymentRow, "project", "name")


def add(session: Session, model: TunedModel) -> None:
    """Keep a new model."""
    session.add(ModelRow(**model.model_dump()))
    session.flush()


def find(session: Session, project: str, name: str) -> TunedModel | None:
    """The model or checkpoint of that name, in either dialect, or id, that the project owns or was granted."""
    return found(session, TunedModel, _VISIBLE_ONE, name=name, project=project)


def named(session: Session, name: str) -> TunedModel | None:
    """The model or checkpoint of that name or id, whichever project's: for whoever holds the state itself."""
    return found(session, TunedModel, select(ModelRow.__table__).where(_NAMED), name=name)


def owned(session: Session, project: str, name: str) -> TunedModel | None:
    """The project's own model or checkpoint of that name or id."""
    return found(session, TunedModel, _OWN, name=name, project=project)


def visible(session: Session, project: str) -> list[TunedModel]:
    """All models and checkpoints that the project owns or was granted, newest first."""
    query = select(ModelRow).where(_VISIBLE).order_by(ModelRow.n.desc())
    return values(TunedModel, session.scalars(query, {"project": project}))


def of_job(session: Session, job_id: str) -> list[TunedModel]:
    """The job's checkpoints and its final model, in the order of training."""
    query = select(ModelRow).where(ModelRow.job_id == job_id).order_by(ModelRow.n)
    return values(TunedModel, session.scalars(query))


def adapters(session: Session) -> set[str]:
    """Where the adapters of all models of every project lie: what else is kept is a leftover."""
    return set(session.scalars(select(ModelRow.adapter)))


def checkpoints(
    session: Session, job_id: str, *, with_final: bool, after: str | None, limit: int
) -> Page[TunedModel] | None:
    """A page of the job's checkpoints, newest first; Azure counts the final model among them."""
    query = _CHECKPOINTS if with_final else _UNFINISHED
    return page(session, TunedModel, query, after=after, limit=limit, job_id=job_id)


def remove(session: Session, model_id: str) -> None:
    """Forget a model and whoever was granted it."""
    row = one(session, ModelRow, id=model_id)
    if row is not None:
        session.execute(delete(PermissionRow).where(PermissionRow.model == row.name))
        session.delete(row)
        session.flush()


def grant(session: Session, permission: Permission) -> Permission:
    """Let a project use a checkpoint; granting twice gives the first permission again."""
    row = one(session, PermissionRow, model=permission.model, project=permission.project)
    if row is None:
        row = PermissionRow(**permission.model_dump())
        session.add(row)
        session.flush()
    return Permission(id=row.id, model=row.model, project=row.project, created_at=row.created_at)


def permissions(
    session: Session, model: str, *, project: str | None, after: str | None, limit: int, order: Order
) -> Page[Permission] | None:
    """A page of a checkpoint's permissions."""
    query = _PERMISSIONS[order]
    if project is not None:
        query = query.where(PermissionRow.__table__.c.project == project)
    return page(session, Permission, query, after=after, limit=limit, model=model)


def count_permissions(session: Session, model: str) -> int:
    """How many projects were granted a model."""
    query = select(func.count()).select_from(PermissionRow).where(PermissionRow.model == model)
    return session.scalar(query) or 0


def revoke(session: Session, model: str, permission_id: str) -> bool:
    """Take a permission back; whether there was one."""
    statement = (
        delete(PermissionRow)
        .where(PermissionRow.model == model, PermissionRow.id == permission_id)
        .returning(PermissionRow.n)
    )
    return session.scalar(statement) is not None


def put_deployment(session: Session, deployment: Deployment) -> bool:
    """Keep a deployment under its name, new or in place of the old; whether it is new."""
    row = one(session, DeploymentRow, project=deployment.project, name=deployment.name)
    if row is None:
        session.add(DeploymentRow(**deployment.model_dump()))
        session.flush()
        return True
    for name, new in deployment.model_dump(exclude={"created_at"}).items():
        setattr(row, name, new)
    session.flush()
    return False


def deployment(session: Session, project: str, name: str) -> Deployment | None:
    """The project's deployment of that name."""
    return found(session, Deployment, _DEPLOYMENT, project=project, name=name)


def deployments(
    session: Session, project: str, *, scope: str | None = None, model: str | None = None
) -> list[Deployment]:
    """The project's deployments, oldest first: all, those of one account, or those of one model."""
    query = select(DeploymentRow).where(DeploymentRow.project == project).order_by(DeploymentRow.n)
    if scope is not None:
        query = query.where(DeploymentRow.scope == scope)
    if model is not None:
        query = query.where(DeploymentRow.model == model)
    return values(Deployment, session.scalars(query))


def deployment_of(session: Session, model: TunedModel) -> Deployment | None:
    """A deployment of this model, by its owner or by a project that is granted it; the owner's first.

    One that is left of a permission that was taken back answers nobody, and keeps nothing.
    """
    granted = select(PermissionRow.project).where(PermissionRow.model == model.name)
    is_owners = DeploymentRow.project == model.project
    query = select(DeploymentRow).where(
        DeploymentRow.model == model.name, or_(is_owners, DeploymentRow.project.in_(granted))
    )
    return value(Deployment, session.scalar(query.order_by(is_owners.desc(), DeploymentRow.n).limit(1)))


def remove_deployment(session: Session, project: str, name: str) -> bool:
    """Forget a deployment; whether there was one."""
    statement = (
        delete(DeploymentRow)
        .where(DeploymentRow.project == project, DeploymentRow.name == name)
        .returning(DeploymentRow.n)
    )
    return session.scalar(statement) is not None


def record_usage(session: Session, project: str, model: str, *, prompt: int, cached: int, completion: int) -> None:
    """Keep the tokens of one answered request; all of a transaction are written at its end, in one statement."""
    session.add(
        UsageRow(
            project=project,
            model=model,
            created_at=now(),
            prompt_tokens=prompt,
            cached_tokens=cached,
            completion_tokens=completion,
        )
    )


def usage(session: Session, project: str, model: str) -> dict[str, int]:
    """Requests and tokens of a model so far."""
    row = UsageRow
    sums = [func.count(), func.sum(row.prompt_tokens), func.sum(row.cached_tokens), func.sum(row.completion_tokens)]
    found = session.execute(select(*sums).where(row.project == project, row.model == model)).one()
    names = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
    return {name: int(total or 0) for name, total in zip(names, found, strict=True)}
