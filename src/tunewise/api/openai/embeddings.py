"""/v1/embeddings: answered by the server that hosts the model."""

from fastapi import APIRouter, Request, Response

from tunewise.api.dependencies import AskerDep, RelayDep
from tunewise.api.openai.completion_schemas import EMBEDDING_ANSWERS, EMBEDDING_REQUEST, body
from tunewise.api.relay import relay
from tunewise.api.route import Route

router = APIRouter(tags=["embeddings"], route_class=Route)


@router.post(
    "/embeddings",
    summary="Create embeddings",
    response_class=Response,
    responses=EMBEDDING_ANSWERS,
    openapi_extra=body(EMBEDDING_REQUEST),
)
async def create_embeddings(request: Request, relaying: RelayDep, asker: AskerDep) -> Response:
    """A text that is longer than the model can read is refused, not cut."""
    return await relay(request, relaying, asker, "embeddings")
