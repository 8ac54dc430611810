"""Deployments, Azure's way of hosting: a name of the user's choice under which a tuned model answers.

A deployment is only a name: the model is hosted when it is first asked, under whichever name. Knows no wire.
"""

import re
from typing import NamedTuple

from tunewise.contracts.jobs import Caller, Deployment
from tunewise.errors import RequestError
from tunewise.jobs.names import resolve
from tunewise.jobs.platform import Platform
from tunewise.store import models
from tunewise.store.rows import now

NOT_THERE = (
    "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, "
    "please wait a moment and try again."
)


NAME = re.compile(r"[\w.-]{1,64}")


class Wanted(NamedTuple):
    """A deployment as the resource manager's PUT asks for it. `scope` is `SUBSCRIPTION/RESOURCE_GROUP/ACCOUNT`."""

    name: str
    scope: str
    model: str
    model_format: str = "OpenAI"
    model_version: str = "1"
    sku: str = "Standard"
    capacity: int = 1


def put(platform: Platform, caller: Caller, wanted: Wanted) -> tuple[Deployment, bool]:
    """Make a deployment, or change the one of that name; and whether it is new.

    Raises:
        RequestError: invalid_name; model_not_found; name_taken, by a deployment of another account.
    """
    if not NAME.fullmatch(wanted.name):
        raise RequestError(
            "invalid_name",
            f"name: {wanted.name[:64]!r} is no deployment's name; take up to 64 letters, digits, '-', '_' and '.'",
            param="name",
        )
    with platform.database.write() as session:
        tuned = resolve(session, platform.settings, caller, wanted.model).tuned
        other = models.deployment(session, caller.project, wanted.model)
        model = tuned.name if tuned else other.model if other else wanted.model
        before = models.deployment(session, caller.project, wanted.name)
        if before is not None and before.scope != wanted.scope:
            raise RequestError(
                "name_taken",
                f"deployment {wanted.name!r} exists in {before.scope}, and chat by deployment name knows no account; "
                "take another name",
                param="name",
            )
        deployment = Deployment(
            **wanted._replace(model=model)._asdict(),
            project=caller.project,
            created_at=before.created_at if before else now(),
            updated_at=now(),
        )
        return deployment, models.put_deployment(session, deployment)


def retrieve(platform: Platform, caller: Caller, scope: str, name: str) -> Deployment:
    """The deployment of that name in that account.

    Raises:
        RequestError: deployment_not_found.
    """
    with platform.database.read() as session:
        found = models.deployment(session, caller.project, name)
    if found is None or found.scope != scope:
        raise RequestError("deployment_not_found", NOT_THERE, param="name")
    return found


def list_deployments(platform: Platform, caller: Caller, scope: str | None = None) -> list[Deployment]:
    """The deployments of an account, or of all accounts, oldest first."""
    with platform.database.read() as session:
        return models.deployments(session, caller.project, scope=scope)


def delete(platform: Platform, caller: Caller, scope: str, name: str) -> bool:
    """Take a deployment away; the model stays. Whether there was one."""
    with platform.database.write() as session:
        found = models.deployment(session, caller.project, name)
        return found is not None and found.scope == scope and models.remove_deployment(session, caller.project, name)
