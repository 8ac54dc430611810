"""The application: the one place where routes, limits, errors and numbers are put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from tunewise import __version__
from tunewise.api import health, openai
from tunewise.api.errors import ErrorEnvelope, add_error_answers
from tunewise.api.limits import MEGABYTE, READ_SECONDS, RequestLimits
from tunewise.api.observe import Observed, log, make_numbers
from tunewise.errors import TunewiseError
from tunewise.jobs.platform import Platform
from tunewise.jobs.sweep import Sweeper

SWEEP_SECONDS = 60.0
ABOUT = "Fine-tune open language models behind the API that OpenAI's clients speak."
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is wrong; `param` names the field."},
    401: {"description": "No key, or not one of this server's."},
    403: {"description": "The key does not allow this."},
    404: {"description": "There is no such thing in the caller's project."},
    408: {"description": "The body did not arrive in time."},
    413: {"description": "The body is too large."},
    415: {"description": "The body is compressed."},
    500: {"description": "The server failed; its log says why."},
    503: {"description": "The database cannot be reached."},
    507: {"description": "The disk is full."},
}


def create_app(platform: Platform, *, keys_required: bool = False, read_seconds: float = READ_SECONDS) -> FastAPI:
    """The server's application.

    `keys_required`: refuse callers without a key even while there is none. `read_seconds`: the longest silence in the
    middle of a request's body.
    """
    numbers = make_numbers(platform)
    app = FastAPI(
        title="Tunewise",
        version=__version__,
        description=ABOUT,
        docs_url=None,  # its page would load from another host
        redoc_url=None,
        redirect_slashes=False,
        responses={status: {**answer, "model": ErrorEnvelope} for status, answer in ERRORS.items()},
    )
    app.state.platform = platform
    app.state.keys_required = keys_required
    app.state.numbers = numbers
    add_error_answers(app)
    app.include_router(health.router)
    app.include_router(openai.router, prefix="/v1")
    app.router.lifespan_context = _sweeping
    upload_bytes = platform.settings.max_upload_mb * MEGABYTE
    app.add_middleware(RequestLimits, upload_bytes=upload_bytes, read_seconds=read_seconds)
    app.add_middleware(Observed, numbers=numbers)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _sweeping(app: FastAPI) -> AsyncIterator[None]:
    """Sweep at the start and every minute, as long as the server runs."""
    sweeper = Sweeper(app.state.platform)

    async def sweep_again_and_again() -> None:
        while True:
            try:
                await asyncio.to_thread(sweeper.sweep)
            except (TunewiseError, OSError) as error:  # a locked database or a full disk may be well in a minute
                log(level="error", sweep=str(error))
            await asyncio.sleep(SWEEP_SECONDS)

    sweeping = asyncio.create_task(sweep_again_and_again())
    yield
    sweeping.cancel()
    with suppress(asyncio.CancelledError):
        await sweeping


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document without the 422 that it adds to each operation: wrong fields are answered with 400 here."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema
