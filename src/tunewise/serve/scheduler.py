"""Who is computed in the next step: every running choice by one token, and prompts by a budget of tokens.

Knows waiting, starting and running requests; knows nothing of the network or of time. A prompt whose next block another
prompt is just computing waits for it, so that a prefix shared by requests that arrive together is computed once.

Models share the places fairly: of those with requests waiting, the one with the fewest answers under way is next, and
among equals the one that has waited longest for its turn. So a model's one request is let in at the next place that
gets free, however many of another's stand before it; within a model, requests start in the order of their arrival.
"""

from collections import Counter, deque
from collections.abc import Iterator
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
    waiting: dict[int, deque[Ticket]] = field(default_factory=dict)
    """By adapter, the one whose turn is longest ago first; none of the queues is empty."""
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
        return [*(ticket for queue in self.waiting.values() for ticket in queue), *self._admitted.values()]

    def add(self, ticket: Ticket) -> None:
        """Let a request wait for its turn."""
        self.waiting.setdefault(ticket.adapter, deque()).append(ticket)

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
        waiting = next((one for queue in self.waiting.values() for one in queue if one.number == number), None)
        if waiting is not None:
            self._remove(waiting)
            return waiting
        ticket = self._admitted.pop(number, None)
        for prompt in [prompt for prompt in self.prompts if prompt.ticket.number == number]:
            self._computing.difference_update(prompt.ticket.hashes[prompt.stored :])
            self.prompts.remove(prompt)
        for choice in [choice for choice in self.choices.values() if choice.ticket.number == number]:
            self.stop(choice)
        return ticket

    def _next_waiting(self) -> Ticket | None:
        """Whose turn it is; None where that one does not fit yet, so that no large request is passed over for ever."""
        ticket = next(filter(self._may_start, self._in_turn()), None)
        return ticket if ticket is not None and self._fits(ticket) else None

    def _in_turn(self) -> Iterator[Ticket]:
        if len(self.waiting) < 2:
            return iter([ticket for queue in self.waiting.values() for ticket in queue])
        under_way: Counter[int] = Counter()
        for ticket in self._admitted.values():
            under_way[ticket.adapter] += ticket.unfinished
        turns = sorted(self.waiting, key=lambda adapter: under_way[adapter])
        return (ticket for adapter in turns for ticket in self.waiting[adapter])

    def _may_start(self, ticket: Ticket) -> bool:
        matched = self.cache.matched(ticket.hashes)
        return matched == len(ticket.hashes) or ticket.hashes[matched] not in self._computing

    def _remove(self, ticket: Ticket) -> None:
        """Take a waiting request out of its queue."""
        queue = self.waiting[ticket.adapter]
        queue.remove(ticket)
        if not queue:
            del self.waiting[ticket.adapter]

    def _fits(self, ticket: Ticket) -> bool:
        admitted = list(self._admitted.values())
        if not admitted:
            return True
        slots = sum(other.unfinished for other in admitted) + ticket.generation.n
        tokens = sum(other.reserved_tokens() for other in admitted) + ticket.reserved_tokens()
        return slots <= self.limits.running and tokens * self.shape.bytes_per_token() <= self.limits.kv_bytes

    def _start(self, ticket: Ticket) -> Prompt:
        self._remove(ticket)
        if ticket.adapter in self.waiting:  # to the end of the line
            self.waiting[ticket.adapter] = self.waiting.pop(ticket.adapter)
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
