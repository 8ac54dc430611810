"""/v1/uploads: a large file in parts."""

from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Path, Request
from fastapi.concurrency import run_in_threadpool

from tunewise.api.dependencies import CallerDep, PlatformDep
from tunewise.api.multipart import received
from tunewise.api.openai import wire
from tunewise.api.openai.requests import CompleteUpload, CreateUpload, no_fields
from tunewise.api.route import Route
from tunewise.api.texts import ID_CHARS
from tunewise.jobs import uploads

router = APIRouter(prefix="/uploads", tags=["uploads"], route_class=Route)

UploadId: TypeAlias = Annotated[
    str, Path(max_length=ID_CHARS, description="The upload's id.", examples=["upload_abc123"])
]
FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "additionalProperties": False,
                    "properties": {
                        "data": {"type": "string", "format": "binary", "description": "Up to 64 MB of the file."}
                    },
                }
            }
        },
    }
}


@router.post("", summary="Announce a file that will come in parts")
def create_upload(request: CreateUpload, platform: PlatformDep, caller: CallerDep) -> wire.UploadObject:
    """It has to be completed within an hour."""
    return wire.upload_object(uploads.create(platform, caller, request.asked()), platform.settings)


@router.post("/{upload_id}/parts", summary="Add a part", openapi_extra=FORM)
async def add_part(
    upload_id: UploadId, request: Request, platform: PlatformDep, caller: CallerDep
) -> wire.UploadPartObject:
    """Parts may come in any order and at the same time; completing the upload names their order."""
    await run_in_threadpool(uploads.pending, platform, caller, upload_id)
    async with received(request, platform, "data", limit=uploads.PART_BYTES) as form:
        no_fields(form.fields)
        part = await run_in_threadpool(uploads.add_part, platform, caller, upload_id, form.file)
    return wire.upload_part(part)


@router.post("/{upload_id}/complete", summary="Put the parts together")
def complete_upload(
    upload_id: UploadId, request: CompleteUpload, platform: PlatformDep, caller: CallerDep
) -> wire.UploadObject:
    """The file is kept where its size, and the MD5 if it is given, are right."""
    state = uploads.complete(platform, caller, upload_id, request.part_ids, request.md5)
    return wire.upload_object(state, platform.settings)


@router.post("/{upload_id}/cancel", summary="Give an upload up")
def cancel_upload(upload_id: UploadId, platform: PlatformDep, caller: CallerDep) -> wire.UploadObject:
    """Its parts are removed."""
    return wire.upload_object(uploads.cancel(platform, caller, upload_id), platform.settings)
