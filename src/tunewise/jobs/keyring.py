"""Keys as an admin deals with them from a page: those of the admin's own organization.

The command line, whose user owns the machine, deals with all of them (`jobs.access`).
"""

from tunewise.contracts.jobs import ApiKey, Caller, Role
from tunewise.errors import RequestError
from tunewise.jobs import access
from tunewise.jobs.access import NewKey, require_admin
from tunewise.jobs.platform import Platform


def list_keys(platform: Platform, caller: Caller) -> list[ApiKey]:
    """The organization's keys, oldest first, the revoked ones too.

    Raises:
        RequestError: admin_required.
    """
    require_admin(caller, "Looking up keys")
    return [key for key in access.list_keys(platform) if key.organization == caller.organization]


def create(platform: Platform, caller: Caller, *, role: Role, project: str) -> NewKey:
    """A new key of the organization; the very first key is an admin's, so that somebody can make the next.

    Raises:
        RequestError: admin_required; first_key, where it would be a member's; as `access.create_key` says.
    """
    require_admin(caller, "Making a key")
    if role != "admin" and not access.keys_exist(platform):
        raise RequestError(
            "first_key",
            "role: the first key must be an admin's: from then on every visitor needs a key, and members make none",
            param="role",
        )
    return access.create_key(platform, role=role, organization=caller.organization, project=project or caller.project)


def revoke(platform: Platform, caller: Caller, key_id: str) -> None:
    """End a key of the organization at once.

    Raises:
        RequestError: admin_required, or key_not_found.
    """
    if key_id not in {key.id for key in list_keys(platform, caller)}:
        raise RequestError("key_not_found", f"There is no key {key_id!r} in use in {caller.organization!r}")
    access.revoke_key(platform, key_id)
