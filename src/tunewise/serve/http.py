"""The HTTP side: routes of OpenAI's chat, completions and models, and vLLM's adapter endpoints.

Knows requests, replies and status codes; reaches the engine only through the mailbox.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from tunewise.errors import TunewiseError
from tunewise.serve import replies, wire
from tunewise.serve.house import House, Work

STATUS = {
    "model_not_found": 404,
    "adapter_not_found": 404,
    "queue_full": 429,
    "shutting_down": 503,
    "engine_failed": 503,
    "embedding_failed": 500,
}
RETRY_AFTER_SECONDS = "1"
CLIENT_CLOSED = 499  # nginx's code; nobody is there to read it


def create_app(house: House) -> FastAPI:
    """The application for one hosted model."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        house.mailbox.open()
        house.engine.start()
        yield
        house.mailbox.close()
        await asyncio.to_thread(house.engine.stop)

    app = FastAPI(title="Tunewise hosting", lifespan=lifespan)
    add_error_answers(app)
    _add_generation(app, house)
    _add_models(app, house)
    return app


def add_error_answers(app: FastAPI) -> None:
    """Answer every failure in OpenAI's envelope."""
    app.add_exception_handler(TunewiseError, _known_error)
    app.add_exception_handler(HTTPException, _http_error)


def _add_generation(app: FastAPI, house: House) -> None:
    @app.post("/v1/chat/completions", summary="Create a chat completion")
    async def create_chat_completion(request: Request) -> Response:
        return await _answer(request, await house.chat(wire.read_chat(await request.body())), house)

    @app.post("/v1/completions", summary="Create a completion")
    async def create_completion(request: Request) -> Response:
        return await _answer(request, house.completion(wire.read_completion(await request.body())), house)


def _add_models(app: FastAPI, house: House) -> None:
    @app.get("/v1/models", summary="List the base model and the loaded adapters")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": house.models()}

    @app.get("/v1/models/{name:path}", summary="Look up one model")
    async def retrieve_model(name: str) -> dict[str, Any]:
        return house.model(name)

    @app.post("/v1/load_lora_adapter", summary="Load an adapter from a PEFT directory")
    async def load_lora_adapter(request: Request) -> Response:
        wanted = wire.read_load(await request.body())
        await asyncio.to_thread(house.load_adapter, wanted.lora_name, wanted.lora_path)
        return PlainTextResponse(f"Success: LoRA adapter '{wanted.lora_name}' added successfully.")

    @app.post("/v1/unload_lora_adapter", summary="Unload an adapter")
    async def unload_lora_adapter(request: Request) -> Response:
        wanted = wire.read_unload(await request.body())
        await asyncio.to_thread(house.engine.unload_adapter, wanted.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{wanted.lora_name}' removed successfully.")

    @app.get("/healthz", summary="Whether the engine can answer")
    async def healthz() -> dict[str, str]:
        if house.engine.failure:
            raise house.engine.failure
        return {"status": "ok"}


async def _answer(request: Request, work: Work, house: House) -> Response:
    if not work.generations[0].stream:
        return await _whole(request, work, house)
    # The first event is awaited before the status line, so that a refusal is a status code and not a broken stream.
    chunks = house.stream(work)
    first = await anext(chunks)
    return StreamingResponse(
        _events(first, chunks), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )


async def _events(first: bytes, chunks: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    """The stream's body; a failure after its beginning can only be told in the stream itself."""
    async with aclosing(chunks):
        yield first
        try:
            async for chunk in chunks:
                yield chunk
        except TunewiseError as error:
            yield replies.server_sent(replies.error(error.message, "server_error", error.param, error.code))


async def _whole(request: Request, work: Work, house: House) -> Response:
    gathering = asyncio.create_task(house.gather(work))
    leaving = asyncio.create_task(_client_gone(request))
    await asyncio.wait({gathering, leaving}, return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if gathering.done():
        return JSONResponse(gathering.result())
    gathering.cancel()
    with suppress(asyncio.CancelledError):
        await gathering
    return Response(status_code=CLIENT_CLOSED)


async def _client_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _known_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, TunewiseError):
        raise error
    status = STATUS.get(error.code, 400)
    kind = {404: "invalid_request_error", 400: "invalid_request_error", 429: "rate_limit_error"}.get(
        status, "server_error"
    )
    headers = {"Retry-After": RETRY_AFTER_SECONDS} if status in {429, 503} else None
    return JSONResponse(replies.error(error.message, kind, error.param, error.code), status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(replies.error(message, "invalid_request_error", None, None), error.status_code, error.headers)
