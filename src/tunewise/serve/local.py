"""The engine without HTTP, for checks that compare tokens: submit many generations, wait for all.

Knows the engine; knows nothing of the wire. The server itself does not use it.
"""

import queue
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from tunewise.data.template import Template
from tunewise.serve.engine import Engine
from tunewise.serve.generation import Event, Failed, Finished, Generation, Piece, TokenLogprob, Usage
from tunewise.serve.network import Network
from tunewise.serve.scheduler import Limits
from tunewise.serve.threads import aside

LIMITS = Limits(
    running=32,
    waiting=100_000,
    prompt_tokens=256,
    kv_bytes=4 << 30,
    prefix_bytes=1 << 30,
    adapter_bytes=1 << 30,
)


class Result(NamedTuple):
    """A finished generation: per choice its text, log-probabilities (where asked for) and finish reason."""

    texts: list[str]
    logprobs: list[list[TokenLogprob]]
    finish_reasons: list[str | None]
    usage: Usage


class LocalEngine:
    """A running engine, to be used in a `with` statement."""

    def __init__(self, directory: Path, dtype: torch.dtype, limits: Limits = LIMITS) -> None:
        self.template = Template.load(directory)
        self._events: queue.SimpleQueue[list[tuple[int, Event]]] = queue.SimpleQueue()
        network = aside(lambda: Network(directory, dtype))
        self.engine = Engine(network, self.template.decode, self.template.stop_ids, limits, self._events.put)

    def __enter__(self) -> "LocalEngine":
        self.engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.stop()

    def next_events(self) -> list[tuple[int, Event]]:
        """Wait for a step's events; for requests that were submitted to `engine` itself."""
        return self._events.get()

    def generate(self, generations: Sequence[Generation]) -> list[Result]:
        """Compute all of them, together; results in the order given.

        Raises:
            TunewiseError: the first failure.
        """
        numbers = [self.engine.submit(generation) for generation in generations]
        results = {
            number: Result([""] * one.n, [[] for _ in range(one.n)], [None] * one.n, Usage(0, 0, 0))
            for number, one in zip(numbers, generations, strict=True)
        }
        unfinished = set(numbers)
        while unfinished:
            for number, event in self.next_events():
                self._note(results, number, event)
                if not isinstance(event, Piece):
                    unfinished.remove(number)
        return [results[number] for number in numbers]

    @staticmethod
    def _note(results: dict[int, Result], number: int, event: Event) -> None:
        result = results[number]
        match event:
            case Piece(choice, text, logprobs, finish_reason):
                result.texts[choice] += text
                result.logprobs[choice].extend(logprobs)
                result.finish_reasons[choice] = finish_reason
            case Finished(usage):
                results[number] = result._replace(usage=usage)
            case Failed(error):
                raise error
