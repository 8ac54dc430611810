"""Whether the server lives, whether it can work, and its numbers."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from tunewise.api.dependencies import CallerDep, PlatformDep
from tunewise.api.route import Route
from tunewise.jobs.access import keys_exist, require_admin

router = APIRouter(tags=["health"], route_class=Route)


class Health(BaseModel):
    """The answer of a server that is well."""

    status: str = "ok"


@router.get("/healthz", summary="Whether the server lives")
async def healthz() -> Health:
    """Answers as long as the process does; needs no key."""
    return Health()


@router.get("/readyz", summary="Whether the server can work")
def readyz(platform: PlatformDep) -> Health:
    """Answers 200 when the database can be reached, else 503; needs no key."""
    keys_exist(platform)
    return Health()


@router.get(
    "/metrics",
    summary="Numbers for Prometheus",
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}},
)
def metrics(request: Request, caller: CallerDep) -> Response:
    """Requests by route and status, their latency, and jobs by status over all projects; needs an admin's key."""
    require_admin(caller, "Reading the server's numbers")
    return Response(generate_latest(request.app.state.numbers.registry), media_type=CONTENT_TYPE_LATEST)
