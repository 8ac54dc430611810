"""The application: the one place where routes, limits, errors and numbers are put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress

from fastapi import Depends, FastAPI

from tunewise import __version__
from tunewise.api import azure, health, openai
from tunewise.api.document import ERROR_ANSWERS, document
from tunewise.api.errors import add_error_answers
from tunewise.api.limits import MEGABYTE, READ_SECONDS, RequestLimits
from tunewise.api.observe import Observed, log, make_numbers
from tunewise.api.origins import OwnPages
from tunewise.api.queries import only_declared
from tunewise.errors import TunewiseError
from tunewise.jobs.completions import Relay
from tunewise.jobs.hosting import Hosting
from tunewise.jobs.platform import Platform
from tunewise.jobs.provisioning import Provisioner
from tunewise.jobs.sweep import Sweeper
from tunewise.jobs.usage import UsageLog
from tunewise.web.mount import Studio, StudioRoute

SWEEP_SECONDS = 60.0
ABOUT = "Fine-tune open language models behind the API that OpenAI's and Azure OpenAI's clients speak."


def create_app(
    platform: Platform,
    *,
    keys_required: bool = False,
    read_seconds: float = READ_SECONDS,
    has_studio: bool = False,
    hosting: Hosting | None = None,
) -> FastAPI:
    """The server's application.

    `keys_required`: refuse callers without a key even while there is none. `read_seconds`: the longest silence in the
    middle of a request's body. `has_studio`: with the pages; once per process. `hosting`: another than the platform's.
    """
    app = FastAPI(
        title="Tunewise",
        version=__version__,
        description=ABOUT,
        docs_url=None,  # its page would load from another host
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_running,
        responses=ERROR_ANSWERS,
    )
    app.state.platform = platform
    app.state.relay = Relay(platform, hosting or Hosting(platform), UsageLog(platform))
    app.state.provisioner = Provisioner(app.state.relay.hosting)
    app.state.keys_required = keys_required
    app.state.numbers = make_numbers(platform)
    add_error_answers(app)
    _include_routes(app)
    app.state.studio = StudioRoute(_studio(app)) if has_studio else None
    if has_studio:
        app.router.routes.append(app.state.studio)
    upload_bytes = platform.settings.max_upload_mb * MEGABYTE
    app.add_middleware(OwnPages, allowed=platform.settings.allowed_origins)
    app.add_middleware(RequestLimits, upload_bytes=upload_bytes, read_seconds=read_seconds)
    app.add_middleware(Observed, numbers=app.state.numbers)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app


def _include_routes(app: FastAPI) -> None:
    """Each router directly: FastAPI builds the routes of a nested one again at every level, and searches them there."""
    declared = [Depends(only_declared)]
    app.include_router(health.router)
    for router in openai.ROUTERS:
        app.include_router(router, prefix="/v1", dependencies=declared)
    for router in azure.DATELESS:
        app.include_router(router, prefix="/openai/v1", dependencies=[*declared, Depends(azure.take_api_version)])
    for router in azure.DATED:
        app.include_router(router, prefix="/openai", dependencies=[*declared, Depends(azure.require_api_version)])
    app.include_router(azure.MANAGEMENT, dependencies=declared)


def _studio(app: FastAPI) -> Studio:
    return Studio(app.state.relay, app.state.provisioner, app.state.keys_required)


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
