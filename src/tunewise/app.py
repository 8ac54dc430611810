"""The application: the one place where routes, limits, errors and numbers are put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi

from tunewise import __version__
from tunewise.api import azure, health, openai
from tunewise.api.errors import ErrorEnvelope, add_error_answers
from tunewise.api.limits import MEGABYTE, READ_SECONDS, RequestLimits
from tunewise.api.observe import Observed, log, make_numbers
from tunewise.api.origins import OwnPages
from tunewise.api.queries import only_declared
from tunewise.api.relay import Relay
from tunewise.errors import TunewiseError
from tunewise.jobs.hosting import Hosting
from tunewise.jobs.platform import Platform
from tunewise.jobs.provisioning import Provisioner
from tunewise.jobs.sweep import Sweeper
from tunewise.jobs.usage import UsageLog
from tunewise.web.mount import Studio, StudioRoute

SWEEP_SECONDS = 60.0
ABOUT = "Fine-tune open language models behind the API that OpenAI's and Azure OpenAI's clients speak."
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is wrong; `param` names the field."},
    401: {"description": "No key, or not one of this server's."},
    403: {"description": "The key does not allow this."},
    404: {"description": "There is no such thing in the caller's project."},
    408: {"description": "The body did not arrive in time."},
    413: {"description": "The body is too large."},
    415: {"description": "The body is compressed."},
    500: {"description": "The server failed; its log says why."},
    503: {"description": "The database or a model cannot be reached now."},
    507: {"description": "The disk is full."},
}


def create_app(
    platform: Platform, *, keys_required: bool = False, read_seconds: float = READ_SECONDS, has_studio: bool = False
) -> FastAPI:
    """The server's application.

    `keys_required`: refuse callers without a key even while there is none. `read_seconds`: the longest silence in the
    middle of a request's body. `has_studio`: with the pages; once per process.
    """
    app = FastAPI(
        title="Tunewise",
        version=__version__,
        description=ABOUT,
        docs_url=None,  # its page would load from another host
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_running,
        responses={status: {**answer, "model": ErrorEnvelope} for status, answer in ERRORS.items()},
    )
    app.state.platform = platform
    app.state.relay = Relay(platform, Hosting(platform), UsageLog(platform))
    app.state.provisioner = Provisioner(app.state.relay.hosting)
    app.state.keys_required = keys_required
    app.state.numbers = make_numbers(platform)
    add_error_answers(app)
    app.include_router(health.router)
    app.include_router(openai.router, prefix="/v1", dependencies=[Depends(only_declared)])
    app.include_router(azure.router, dependencies=[Depends(only_declared)])
    app.state.studio = StudioRoute(_studio(app)) if has_studio else None
    if has_studio:
        app.router.routes.append(app.state.studio)
    upload_bytes = platform.settings.max_upload_mb * MEGABYTE
    app.add_middleware(OwnPages, allowed=platform.settings.allowed_origins)
    app.add_middleware(RequestLimits, upload_bytes=upload_bytes, read_seconds=read_seconds)
    app.add_middleware(Observed, numbers=app.state.numbers)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _studio(app: FastAPI) -> Studio:
    relay = app.state.relay
    return Studio(relay.platform, relay.hosting, relay.usage, app.state.keys_required)


@asynccontextmanager
async def _running(app: FastAPI) -> AsyncIterator[None]:
    """What runs beside the routes: sweeping, usage, hosted models, the studio. Ended in the other order."""
    relay, provisioner = app.state.relay, app.state.provisioner
    studio = nullcontext() if app.state.studio is None else app.state.studio.running()
    async with _sweeping(app.state.platform), relay.usage.running(), relay.hosting.running(), studio:
        yield
        await provisioner.close()


@asynccontextmanager
async def _sweeping(platform: Platform) -> AsyncIterator[None]:
    """Sweep at the start and every minute, as long as the server runs."""
    sweeper = Sweeper(platform)

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
