"""/v1/fine_tuning/jobs: create, look up, list, cancel, pause, resume; a job's events and checkpoints."""

import re
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Path, Query, Request

from tunewise.api.dependencies import CallerDep, PlatformDep
from tunewise.api.openai import wire
from tunewise.api.openai.requests import CreateFineTuningJob
from tunewise.api.route import Route
from tunewise.api.texts import ID_CHARS
from tunewise.errors import RequestError
from tunewise.jobs import evaluations, fine_tuning

router = APIRouter(prefix="/fine_tuning/jobs", tags=["fine-tuning"], route_class=Route)

JobId: TypeAlias = Annotated[str, Path(max_length=ID_CHARS, description="The job's id.", examples=["ftjob-abc123"])]
After: TypeAlias = Annotated[
    str | None, Query(max_length=ID_CHARS, description="The id of the last item of the page before.")
]
Limit: TypeAlias = Annotated[int, Query(ge=1, le=100, description="The most items that the page may have.")]
METADATA = re.compile(r"metadata\[(.*)\]", re.DOTALL)
FILTER: dict[str, Any] = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "style": "deepObject",
            "explode": True,
            "description": "`metadata[KEY]=VALUE` finds the jobs that have it, `metadata=null` those that have none.",
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        }
    ]
}


@router.post("", summary="Create a fine-tuning job")
def create_job(request: CreateFineTuningJob, platform: PlatformDep, caller: CallerDep) -> wire.FineTuningJob:
    """Keep a new job; a worker validates its files and trains. Once this is answered, the job is never lost."""
    job = evaluations.submit_run(platform, caller, request.submission(), request.evaluation)
    return wire.fine_tuning_job(job, platform.settings)


@router.get("", summary="List fine-tuning jobs", openapi_extra=FILTER)
def list_jobs(
    request: Request, platform: PlatformDep, caller: CallerDep, after: After = None, limit: Limit = 20
) -> wire.FineTuningJobList:
    """Newest first."""
    wanted, without = metadata_filter(request)
    page = fine_tuning.list_jobs(platform, caller, after=after, limit=limit, metadata=wanted, without_metadata=without)
    return wire.listing(
        wire.FineTuningJobList, [wire.fine_tuning_job(job, platform.settings) for job in page.items], page.has_more
    )


@router.get("/{job_id}", summary="Look up a fine-tuning job")
def retrieve_job(job_id: JobId, platform: PlatformDep, caller: CallerDep) -> wire.FineTuningJob:
    """The job as it stands."""
    return wire.fine_tuning_job(fine_tuning.retrieve(platform, caller, job_id), platform.settings)


@router.post("/{job_id}/cancel", summary="Cancel a fine-tuning job")
def cancel_job(job_id: JobId, platform: PlatformDep, caller: CallerDep) -> wire.FineTuningJob:
    """End the job for good. The checkpoints that it has told of stay usable."""
    return wire.fine_tuning_job(fine_tuning.cancel(platform, caller, job_id), platform.settings)


@router.post("/{job_id}/pause", summary="Pause a fine-tuning job")
def pause_job(job_id: JobId, platform: PlatformDep, caller: CallerDep) -> wire.FineTuningJob:
    """Stop the job so that it can go on from where it was. Its newest checkpoint can be used meanwhile."""
    return wire.fine_tuning_job(fine_tuning.pause(platform, caller, job_id), platform.settings)


@router.post("/{job_id}/resume", summary="Resume a fine-tuning job")
def resume_job(job_id: JobId, platform: PlatformDep, caller: CallerDep) -> wire.FineTuningJob:
    """Let a paused job go on."""
    return wire.fine_tuning_job(fine_tuning.resume(platform, caller, job_id), platform.settings)


@router.get("/{job_id}/events", summary="List a job's events")
def list_events(
    job_id: JobId, platform: PlatformDep, caller: CallerDep, after: After = None, limit: Limit = 20
) -> wire.FineTuningEventList:
    """Newest first."""
    page = fine_tuning.list_events(platform, caller, job_id, after=after, limit=limit)
    return wire.listing(wire.FineTuningEventList, [wire.event(event) for event in page.items], page.has_more)


@router.get("/{job_id}/checkpoints", summary="List a job's checkpoints")
def list_checkpoints(
    job_id: JobId, platform: PlatformDep, caller: CallerDep, after: After = None, limit: Limit = 10
) -> wire.FineTuningCheckpointList:
    """Newest first. Each is usable as a model."""
    page = fine_tuning.list_checkpoints(platform, caller, job_id, after=after, limit=limit)
    return wire.listing(wire.FineTuningCheckpointList, [wire.checkpoint(model) for model in page.items], page.has_more)


def metadata_filter(request: Request) -> tuple[dict[str, str] | None, bool]:
    """What jobs must have, and whether they must have nothing.

    Raises:
        RequestError: invalid_value, for a filter that is neither form, or both.
    """
    pairs: dict[str, str] = {}
    without = False
    for name, value in request.query_params.multi_items():
        if match := METADATA.fullmatch(name):
            pairs[match[1]] = value
        elif name == "metadata" and value == "null":
            without = True
        elif name.startswith("metadata"):
            raise _wrong_filter(name)
    if pairs and without:
        raise _wrong_filter("metadata")
    return pairs or None, without


def _wrong_filter(name: str) -> RequestError:
    return RequestError(
        "invalid_value",
        f"{name[:80]}: write metadata[KEY]=VALUE, as often as needed, or metadata=null",
        param="metadata",
    )
