"""How a route runs: who asks, the route's function and the answer's JSON, in one thread, one after the other.

FastAPI would change threads for each of the three, and each way to a thread and back takes as long as a query. The key
comes first all the same: where a request is refused before its thread, who asks is looked at before that is told.
`benchmarks/api.py` measures.
"""

from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel

from tunewise.api.dependencies import AskerDep, CallerDep, Credentials, caller_of, credentials_of
from tunewise.errors import RequestError


class Route(APIRoute):
    """A route of ours; each router is made with this class. `asks`: whether it takes the caller."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **given: Any) -> None:  # noqa: ANN401 - FastAPI's own
        takes = [parameter.annotation for parameter in signature(endpoint).parameters.values()]
        self.asks = CallerDep in takes or AskerDep in takes
        if not iscoroutinefunction(endpoint):
            endpoint = _written(endpoint, given.get("status_code"))
        elif CallerDep in takes:
            endpoint = _awaited(endpoint)
        super().__init__(path, endpoint, **given)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's, which tells nothing of a request's faults to those who may not ask."""
        handle = super().get_route_handler()

        async def handle_known(request: Request) -> Response:
            try:
                return await handle(request)
            except (RequestValidationError, RequestError):
                await run_in_threadpool(caller_of, await credentials_of(request))
                raise

        return handle_known if self.asks else handle


def _written(endpoint: Callable[..., Any], status: int | None) -> Callable[..., Any]:
    @wraps(endpoint)
    def run(**values: object) -> object:
        given = endpoint(**_with_caller(values))
        if not isinstance(given, BaseModel):
            return given
        return Response(given.model_dump_json(by_alias=True), status or 200, media_type="application/json")

    return run


def _awaited(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(endpoint)
    async def run(**values: object) -> object:
        return await endpoint(**await run_in_threadpool(_with_caller, values))

    return run


def _with_caller(values: dict[str, object]) -> dict[str, object]:
    return {name: caller_of(value) if isinstance(value, Credentials) else value for name, value in values.items()}
