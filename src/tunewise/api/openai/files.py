"""/v1/files: upload, list, look up, read, delete."""

from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from tunewise.api.dependencies import CallerDep, PlatformDep
from tunewise.api.multipart import received
from tunewise.api.openai import wire
from tunewise.api.openai.fine_tuning import After
from tunewise.api.openai.requests import file_fields
from tunewise.api.route import Route
from tunewise.api.texts import ID_CHARS
from tunewise.contracts.jobs import Purpose
from tunewise.jobs import files

router = APIRouter(prefix="/files", tags=["files"], route_class=Route)

FileId: TypeAlias = Annotated[str, Path(max_length=ID_CHARS, description="The file's id.", examples=["file-abc123"])]
BINARY: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
PURPOSES = ["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "The file's bytes."},
                        "purpose": {"type": "string", "enum": PURPOSES, "description": "What the file is for."},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                    },
                }
            }
        },
    }
}


@router.post("", summary="Upload a file", openapi_extra=FORM)
async def create_file(request: Request, platform: PlatformDep, caller: CallerDep) -> wire.FileObject:
    """Keep a file. A training file is refused where a line is no JSON object."""
    async with received(request, platform, "file") as form:
        asked = file_fields(form.fields)
        seconds = asked.expires_after.seconds if asked.expires_after else None
        file = await run_in_threadpool(
            files.create, platform, caller, form.file, purpose=asked.purpose, seconds=seconds
        )
    return wire.file_object(file, platform.settings)


@router.get("", summary="List files")
def list_files(
    platform: PlatformDep,
    caller: CallerDep,
    purpose: Annotated[Purpose | None, Query(description="Only files of this purpose.")] = None,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="The most items that the page may have.")] = 10_000,
    order: Annotated[Literal["asc", "desc"], Query(description="By the order of their creation.")] = "desc",
) -> wire.FileList:
    """Newest first, unless asked otherwise."""
    page = files.list_files(platform, caller, purpose=purpose, after=after, limit=limit, order=order)
    return wire.listing(
        wire.FileList, [wire.file_object(file, platform.settings) for file in page.items], page.has_more
    )


@router.get("/{file_id}", summary="Look up a file")
def retrieve_file(file_id: FileId, platform: PlatformDep, caller: CallerDep) -> wire.FileObject:
    """What is known of the file."""
    return wire.file_object(files.retrieve(platform, caller, file_id), platform.settings)


@router.get(
    "/{file_id}/content",
    summary="Read a file",
    response_class=StreamingResponse,
    responses={200: {"content": BINARY, "description": "The bytes as they were uploaded."}},
)
def retrieve_content(file_id: FileId, platform: PlatformDep, caller: CallerDep) -> StreamingResponse:
    """The file's bytes; a result file is CSV."""
    found = files.contents(platform, caller, file_id)
    headers = {"Content-Length": str(found.length), "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(found.chunks, media_type="application/octet-stream", headers=headers)


@router.delete("/{file_id}", summary="Delete a file")
def delete_file(file_id: FileId, platform: PlatformDep, caller: CallerDep) -> wire.FileDeleted:
    """Refused while a job that has not ended reads the file."""
    files.delete(platform, caller, file_id)
    return wire.FileDeleted(id=file_id)
