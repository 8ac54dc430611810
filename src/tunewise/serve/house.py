"""From a wire request to generations and back: prompts rendered, limits checked, events gathered into replies.

Knows the template, the model names and the reply shapes; knows nothing of routes or of how tokens come about.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tunewise.data.template import Template
from tunewise.errors import ConfigError, ServingError
from tunewise.serve import replies
from tunewise.serve.call_reader import CallReader
from tunewise.serve.engine import Engine
from tunewise.serve.forms import Calls, Forms, Prepared
from tunewise.serve.generation import Failed, Finished, Generation, Piece, Sampling, Usage
from tunewise.serve.mailbox import Mailbox
from tunewise.serve.replies import Answer, Envelope
from tunewise.serve.tokens import TokenBytes
from tunewise.serve.wire import ChatRequest, CompletionRequest, Sampled

COMPLETION_TOKENS_DEFAULT = 16  # OpenAI's default for the completions endpoint


class Work(NamedTuple):
    """One HTTP request, ready for the engine; several generations where several prompts were sent.

    `calls`: how tool calls are read from the answers, where there may be any.
    """

    kind: Literal["chat", "completion"]
    envelope: Envelope
    generations: tuple[Generation, ...]
    include_usage: bool
    calls: Calls | None = None

    def choices(self) -> int:
        """Answers over all generations."""
        return sum(generation.n for generation in self.generations)

    def readers(self) -> list[CallReader | None]:
        """One for each answer; None where no calls are looked for."""
        return [self.calls.reader() if self.calls else None for _ in range(self.choices())]


class House:
    """One hosted base model under `name`, with its adapters."""

    def __init__(self, name: str, template: Template, engine: Engine, mailbox: Mailbox) -> None:
        self.engine = engine
        self.mailbox = mailbox
        self._name = name
        self._template = template
        self._created = int(time.time())
        self._tokens: TokenBytes | None = None
        self._forms = Forms(template, engine.vocabulary)

    def models(self) -> list[dict[str, Any]]:
        """The base model and the adapters, as `/v1/models` lists them."""
        return [self._model(name) for name in self._names()]

    def model(self, name: str) -> dict[str, Any]:
        """One of them.

        Raises:
            ServingError: `model_not_found`.
        """
        self._adapter(name)
        return self._model(name)

    def load_adapter(self, name: str, path: str) -> None:
        """Load an adapter; blocks until the engine holds it.

        Raises:
            ModelError: it cannot be read, does not fit, or the name is taken.
        """
        if name == self._name:
            raise ConfigError("adapter_exists", f"{name!r} is the base model's own name", param="lora_name")
        self.engine.load_adapter(name, Path(path))

    async def chat(self, request: ChatRequest) -> Work:
        """Render a chat request, and compile the grammar of its form, if it has one, in a thread.

        Raises:
            ConfigError, DataError: a message, or a limit, is wrong.
            ServingError: `model_not_found`.
        """
        adapter = self._adapter(request.model)
        messages, form = request.parsed_messages(), request.form()
        prompt = self._template.prompt_ids(messages, form.tools)
        is_free = form.schema is None and form.choice == "none"
        prepared = Prepared() if is_free else await asyncio.to_thread(self._forms.prepare, form)
        limit = request.max_completion_tokens or request.max_tokens
        top = (request.top_logprobs or 0) if request.logprobs else None
        generation = self._generation(request, prompt, adapter, limit, top, default_limit=None, param="messages")
        generation = generation._replace(grammar=prepared.grammar, decode=prepared.decode)
        envelope = self._envelope("chatcmpl", request)
        return Work("chat", envelope, (generation,), request.wants_usage(), prepared.calls)

    def completion(self, request: CompletionRequest) -> Work:
        """Encode a completion request; a text prompt is encoded as it stands, with no template.

        Raises:
            ConfigError: the prompt, or a limit, is wrong.
            ServingError: `model_not_found`.
        """
        adapter = self._adapter(request.model)
        generations = tuple(
            self._generation(
                request,
                prompt,
                adapter,
                request.max_tokens,
                request.logprobs,
                default_limit=COMPLETION_TOKENS_DEFAULT,
                param="prompt",
            )
            for prompt in self._prompts(request)
        )
        return Work("completion", self._envelope("cmpl", request), generations, request.wants_usage())

    async def gather(self, work: Work) -> dict[str, Any]:
        """Generate, and give the whole reply."""
        answers = [Answer(reader) for reader in work.readers()]
        total = Usage(0, 0, 0)
        async with aclosing(self._pieces(work)) as events:
            async for event in events:
                match event:
                    case Piece():
                        answers[event.choice].add(event)
                    case Usage():
                        total = _sum(total, event)
        write = replies.chat if work.kind == "chat" else replies.completion
        return write(work.envelope, answers, total, self._token_bytes(work))

    async def stream(self, work: Work) -> AsyncGenerator[bytes]:
        """Generate, and yield the reply as server-sent events; a failure after the first is an event of its own."""
        tokens, total = self._token_bytes(work), Usage(0, 0, 0)
        begun: set[int] = set()
        lengths, readers = [0] * work.choices(), work.readers()
        async with aclosing(self._pieces(work)) as events:
            async for event in events:
                match event:
                    case Piece() if work.kind == "chat":
                        reader, is_first = readers[event.choice], event.choice not in begun
                        chunks = replies.chat_chunks(work.envelope, event, tokens, reader, first=is_first)
                        begun.add(event.choice)
                        yield b"".join(replies.server_sent(chunk) for chunk in chunks)
                    case Piece():
                        chunk = replies.completion_chunk(work.envelope, event, tokens, offset=lengths[event.choice])
                        lengths[event.choice] += len(event.text)
                        yield replies.server_sent(chunk)
                    case Usage():
                        total = _sum(total, event)
        if work.include_usage:
            kind = "chat.completion.chunk" if work.kind == "chat" else "text_completion"
            yield replies.server_sent(replies.usage_chunk(kind, work.envelope, total))
        yield replies.DONE

    async def _pieces(self, work: Work) -> AsyncGenerator[Piece | Usage]:
        """Pieces with choices numbered over all generations, and the usage of each.

        Raises:
            TunewiseError: what the engine failed with.
        """
        n = work.generations[0].n
        async with aclosing(self.mailbox.generate(self.engine, work.generations)) as events:
            async for place, event in events:
                match event:
                    case Piece():
                        yield event._replace(choice=place * n + event.choice)
                    case Finished():
                        yield event.usage
                    case Failed():
                        raise event.error

    def _generation(
        self,
        request: Sampled,
        prompt: list[int],
        adapter: str | None,
        limit: int | None,
        top_logprobs: int | None,
        *,
        default_limit: int | None,
        param: str,
    ) -> Generation:
        sampling = Sampling(
            1.0 if request.temperature is None else request.temperature,
            1.0 if request.top_p is None else request.top_p,
            secrets.randbits(63) if request.seed is None else request.seed,
            request.frequency_penalty or 0.0,
            request.presence_penalty or 0.0,
            self._bias(request),
        )
        return Generation(
            prompt=tuple(prompt),
            adapter=adapter,
            n=request.n or 1,
            max_tokens=self._room(len(prompt), limit, default_limit, param),
            sampling=sampling,
            stop=request.stops(),
            top_logprobs=top_logprobs,
            stream=bool(request.stream),
            ignore_eos=request.ignore_eos,
        )

    def _bias(self, request: Sampled) -> tuple[tuple[int, float], ...]:
        bias = request.bias()
        wrong = next((token for token, _ in bias if token >= self.engine.vocabulary), None)
        if wrong is not None:
            last = self.engine.vocabulary - 1
            message = f"logit_bias: {wrong} is no token id of this model, whose ids run from 0 to {last}"
            raise ConfigError("invalid_value", message, param="logit_bias")
        return bias

    def _room(self, prompt: int, limit: int | None, default_limit: int | None, param: str) -> int:
        """Tokens that may be generated: what was asked for, or what the context has left."""
        context = self.engine.context_length
        wanted = limit or min(default_limit or context, max(context - prompt, 1))
        if prompt + wanted > context:
            message = (
                f"This model's maximum context length is {context} tokens. However, you requested {prompt + wanted} "
                f"tokens ({prompt} in the {param}, {wanted} in the completion). Please reduce the length of either."
            )
            raise ConfigError("context_length_exceeded", message, param=param)
        return wanted

    def _prompts(self, request: CompletionRequest) -> list[list[int]]:
        match request.prompt:
            case str(text):
                prompts = [self._template.encode(text)]
            case [int(), *_]:
                prompts = [[int(token) for token in request.prompt if isinstance(token, int)]]
            case several:
                prompts = [
                    self._template.encode(one) if isinstance(one, str) else one
                    for one in several
                    if isinstance(one, str | list)
                ]
        if not prompts or not all(prompts):
            raise ConfigError("invalid_value", "prompt: every prompt needs at least one token", param="prompt")
        vocabulary = self.engine.vocabulary
        wrong = next((token for prompt in prompts for token in prompt if not 0 <= token < vocabulary), None)
        if wrong is not None:
            message = f"prompt: {wrong} is no token id of this model, whose ids run from 0 to {vocabulary - 1}"
            raise ConfigError("invalid_value", message, param="prompt")
        return prompts

    def _names(self) -> list[str]:
        return [self._name, *self.engine.adapters]

    def _adapter(self, model: str) -> str | None:
        if model == self._name:
            return None
        if model not in self.engine.adapters:
            known = ", ".join(self._names())
            message = f"The model {model!r} does not exist; the models here are: {known}"
            raise ServingError("model_not_found", message, param="model")
        return model

    def _model(self, name: str) -> dict[str, Any]:
        parent = None if name == self._name else self._name
        entry = {"id": name, "object": "model", "created": self._created, "owned_by": "tunewise"}
        return entry | {"parent": parent, "max_model_len": self.engine.context_length}

    def _token_bytes(self, work: Work) -> TokenBytes | None:
        """The table of token bytes, made when log-probabilities are first asked for."""
        if work.generations[0].top_logprobs is None:
            return None
        if self._tokens is None:
            self._tokens = TokenBytes(self._template.tokenizer)
        return self._tokens

    def _envelope(self, prefix: str, request: Sampled) -> Envelope:
        return Envelope(f"{prefix}-{secrets.token_hex(12)}", int(time.time()), request.model)


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(*(left + right for left, right in zip(one, other, strict=True)))
