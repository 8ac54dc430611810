"""/v1/chat/completions and /v1/completions: answered by the server that hosts the model, streamed or not."""

from fastapi import APIRouter, Request, Response

from tunewise.api.dependencies import AskerDep, RelayDep
from tunewise.api.openai.completion_schemas import (
    CHAT_ANSWERS,
    CHAT_REQUEST,
    COMPLETION_ANSWERS,
    COMPLETION_REQUEST,
    body,
)
from tunewise.api.relay import relay
from tunewise.api.route import Route

router = APIRouter(tags=["completions"], route_class=Route)


@router.post(
    "/chat/completions",
    summary="Create a chat completion",
    response_class=Response,
    responses=CHAT_ANSWERS,
    openapi_extra=body(CHAT_REQUEST),
)
async def create_chat_completion(request: Request, relaying: RelayDep, asker: AskerDep) -> Response:
    """A field that the model cannot honour is refused by name, unless its value asks for nothing."""
    return await relay(request, relaying, asker, "chat/completions")


@router.post(
    "/completions",
    summary="Create a completion",
    response_class=Response,
    responses=COMPLETION_ANSWERS,
    openapi_extra=body(COMPLETION_REQUEST),
)
async def create_completion(request: Request, relaying: RelayDep, asker: AskerDep) -> Response:
    """The prompt is taken as it stands, without the model's chat template."""
    return await relay(request, relaying, asker, "completions")
