"""Who is computed in the next step: every running choice by one token, and prompts by a budget of tokens.

Knows waiting, starting and running requests; knows nothing of the network or of time. A prompt whose next block another
prompt is just computing waits for it, so that a prefix shared by requests that arrive together is computed once.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from tunewise.serve.kv import KvShape, Place, Pools
from tunewise.serve.prefix import PrefixCache
from tunewise.serve.sequences import Choice, Prompt, Ticket


class Limits(NamedTuple):
    """What the engine may use. `prompt_tokens`: of prompts in one step, beside the running choices."""

    running: int
    waiting: int
    prompt_tokens: int
    kv_bytes: int
    prefix_bytes: int
    adapter_bytes: int


class Chunk(NamedTuple):
    """The next `tokens` of a prompt."""

    prompt: Prompt
    tokens: int


class Step(NamedTuple):
    """What to compute: `rows` in the pools' own order, capacity by capacity and slot by slot."""

    rows: list[Choice]
    chunks: list[Chunk]


@dataclass
class Scheduler:
    """All requests that are not finished."""

    limits: Limits
    shape: KvShape
    cache: PrefixCache
    pools: Pools
    waiting: deque[Ticket] = field(default_factory=deque)
    prompts: list[Prompt] = field(default_factory=list)
    choices: dict[int, Choice] = field(default_factory=dict)
    _computing: set[bytes] = field(default_factory=set)
    _admitted: dict[int, Ticket] = field(default_factory=dict)
    _next_key: int = 0

    def idle(self) -> bool:
        """Whether there is nothing to compute."""
        return not (self.waiting or self.prompts or self.choices)

    def tickets(self) -> list[Ticket]:
        """Every unfinished request."""
        return [*self.waiting, *self._admitted.values()]

    def plan(self) -> Step:
        """Choose the next step; starts waiting prompts as far as budget, slots and memory allow."""
        budget = self.limits.prompt_tokens
        chunks = []
        for prompt in self.prompts:
            tokens = min(budget, prompt.remaining())
            if tokens:
                chunks.append(Chunk(prompt, tokens))
            budget -= tokens
        while budget > 0 and (ticket := self._next_waiting()) is not None:
            prompt = self._start(ticket)
            chunks.append(Chunk(prompt, min(budget, prompt.remaining())))
            budget -= chunks[-1].tokens
        return Step(self._rows(), chunks)

    def computed(self, chunk: Chunk) -> bool:
        """Note that a chunk is done; says whether the prompt is complete, and forgets it then."""
        self._computing.difference_update(chunk.prompt.advance(chunk.tokens, self.cache))
        if chunk.prompt.remaining():
            return False
        self.prompts.remove(chunk.prompt)
        return True

    def run(self, choice: Choice, prompt: Prompt) -> None:
        """Put a choice whose first token is written among the running ones."""
        choice.place = self.pools.put(self._next_key, prompt.strip.kv, prompt.strip.length)
        self.choices[self._next_key] = choice
        self._next_key += 1

    def stop(self, choice: Choice) -> None:
        """Take a finished choice out; its request is forgotten with its last one."""
        if choice.place is not None:
            self.pools.drop(choice.place)
            del self.choices[choice.place.key]
            choice.place = None
        choice.ticket.unfinished -= 1
        if choice.ticket.unfinished == 0:
            self._admitted.pop(choice.ticket.number, None)

    def cancel(self, number: int) -> Ticket | None:
        """Forget a request wherever it is; None if it is finished already."""
        for waiting in self.waiting:
            if waiting.number == number:
                self.waiting.remove(waiting)
                return waiting
        ticket = self._admitted.pop(number, None)
        for prompt in [prompt for prompt in self.prompts if prompt.ticket.number == number]:
            self._computing.difference_update(prompt.ticket.hashes[prompt.stored :])
            self.prompts.remove(prompt)
        for choice in [choice for choice in self.choices.values() if choice.ticket.number == number]:
            self.stop(choice)
        return ticket

    def _next_waiting(self) -> Ticket | None:
        for ticket in self.waiting:
            matched = self.cache.matched(ticket.hashes)
            if matched < len(ticket.hashes) and ticket.hashes[matched] in self._computing:
                continue
            return ticket if self._fits(ticket) else None
        return None

    def _fits(self, ticket: Ticket) -> bool:
        admitted = list(self._admitted.values())
        if not admitted:
            return True
        slots = sum(other.unfinished for other in admitted) + ticket.generation.n
        tokens = sum(other.reserved_tokens() for other in admitted) + ticket.reserved_tokens()
        return slots <= self.limits.running and tokens * self.shape.bytes_per_token() <= self.limits.kv_bytes

    def _start(self, ticket: Ticket) -> Prompt:
        self.waiting.remove(ticket)
        self._admitted[ticket.number] = ticket
        prompt = Prompt.begin(ticket, self.shape, self.cache)
        self._computing.update(ticket.hashes[prompt.stored :])
        self.prompts.append(prompt)
        return prompt

    def _rows(self) -> list[Choice]:
        for choice in self.choices.values():
            self.pools.make_room(choice.where())
        return [self.choices[place.key] for places in self._groups() for place in places]

    def _groups(self) -> list[list[Place]]:
        return [places for places in self.pools.places.values() if places]
