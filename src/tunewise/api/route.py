"""How a route answers: what its function gives is written as JSON in the thread that the function ran in.

FastAPI would go back to the event loop, and from there to a thread again, to check against the annotation what mypy has
checked. The annotation stays what the OpenAPI document says. `benchmarks/api.py` measures.
"""

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from fastapi import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel


class Route(APIRoute):
    """A route of ours; each router is made with this class."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **given: Any) -> None:  # noqa: ANN401 - FastAPI's own
        status = given.get("status_code") or 200
        super().__init__(path, endpoint if iscoroutinefunction(endpoint) else _written(endpoint, status), **given)


def _written(endpoint: Callable[..., Any], status: int) -> Callable[..., Any]:
    @wraps(endpoint)
    def answer(**values: object) -> object:
        given = endpoint(**values)
        if not isinstance(given, BaseModel):
            return given
        return Response(given.model_dump_json(by_alias=True), status, media_type="application/json")

    return answer
