"""Azure OpenAI's dialect: a second serialiser over the same use cases, and its deployments.

`DATED` stand under /openai, where every request names an api-version; `DATELESS` under /openai/v1, where none has to
and the model is named in the body; `MANAGEMENT` at the root, as Azure's resource manager is.
"""

from typing import Annotated, TypeAlias

from fastapi import Query

from tunewise.api.azure import chat, files, fine_tuning, management
from tunewise.api.openai import chat as openai_chat
from tunewise.api.openai import embeddings as openai_embeddings
from tunewise.api.openai import files as openai_files
from tunewise.api.openai import models as openai_models
from tunewise.api.openai import responses as openai_responses
from tunewise.api.openai import uploads as openai_uploads
from tunewise.errors import RequestError

SHARED = (
    files.router,
    openai_files.router,
    openai_uploads.router,
    fine_tuning.router,
    openai_models.router,
    openai_responses.router,
)
DATED = (*SHARED, chat.router)
DATELESS = (*SHARED, openai_chat.router, openai_embeddings.router)
MANAGEMENT = management.router


ApiVersion: TypeAlias = Annotated[
    str | None,
    Query(alias="api-version", max_length=64, description="Any: the API is the same.", examples=["2024-10-21"]),
]


async def require_api_version(api_version: ApiVersion = None) -> None:
    """Azure's clients always send one.

    Raises:
        RequestError: missing_api_version.
    """
    if not api_version:
        raise RequestError(
            "missing_api_version",
            "api-version: a request to /openai needs one, such as ?api-version=2024-10-21; /openai/v1 needs none",
            param="api-version",
        )


async def take_api_version(api_version: ApiVersion = None) -> None:
    """Azure's newer clients may send one, such as `preview`."""
