"""Access: who a caller is, and the keys that say so. Knows keys and names, and nothing of headers.

Until the first key is made, whoever reaches the server is the admin of whatever project they name. From then on a key
is needed, a project is one that a key was made for, and an admin's key opens those of its organization. A key is shown
once and kept as its SHA-256: it has 256 random bits, so there is nothing to guess.
"""

import hashlib
import re
import secrets
from collections.abc import Collection, Iterable
from typing import NamedTuple

from sqlalchemy.orm import Session

from tunewise.addresses import is_loopback
from tunewise.contracts.jobs import ApiKey, Caller, Role
from tunewise.errors import RequestError
from tunewise.jobs.platform import Platform
from tunewise.store import keys
from tunewise.store.rows import new_id, now

KEY_PREFIX = "tw-"
SECRET_BYTES = 32
HINT_CHARS = 7
DEFAULT_PROJECT = "default"
NAME_CHARS = 128
# What container engines call the machine that they run on. No public name server answers for `.internal`.
THIS_MACHINE = {"localhost", "host.docker.internal", "host.containers.internal"}


class NewKey(NamedTuple):
    """A key and its secret, which nobody will see again."""

    key: ApiKey
    secret: str


def create_key(platform: Platform, *, role: Role, organization: str | None, project: str | None) -> NewKey:
    """Make a key for one project.

    Raises:
        RequestError: invalid_name, for a project or organization that no header could name; project_taken, for a
            project of another organization.
    """
    secret = KEY_PREFIX + secrets.token_hex(SECRET_BYTES)
    key = ApiKey(
        id=new_id("key_"),
        hint=secret[:HINT_CHARS],
        role=role,
        organization=organization_name(organization or platform.settings.organization),
        project=project_name(project or DEFAULT_PROJECT),
        created_at=now(),
    )
    with platform.database.write() as session:
        owner = keys.organization_of(session, key.project)
        if owner not in (None, key.organization):
            raise RequestError(
                "project_taken",
                f"project {key.project!r} belongs to the organization {owner!r}, and {key.organization!r} would see "
                "its files and models; name another project",
                param="project",
            )
        keys.add(session, key, _hash(secret))
    return NewKey(key, secret)


def list_keys(platform: Platform) -> list[ApiKey]:
    """Every key, oldest first, the revoked ones too."""
    with platform.database.read() as session:
        return keys.listed(session)


def revoke_key(platform: Platform, key_id: str) -> None:
    """End a key at once.

    Raises:
        RequestError: key_not_found, when there is none of that id in use.
    """
    with platform.database.write() as session:
        if not keys.revoke(session, key_id):
            raise RequestError("key_not_found", f"There is no key {key_id!r} in use; `tunewise keys list` shows them")


def keys_exist(platform: Platform) -> bool:
    """Whether callers have to show a key."""
    with platform.database.read() as session:
        return keys.exist(session)


def identify(
    platform: Platform,
    secret: str | None,
    *,
    organization: str | None,
    project: str | None,
    keys_required: bool,
    host: str | None,
) -> Caller:
    """Who asks, by the key and by the organization and project that the request names. `host`: what the request calls
    this server.

    Raises:
        RequestError: missing_api_key, invalid_api_key, wrong_organization, wrong_project, wrong_host or invalid_name.
    """
    named_organization = organization_name(organization) if organization else None
    named_project = project_name(project) if project else None
    with platform.database.read() as session:
        known = keys.find(session, _hash(secret)) if secret else None
        needed = known is not None or keys_required or keys.exist(session)
        if known is not None:
            _check_names(session, known, named_organization, named_project)
    if not needed:
        _check_host(host, platform.settings.allowed_hosts)
        default = organization_name(platform.settings.organization)
        return Caller(
            organization=named_organization or default, project=named_project or DEFAULT_PROJECT, role="admin"
        )
    if known is None:
        raise _refused(secret)
    return Caller(organization=known.organization, project=named_project or known.project, role=known.role)


def find_key(platform: Platform, secret: str) -> ApiKey:
    """The key whose secret this is.

    Raises:
        RequestError: missing_api_key or invalid_api_key.
    """
    with platform.database.read() as session:
        known = keys.find(session, _hash(secret)) if secret else None
    if known is None:
        raise _refused(secret)
    return known


