"""A fake OpenAI-compatible server: replies from a function, keeps a history of what it was asked. No model in it."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from tunewise.contracts.chat import Json

Reply = Callable[[dict[str, Json]], Response | dict[str, Json]]


def completion(text: str | None, *, cached: int | None = 3, finish_reason: str = "stop") -> dict[str, Json]:
    details = None if cached is None else {"cached_tokens": cached}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason},
        ],
        "usage": {
            "prompt_tokens": 11,
            "completion_tokens": 5,
            "total_tokens": 16,
            "prompt_tokens_details": details,
        },
    }


def error(status: int, message: str) -> Response:
    # `retry-after-ms` keeps the SDK's back-off out of the tests' time.
    return JSONResponse({"error": {"message": message}}, status, headers={"retry-after-ms": "1"})


def question(body: dict[str, Json]) -> str:
    """The text of the last message of a request."""
    return str(body["messages"][-1]["content"])


class FakeServer:
    """What the server was asked (`history`, `keys`), how many at once (`peak`), and what it replies."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._open = 0
        self.forget()

    def forget(self) -> None:
        """Begin anew on the same port."""
        self.reply: Reply = lambda body: completion(f"re: {question(body)}")
        self.delay: Callable[[dict[str, Json]], float] = lambda _: 0.0
        self.history: list[dict[str, Json]] = []
        self.keys: list[str | None] = []
        self.peak = 0
        self.dropped = 0

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.history.append(body)
        self.keys.append(request.headers.get("authorization"))
        self._open += 1
        self.peak = max(self.peak, self._open)
        try:
            await self._wait(request, self.delay(body))
        finally:
            self._open -= 1
        reply = self.reply(body)
        return reply if isinstance(reply, Response) else JSONResponse(reply)

    async def _wait(self, request: Request, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if await request.is_disconnected():
                self.dropped += 1
                return
            await asyncio.sleep(0.01)


@contextmanager
def serving() -> Iterator[FakeServer]:
    """Run the server on a free port, in a thread of its own."""
    listening = socket.create_server(("127.0.0.1", 0))
    fake = FakeServer(f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
    app = FastAPI()
    app.add_api_route("/v1/chat/completions", fake.answer, methods=["POST"])
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield fake
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
