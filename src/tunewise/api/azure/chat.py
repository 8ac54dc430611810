"""Azure's completions and embeddings: the deployment stands in the path. Anything that can be hosted counts as one.

A model's name may hold a slash; the route of chat comes first, so that no deployment seems to be called `NAME/chat`.
"""

from typing import Annotated, TypeAlias

from fastapi import APIRouter, Path, Request, Response

from tunewise.api.dependencies import AskerDep, RelayDep
from tunewise.api.openai.completion_schemas import (
    CHAT_ANSWERS,
    CHAT_REQUEST,
    COMPLETION_ANSWERS,
    COMPLETION_REQUEST,
    EMBEDDING_ANSWERS,
    EMBEDDING_REQUEST,
    body,
)
from tunewise.api.relay import relay
from tunewise.api.route import Route
from tunewise.api.texts import ID_CHARS
from tunewise.errors import RequestError
from tunewise.jobs.completions import Asker, Endpoint, Relay
from tunewise.jobs.deployments import NOT_THERE

router = APIRouter(prefix="/deployments/{deployment:path}", tags=["azure completions"], route_class=Route)
Deployed: TypeAlias = Annotated[
    str, Path(max_length=ID_CHARS, description="A deployment, or a model.", examples=["sarcastic-owl"])
]


@router.post(
    "/chat/completions",
    summary="Create a chat completion with a deployment",
    response_class=Response,
    responses=CHAT_ANSWERS,
    openapi_extra=body(CHAT_REQUEST),
)
async def create_chat_completion(
    deployment: Deployed, request: Request, relaying: RelayDep, asker: AskerDep
) -> Response:
    """As OpenAI's; `model` in the body is not looked at."""
    return await _relay(request, relaying, asker, "chat/completions", deployment)


@router.post(
    "/completions",
    summary="Create a completion with a deployment",
    response_class=Response,
    responses=COMPLETION_ANSWERS,
    openapi_extra=body(COMPLETION_REQUEST),
)
async def create_completion(deployment: Deployed, request: Request, relaying: RelayDep, asker: AskerDep) -> Response:
    """As OpenAI's; `model` in the body is not looked at."""
    return await _relay(request, relaying, asker, "completions", deployment)


@router.post(
    "/embeddings",
    summary="Create embeddings with a deployment",
    response_class=Response,
    responses=EMBEDDING_ANSWERS,
    openapi_extra=body(EMBEDDING_REQUEST),
)
async def create_embeddings(deployment: Deployed, request: Request, relaying: RelayDep, asker: AskerDep) -> Response:
    """As OpenAI's; `model` in the body is not looked at."""
    return await _relay(request, relaying, asker, "embeddings", deployment)


async def _relay(request: Request, relaying: Relay, asker: Asker, endpoint: Endpoint, deployment: str) -> Response:
    try:
        return await relay(request, relaying, asker, endpoint, deployment)
    except RequestError as error:
        if error.code != "model_not_found":
            raise
        raise RequestError("DeploymentNotFound", NOT_THERE) from error
