"""Embeddings over HTTP: OpenAI's /v1/embeddings for one model, asked by many at once.

Knows requests, what is refused of them, and who is embedded next; how vectors are computed is the embedder's.
"""

import asyncio
import base64
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from tunewise.errors import ConfigError, ServingError
from tunewise.serve import wire
from tunewise.serve.embedder import Embedder, Ids, Vectors, batches
from tunewise.serve.http import CLIENT_CLOSED, add_error_answers
from tunewise.serve.wire import EmbeddingRequest, Json

INPUTS_MAX = 2048  # OpenAI's
# So much is computed between two looks at who else waits: about a second on two cores.
STEP_TOKENS = 4096


class _Part(NamedTuple):
    """A part of a request, to be embedded in one step."""

    texts: Sequence[Ids]
    done: asyncio.Future[Vectors]


class Embeddings:
    """One hosted model and its queue. Used within `working()`."""

    def __init__(self, name: str, embedder: Embedder, waiting_max: int) -> None:
        self.name = name
        self._embedder = embedder
        self._waiting_max = waiting_max
        self._waiting: deque[_Part] = deque()
        self._arrived = asyncio.Event()
        self._created = int(time.time())

    def model(self) -> Json:
        """The one entry of the list of models."""
        entry = {"id": self.name, "object": "model", "created": self._created, "owned_by": "tunewise"}
        return entry | {"parent": None, "max_model_len": self._embedder.max_tokens}

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Embed what waits, until the context ends."""
        work = asyncio.create_task(self._work())
        yield
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    def texts(self, request: EmbeddingRequest) -> list[list[int]]:
        """The token ids of each input. Texts get the model's special tokens; ids are taken as they stand.

        Raises:
            ConfigError: the request cannot be honoured, naming the field.
            ServingError: `model_not_found`.
        """
        if request.model != self.name:
            message = f"The model {request.model!r} does not exist; the model here is: {self.name}"
            raise ServingError("model_not_found", message, param="model")
        if request.dimensions not in {None, self._embedder.dimensions}:
            raise ConfigError(
                "invalid_value",
                f"dimensions: {self.name} makes {self._embedder.dimensions} numbers, and was not trained so that fewer "
                f"of them would do (got {request.dimensions}); leave 'dimensions' out",
                param="dimensions",
            )
        texts = self._encoded(request.input)
        longest = self._embedder.max_tokens
        for index, ids in enumerate(texts):
            if len(ids) > longest:
                raise ConfigError(
                    "context_length_exceeded",
                    f"This model's maximum context length is {longest} tokens, however you requested {len(ids)} tokens "
                    f"in input[{index}]. Please reduce your prompt.",
                    param="input",
                )
        return texts

    async def answer(self, request: EmbeddingRequest, texts: Sequence[Ids]) -> Json:
        """OpenAI's list of embeddings.

        Raises:
            ServingError: queue_full, or embedding_failed.
        """
        vectors = np.empty((len(texts), self._embedder.dimensions), dtype=np.float32)
        for part in batches([len(ids) for ids in texts], STEP_TOKENS):
            vectors[part] = await self._queued([texts[index] for index in part])
        tokens = sum(map(len, texts))
        told = [_base64(vector) if request.encoding_format == "base64" else vector.tolist() for vector in vectors]
        return {
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": one} for i, one in enumerate(told)],
            "model": self.name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    def _encoded(self, given: Any) -> list[list[int]]:  # noqa: ANN401  # what the client sent
        several = given if isinstance(given, list) and given and not _is_ids(given) else [given]
        if len(several) > INPUTS_MAX:
            raise _wrong_input(f"at most {INPUTS_MAX} inputs go into one request", f"{len(several)} of them")
        if all(isinstance(one, str) and one for one in several):
            return self._embedder.encode(several)
        wrong = [one for one in several if not _is_ids(one)]
        if wrong:
            wanted = "must be a text, a list of texts, token ids, or a list of those, none empty"
            raise _wrong_input(wanted, repr(wrong[0]))
        vocabulary = self._embedder.vocabulary
        unknown = next((token for ids in several for token in ids if not 0 <= token < vocabulary), None)
        if unknown is not None:
            raise _wrong_input(f"this model's token ids, other than OpenAI's, go from 0 to {vocabulary - 1}", unknown)
        return several

    async def _queued(self, texts: Sequence[Ids]) -> Vectors:
        """One part's vectors. The parts of a large request stand in line one by one, so that others get between."""
        if len(self._waiting) >= self._waiting_max:
            raise ServingError("queue_full", f"{len(self._waiting)} requests wait already; try again in a moment")
        part = _Part(texts, asyncio.get_running_loop().create_future())
        self._waiting.append(part)
        self._arrived.set()
        return await part.done

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            step = self._next_step()
            if not step:
                self._arrived.clear()
                continue
            texts = [ids for part in step for ids in part.texts]
            try:
                vectors = await asyncio.to_thread(self._embedder.embed, texts)
            except (RuntimeError, MemoryError) as error:  # what torch raises
                _fail(step, error)
                continue
            start = 0
            for part in step:
                end = start + len(part.texts)
                if not part.done.done():
                    part.done.set_result(vectors[start:end])
                start = end

    def _next_step(self) -> list[_Part]:
        """Whoever waits, up to a step's tokens; those who have left meanwhile are passed over."""
        step: list[_Part] = []
        tokens = 0
        while self._waiting and tokens < STEP_TOKENS:
            part = self._waiting.popleft()
            if not part.done.done():
                step.append(part)
                tokens += sum(map(len, part.texts))
        return step


def create_embeddings_app(embeddings: Embeddings) -> FastAPI:
    """The application for one embedding model."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with embeddings.working():
            yield

    app = FastAPI(title="Tunewise embeddings", lifespan=lifespan)
    add_error_answers(app)

    @app.post("/v1/embeddings", summary="Create embeddings")
    async def create_embeddings(request: Request) -> Response:
        wanted = wire.read_embeddings(await request.body())
        texts = await asyncio.to_thread(embeddings.texts, wanted)
        return await _unless_gone(request, embeddings, wanted, texts)

    @app.get("/v1/models", summary="List the model")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [embeddings.model()]}

    @app.get("/healthz", summary="Whether embeddings can be made")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


async def _unless_gone(
    request: Request, embeddings: Embeddings, wanted: EmbeddingRequest, texts: Sequence[Ids]
) -> Response:
    """The answer; where the client goes away first, what waits is dropped."""
    working = asyncio.create_task(embeddings.answer(wanted, texts))
    leaving = asyncio.create_task(_client_gone(request))
    await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if working.done():
        return JSONResponse(working.result())
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    return Response(status_code=CLIENT_CLOSED)


async def _client_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _is_ids(given: object) -> bool:
    return isinstance(given, list) and bool(given) and all(type(token) is int for token in given)


def _base64(vector: Vectors) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _wrong_input(wanted: str, got: object) -> ConfigError:
    return ConfigError("invalid_value", f"input: {wanted} (got {str(got)[:80]})", param="input")


def _fail(step: Sequence[_Part], error: BaseException) -> None:
    for part in step:
        if not part.done.done():
            part.done.set_exception(ServingError("embedding_failed", f"the embeddings could not be computed: {error}"))
