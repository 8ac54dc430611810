"""/v1/fine_tuning/checkpoints/{checkpoint}/permissions: which other projects may use a checkpoint."""

from typing import Annotated, Literal, TypeAlias

from fastapi import APIRouter, Path, Query

from tunewise.api.dependencies import CallerDep, PlatformDep
from tunewise.api.openai import wire
from tunewise.api.openai.fine_tuning import After
from tunewise.api.openai.requests import CreatePermissions
from tunewise.api.route import Route
from tunewise.api.texts import ID_CHARS
from tunewise.jobs import models
from tunewise.store.rows import Order

router = APIRouter(
    prefix="/fine_tuning/checkpoints/{checkpoint:path}/permissions", tags=["checkpoint permissions"], route_class=Route
)

Checkpoint: TypeAlias = Annotated[
    str,
    Path(
        max_length=ID_CHARS,
        description="The checkpoint's name or id.",
        examples=["ft:smollm2-135m-instruct:o:s:1:ckpt-step-10"],
    ),
]
ORDERS: dict[str, Order] = {"ascending": "asc", "descending": "desc"}


@router.post("", summary="Share a checkpoint")
def create_permissions(
    checkpoint: Checkpoint, request: CreatePermissions, platform: PlatformDep, caller: CallerDep
) -> wire.PermissionList:
    """Let projects use the checkpoint; needs an admin's key."""
    granted = models.grant(platform, caller, checkpoint, request.project_ids)
    return wire.listing(wire.PermissionList, [wire.permission(kept) for kept in granted])


@router.get("", summary="List who may use a checkpoint")
def list_permissions(
    checkpoint: Checkpoint,
    platform: PlatformDep,
    caller: CallerDep,
    project_id: Annotated[str | None, Query(max_length=ID_CHARS, description="Only this project's.")] = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100, description="The most items that the page may have.")] = 10,
    order: Annotated[
        Literal["ascending", "descending"], Query(description="By the order of their creation.")
    ] = "descending",
) -> wire.PermissionList:
    """Needs an admin's key."""
    page = models.list_permissions(
        platform, caller, checkpoint, project=project_id, after=after, limit=limit, order=ORDERS[order]
    )
    return wire.listing(wire.PermissionList, [wire.permission(kept) for kept in page.items], page.has_more)


@router.delete("/{permission_id}", summary="Take a permission back")
def delete_permission(
    checkpoint: Checkpoint,
    permission_id: Annotated[
        str, Path(max_length=ID_CHARS, description="The permission's id.", examples=["cp_abc123"])
    ],
    platform: PlatformDep,
    caller: CallerDep,
) -> wire.PermissionDeleted:
    """Needs an admin's key."""
    models.revoke(platform, caller, checkpoint, permission_id)
    return wire.PermissionDeleted(id=permission_id)
