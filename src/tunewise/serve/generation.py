"""What is asked of the engine and what it answers: values, with no HTTP and no batches."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

from tunewise.errors import TunewiseError
from tunewise.serve.grammars import Grammar
from tunewise.serve.text import Decode

FinishReason: TypeAlias = Literal["stop", "length"]


class Sampling(NamedTuple):
    """How the next token is chosen. Temperature 0 is greedy. `bias`: what is added to a token's logit."""

    temperature: float
    top_p: float
    seed: int
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()


class Generation(NamedTuple):
    """One prompt and what to do with it. `adapter` None is the base model; `top_logprobs` None asks for none.

    `grammar`: what the answer must be; `decode`: how it becomes text, where not as the engine does it.
    """

    prompt: tuple[int, ...]
    adapter: str | None
    n: int
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    stream: bool = False
    ignore_eos: bool = False
    grammar: Grammar | None = None
    decode: Decode | None = None


class TokenLogprob(NamedTuple):
    """A generated token with its natural-log probability, and the most probable tokens at its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Piece(NamedTuple):
    """A further piece of a choice's text; all of it at once where nothing is streamed."""

    choice: int
    text: str
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason | None


class Usage(NamedTuple):
    """Tokens of a finished request, over all choices."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class Finished(NamedTuple):
    """The last event of a request that was answered."""

    usage: Usage


class Failed(NamedTuple):
    """The last event of a request that was not."""

    error: TunewiseError


Event: TypeAlias = Piece | Finished | Failed
Deliver: TypeAlias = Callable[[list[tuple[int, Event]]], None]
"""Called on the engine's thread, once per step, with (request number, event) pairs in order."""
