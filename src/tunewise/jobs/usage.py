"""Usage: the tokens of answered requests, written to the database in batches, so that no answer waits for the disk.

Knows the database; knows nothing of requests. A process that is killed loses what it answered in the last moment.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from tunewise.errors import StoreError
from tunewise.jobs.platform import Platform
from tunewise.store import models

BATCH_SECONDS = 0.25
"""How long others are waited for: a transaction for each answer would take longer than passing the answer on."""

RETRY_SECONDS = 1.0
WAITING_MAX = 100_000
_log = logging.getLogger("tunewise.usage")


class Used(NamedTuple):
    """What one answer took. `cached`: tokens of the prompt that came from the prefix cache."""

    project: str
    model: str
    prompt: int
    cached: int
    completion: int


class UsageLog:
    """Keeps usage while `running()`: what is noted is in the database a moment later."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._waiting: list[Used] = []
        self._stirred = asyncio.Event()
        self._ending = asyncio.Event()

    def note(self, used: Used) -> None:
        """Keep it soon. While the database is away for long, the newest are dropped, and that is logged."""
        if len(self._waiting) >= WAITING_MAX:
            _log.warning("usage of %s dropped: %d records wait for the database", used.model, WAITING_MAX)
            return
        self._waiting.append(used)
        self._stirred.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write what is noted until the context ends, and then what is left."""
        writing = asyncio.create_task(self._write_on())
        try:
            yield
        finally:
            self._ending.set()
            self._stirred.set()
            await writing

    async def _write_on(self) -> None:
        while self._waiting or not self._ending.is_set():
            await self._stirred.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(BATCH_SECONDS):
                    await self._ending.wait()
            self._stirred.clear()
            batch, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._write, batch)
            except StoreError as error:
                _log.warning("%d records of usage not written: %s", len(batch), error.message)
                if self._ending.is_set():
                    return
                self._waiting[:0] = batch
                await asyncio.sleep(RETRY_SECONDS)
                self._stirred.set()

    def _write(self, batch: list[Used]) -> None:
        with self._platform.database.write() as session:
            for used in batch:
                models.record_usage(
                    session,
                    used.project,
                    used.model,
                    prompt=used.prompt,
                    cached=used.cached,
                    completion=used.completion,
                )