def identify_key(platform: Platform, key_id: str, *, project: str | None) -> Caller:
    """Who asks, by the id of a key that was shown before.

    Raises:
        RequestError: invalid_api_key, when it has been revoked since; wrong_project.
    """
    with platform.database.read() as session:
        known = keys.get(session, key_id)
        if known is None:
            raise RequestError("invalid_api_key", f"The key {key_id} is not in use any more; sign in with another")
        _check_names(session, known, None, project)
    return Caller(organization=known.organization, project=project or known.project, role=known.role)


def require_admin(caller: Caller, what: str) -> None:
    """Let only admins go on.

    Raises:
        RequestError: admin_required.
    """
    if caller.role != "admin":
        raise RequestError("admin_required", f"{what} needs a key with the role admin; this key's role is member")


def require_projects(session: Session, caller: Caller, projects: Iterable[str], param: str) -> None:
    """Let only projects of the caller's organization be named, once there are keys; until then, any is one.

    Raises:
        RequestError: invalid_project.
    """
    if not keys.exist(session):
        return
    for project in projects:
        if keys.organization_of(session, project) != caller.organization:
            raise RequestError("invalid_project", f"{param}: {_no_project(caller.organization, project)}", param=param)


def organization_name(name: str) -> str:
    """An organization as it stands in model names: what no name may hold becomes a dash.

    Tutorials send placeholders such as `<org id>`, and a colon would end the part of the model's name.

    Raises:
        RequestError: invalid_name, when nothing is left.
    """
    cleaned = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-")[:NAME_CHARS]
    if not cleaned:
        raise RequestError("invalid_name", f"OpenAI-Organization: {name!r} is no name", param="OpenAI-Organization")
    return cleaned


def project_name(name: str) -> str:
    """A project as it is asked for.

    Raises:
        RequestError: invalid_name, when it is too long or cannot be printed.
    """
    if not name.isprintable() or len(name) > NAME_CHARS:
        raise RequestError(
            "invalid_name",
            f"OpenAI-Project: {name[:NAME_CHARS]!r} is no name; give up to {NAME_CHARS} printable characters",
            param="OpenAI-Project",
        )
    return name


def _refused(secret: str | None) -> RequestError:
    if not secret:
        return RequestError(
            "missing_api_key",
            "You didn't provide an API key. Send it as `Authorization: Bearer KEY`, or as `api-key: KEY`; "
            "`tunewise keys create` on the server's machine makes one",
        )
    return RequestError(
        "invalid_api_key", f"Incorrect API key provided: {secret[:3]}***. `tunewise keys create` makes one"
    )


def _check_host(host: str | None, allowed: Collection[str]) -> None:
    """A web page may let its own name lead to 127.0.0.1, and its visitor's browser would be let in here."""
    name = "" if host is None else host.lower()
    # Browsers and resolvers keep names under `.localhost` to this machine (RFC 6761).
    is_ours = name in THIS_MACHINE or name.endswith(".localhost") or is_loopback(name)
    if host is not None and not is_ours and name not in allowed:
        raise RequestError(
            "wrong_host",
            f"Host: without keys this server answers as localhost or 127.0.0.1 only, not as {name[:NAME_CHARS]!r}; "
            "`tunewise keys create` makes a key, or name the host in TUNEWISE_ALLOWED_HOSTS",
            param="Host",
        )


def _check_names(session: Session, key: ApiKey, organization: str | None, project: str | None) -> None:
    if organization not in (None, key.organization):
        raise RequestError(
            "wrong_organization",
            f"OpenAI-Organization: this key belongs to {key.organization!r}, not to {organization!r}",
            param="OpenAI-Organization",
        )
    if project in (None, key.project):
        return
    if key.role != "admin":
        raise RequestError(
            "wrong_project",
            f"OpenAI-Project: this key belongs to {key.project!r}, not to {project!r}; leave the header out",
            param="OpenAI-Project",
        )
    if keys.organization_of(session, project) != key.organization:
        raise RequestError(
            "wrong_project", f"OpenAI-Project: {_no_project(key.organization, project)}", param="OpenAI-Project"
        )


def _no_project(organization: str, project: str) -> str:
    """The same for a project of others as for none, so that nobody learns which there are."""
    return f"{organization!r} has no project {project!r}; `tunewise keys create --project` makes one"


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
