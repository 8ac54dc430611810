"""Where the engine's thread and the event loop meet: events go into one asyncio queue per HTTP request."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import TypeAlias

from tunewise.serve.engine import Engine
from tunewise.serve.generation import Event, Generation, Piece

Arrivals: TypeAlias = asyncio.Queue[tuple[int, Event]]


class Mailbox:
    """Open requests by number. `deliver` is called on the engine's thread; everything else on the loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: dict[int, tuple[int, Arrivals]] = {}

    def open(self) -> None:
        """Bind to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Take no more deliveries."""
        self._loop = None

    def deliver(self, events: list[tuple[int, Event]]) -> None:
        """Hand a step's events to the loop, all at once."""
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._sort, events)

    async def generate(self, engine: Engine, generations: Sequence[Generation]) -> AsyncGenerator[tuple[int, Event]]:
        """Submit generations and yield (which one, event); when the caller goes away first, they are cancelled.

        Raises:
            ServingError: the engine takes no more requests.
        """
        arrivals: Arrivals = asyncio.Queue()
        waiting: set[int] = set()
        try:
            for place, generation in enumerate(generations):
                # No await stands between submission and registration, so no event can come before its queue.
                number = engine.submit(generation)
                self._open[number] = (place, arrivals)
                waiting.add(number)
            unfinished = len(waiting)
            while unfinished:
                place, event = await arrivals.get()
                unfinished -= not isinstance(event, Piece)
                yield place, event
            waiting.clear()
        finally:
            for number in waiting & self._open.keys():
                engine.cancel(number)
                del self._open[number]

    def _sort(self, events: list[tuple[int, Event]]) -> None:
        for number, event in events:
            if number in self._open:
                place, arrivals = self._open[number]
                arrivals.put_nowait((place, event))
                if not isinstance(event, Piece):
                    del self._open[number]
