"""The state of requests inside the engine: waiting, as a prompt under computation, and as running choices.

Knows one request at a time; who is computed when is the scheduler's matter.
"""

from collections.abc import Set
from dataclasses import dataclass, field

import numpy as np

from tunewise.serve.generation import FinishReason, Generation, Piece, Sampling, TokenLogprob, Usage
from tunewise.serve.grammars import Walk
from tunewise.serve.kv import KvShape, Place, Strip
from tunewise.serve.prefix import BLOCK, PrefixCache, block_hashes
from tunewise.serve.sampling import Draw, generator
from tunewise.serve.shaping import Offsets, Shape
from tunewise.serve.text import Decode, TextStream


@dataclass
class Ticket:
    """A request from its arrival to its last event. `adapter`: the network's key, not the name."""

    number: int
    generation: Generation
    adapter: int
    hashes: list[bytes]
    cached: int = 0
    completion_tokens: int = 0
    unfinished: int = 0

    @classmethod
    def issue(cls, number: int, generation: Generation, adapter: int) -> "Ticket":
        """Take a request in."""
        return cls(number, generation, adapter, block_hashes(generation.prompt, adapter), unfinished=generation.n)

    def reserved_tokens(self) -> int:
        """Tokens whose keys and values this request may come to hold."""
        prompt = len(self.generation.prompt)
        return prompt + self.generation.n * (prompt + self.generation.max_tokens)

    def usage(self) -> Usage:
        """As of now."""
        return Usage(len(self.generation.prompt), self.cached, self.completion_tokens)


@dataclass
class Prompt:
    """A prompt under computation: `strip.length` of its tokens are done."""

    ticket: Ticket
    strip: Strip
    stored: int

    @classmethod
    def begin(cls, ticket: Ticket, shape: KvShape, cache: PrefixCache) -> "Prompt":
        """Start from the longest beginning that the cache holds."""
        strip = Strip(shape, len(ticket.generation.prompt))
        matched = cache.matched(ticket.hashes)
        cache.load(ticket.hashes[:matched], strip.kv)
        strip.length = ticket.cached = matched * BLOCK
        return cls(ticket, strip, matched)

    def remaining(self) -> int:
        """Tokens still to compute."""
        return len(self.ticket.generation.prompt) - self.strip.length

    def advance(self, tokens: int, cache: PrefixCache) -> list[bytes]:
        """Note that so many more tokens are done, and keep the blocks that this completes; gives their hashes."""
        self.strip.length += tokens
        complete = min(self.strip.length // BLOCK, len(self.ticket.hashes))
        done = self.ticket.hashes[self.stored : complete]
        for index, key in enumerate(done, start=self.stored):
            cache.store(key, self.strip.kv[:, :, :, index * BLOCK : (index + 1) * BLOCK])
        self.stored = complete
        return done


@dataclass
class Choice:
    """One answer being written. `place` is None until its keys and values are in a pool."""

    ticket: Ticket
    index: int
    noise: np.random.Generator
    text: TextStream
    last_token: int = -1
    tokens: int = 0
    place: Place | None = None
    held_text: str = ""
    held_logprobs: list[TokenLogprob] = field(default_factory=list)
    offsets: Offsets | None = None
    walk: Walk | None = None

    @classmethod
    def open(cls, ticket: Ticket, index: int, decode: Decode) -> "Choice":
        """The `index`-th answer of a request, with nothing written yet."""
        generation = ticket.generation
        return cls(
            ticket,
            index,
            generator(generation.sampling.seed, index),
            TextStream(generation.decode or decode, generation.stop),
            offsets=_offsets(generation.sampling),
            walk=generation.grammar.begin() if generation.grammar else None,
        )

    def where(self) -> Place:
        """Its place; only for choices that are running."""
        assert self.place is not None
        return self.place

    def draw(self) -> Draw:
        """How the next token is to be chosen."""
        sampling = self.ticket.generation.sampling
        return Draw(sampling.temperature, sampling.top_p, self.noise)

    def shape(self) -> Shape:
        """What is done to the next token's logits."""
        return Shape(self.offsets, self.walk)

    def take(self, token: int, logprob: TokenLogprob | None, stop_ids: Set[int]) -> Piece | None:
        """Write one token; gives a piece when there is something to show. The last one has a finish reason."""
        generation = self.ticket.generation
        self.last_token = token
        self.tokens += 1
        self.ticket.completion_tokens += 1
        if self.offsets is not None:
            self.offsets.take(token)
        if self.walk is not None:
            self.walk.take(token)
        ended = token in stop_ids and not generation.ignore_eos
        if not ended:
            self.held_text += self.text.push(token)
            if logprob is not None:
                self.held_logprobs.append(logprob)
        reason: FinishReason | None = None
        if ended or self.text.stopped or (self.walk is not None and self.walk.is_over()):
            reason = "stop"
        elif self.tokens >= generation.max_tokens:
            reason = "length"
        if reason:
            self.held_text += self.text.finish()
        return self._piece(reason)

    def _piece(self, reason: FinishReason | None) -> Piece | None:
        shows = self.ticket.generation.stream and bool(self.held_text)
        if reason is None and not shows:
            return None
        piece = Piece(self.index, self.held_text, tuple(self.held_logprobs), reason)
        self.held_text, self.held_logprobs = "", []
        return piece


def _offsets(sampling: Sampling) -> Offsets | None:
    if not (sampling.bias or sampling.frequency_penalty or sampling.presence_penalty):
        return None
    return Offsets(sampling.bias, sampling.frequency_penalty, sampling.presence_penalty)
