"""What pages let a visitor save: files, what a run left, tuned models. Checked as every page is."""

import asyncio

from fastapi import Request
from fastapi.responses import FileResponse, StreamingResponse
from nicegui import app

from tunewise.errors import RequestError
from tunewise.jobs import exports, files, following
from tunewise.web.visit import Visit, the_studio


def add_routes() -> None:
    """Add the routes that links of pages lead to."""
    app.get("/runs/{job_id}/files/{name}")(_run_file)
    app.get("/data/{file_id}/content")(_content)
    app.get("/models/{model_id}/export/{wanted}")(_export)


async def _run_file(request: Request, job_id: str, name: str) -> FileResponse:
    found = await Visit(the_studio(), request).ask(following.files_of, job_id)
    if name not in found:
        raise RequestError("file_not_found", f"Run {job_id} has no file {name!r} yet", param="name")
    path = found[name]
    await asyncio.to_thread(path.stat)  # gone meanwhile: an error now, and not in the middle of the answer
    return FileResponse(path, filename=f"{job_id}-{name}", content_disposition_type="attachment")


async def _content(request: Request, file_id: str) -> FileResponse:
    visit = Visit(the_studio(), request)
    file = await visit.ask(files.retrieve, file_id)
    return FileResponse(
        visit.platform.files_dir / file.id, filename=file.filename, content_disposition_type="attachment"
    )


async def _export(request: Request, model_id: str, wanted: str) -> StreamingResponse:
    made = await Visit(the_studio(), request).ask(exports.export, model_id, wanted)
    headers = {"content-disposition": f'attachment; filename="{made.filename}"'}
    return StreamingResponse(made.chunks, media_type=made.media_type, headers=headers)
