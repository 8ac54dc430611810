"""Azure's fine-tuning jobs: OpenAI's use cases in Azure's words."""

from typing import Annotated, TypeAlias

from fastapi import APIRouter, Path, Request

from tunewise.api.azure import wire
from tunewise.api.dependencies import CallerDep, PlatformDep
from tunewise.api.openai.fine_tuning import FILTER, After, JobId, Limit, metadata_filter
from tunewise.api.openai.wire import listing
from tunewise.api.route import Route
from tunewise.api.texts import ID_CHARS
from tunewise.errors import RequestError
from tunewise.jobs import fine_tuning

router = APIRouter(prefix="/fine_tuning/jobs", tags=["azure fine-tuning"], route_class=Route)

CheckpointId: TypeAlias = Annotated[
    str, Path(max_length=ID_CHARS, description="The checkpoint's id.", examples=["ftchkpt-abc123"])
]


@router.post("", summary="Create a fine-tuning job", status_code=201)
def create_job(request: wire.AzureCreateJob, platform: PlatformDep, caller: CallerDep) -> wire.AzureJob:
    """Keep a new job; a worker validates its files and trains."""
    return wire.job(fine_tuning.submit(platform, caller, request.submission()), platform.settings)


@router.get("", summary="List fine-tuning jobs", openapi_extra=FILTER)
def list_jobs(
    request: Request, platform: PlatformDep, caller: CallerDep, after: After = None, limit: Limit = 20
) -> wire.AzureJobList:
    """Newest first."""
    wanted, without = metadata_filter(request)
    page = fine_tuning.list_jobs(platform, caller, after=after, limit=limit, metadata=wanted, without_metadata=without)
    return listing(wire.AzureJobList, [wire.job(job, platform.settings) for job in page.items], page.has_more)


@router.get("/{job_id}", summary="Look up a fine-tuning job")
def retrieve_job(job_id: JobId, platform: PlatformDep, caller: CallerDep) -> wire.AzureJob:
    """The job as it stands."""
    return wire.job(fine_tuning.retrieve(platform, caller, job_id), platform.settings)


@router.post("/{job_id}/cancel", summary="Cancel a fine-tuning job")
def cancel_job(job_id: JobId, platform: PlatformDep, caller: CallerDep) -> wire.AzureJob:
    """End the job for good. The checkpoints that it has told of stay usable."""
    return wire.job(fine_tuning.cancel(platform, caller, job_id), platform.settings)


@router.post("/{job_id}/pause", summary="Pause a fine-tuning job")
def pause_job(job_id: JobId, platform: PlatformDep, caller: CallerDep) -> wire.AzureJob:
    """Stop the job so that it can go on from where it was. Its newest checkpoint can be used meanwhile."""
    return wire.job(fine_tuning.pause(platform, caller, job_id), platform.settings)


@router.post("/{job_id}/resume", summary="Resume a fine-tuning job")
def resume_job(job_id: JobId, platform: PlatformDep, caller: CallerDep) -> wire.AzureJob:
    """Let a paused job go on."""
    return wire.job(fine_tuning.resume(platform, caller, job_id), platform.settings)


# Azure's own examples fetch these two with POST, where its SDK uses GET.
@router.post("/{job_id}/events", summary="List a job's events (by POST)", include_in_schema=False)
@router.get("/{job_id}/events", summary="List a job's events")
def list_events(
    job_id: JobId, platform: PlatformDep, caller: CallerDep, after: After = None, limit: Limit = 20
) -> wire.AzureEventList:
    """Newest first; of the steps, every tenth."""
    page = fine_tuning.list_events(platform, caller, job_id, after=after, limit=limit, for_azure=True)
    return listing(wire.AzureEventList, [wire.event(event) for event in page.items], page.has_more)


@router.post("/{job_id}/checkpoints", summary="List a job's checkpoints (by POST)", include_in_schema=False)
@router.get("/{job_id}/checkpoints", summary="List a job's checkpoints")
def list_checkpoints(
    job_id: JobId, platform: PlatformDep, caller: CallerDep, after: After = None, limit: Limit = 10
) -> wire.AzureCheckpointList:
    """Newest first: the final model, then the checkpoints before it."""
    cursor = None if after is None else wire.our_id(after)
    page = fine_tuning.list_checkpoints(platform, caller, job_id, after=cursor, limit=limit, with_final=True)
    return listing(wire.AzureCheckpointList, [wire.checkpoint(model) for model in page.items], page.has_more)


@router.post("/{job_id}/checkpoints/{checkpoint_id}/copy", summary="Refused: copy a checkpoint", status_code=400)
@router.get("/{job_id}/checkpoints/{checkpoint_id}/copy", summary="Refused: how a copy stands", status_code=400)
def copy_checkpoint(job_id: JobId, checkpoint_id: CheckpointId, caller: CallerDep) -> None:
    """There is one account here, so there is nowhere to copy to."""
    raise RequestError(
        "unsupported_operation",
        f"Checkpoint {checkpoint_id!r} cannot be copied to another account: this server is one; deploy it here",
    )
