"""What clients get back: OpenAI's chat and completion objects, whole and as stream chunks.

Knows the wire's shapes; knows nothing of the engine. Plain dicts: they are written once and read by nobody here.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from tunewise.serve.generation import Piece, TokenLogprob, Usage
from tunewise.serve.tokens import TokenBytes

Json = dict[str, Any]
DONE = b"data: [DONE]\n\n"


class Envelope(NamedTuple):
    """What every object of one answer shares. `created`: Unix time in seconds."""

    id: str
    created: int
    model: str


class Answer:
    """One choice, gathered from its pieces."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: str | None = None

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        self.text.append(piece.text)
        self.logprobs += piece.logprobs
        self.finish_reason = piece.finish_reason


def chat(envelope: Envelope, answers: Sequence[Answer], used: Usage, tokens: TokenBytes | None) -> Json:
    """A whole chat completion; `tokens` None leaves log-probabilities out."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": "".join(answer.text), "refusal": None},
            "logprobs": _chat_logprobs(answer.logprobs, tokens),
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(answers)
    ]
    return _object("chat.completion", envelope, choices) | {"usage": usage(used)}


def chat_chunks(envelope: Envelope, piece: Piece, tokens: TokenBytes | None, *, first: bool) -> list[Json]:
    """The chunks for one piece: the role before the first text, the finish reason after the last."""
    chunks = []
    delta: Json = {"role": "assistant", "content": "", "refusal": None}
    if first:
        chunks.append(_chat_delta(envelope, piece.choice, delta))
    if piece.text or piece.logprobs:
        chunks.append(
            _chat_delta(envelope, piece.choice, {"content": piece.text}, _chat_logprobs(piece.logprobs, tokens))
        )
    if piece.finish_reason:
        chunks.append(_chat_delta(envelope, piece.choice, {}, None, piece.finish_reason))
    return chunks


def completion(envelope: Envelope, answers: Sequence[Answer], used: Usage, tokens: TokenBytes | None) -> Json:
    """A whole text completion."""
    choices = [
        {
            "index": index,
            "text": "".join(answer.text),
            "logprobs": _text_logprobs(answer.logprobs, tokens, 0),
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(answers)
    ]
    return _object("text_completion", envelope, choices) | {"usage": usage(used)}


def completion_chunk(envelope: Envelope, piece: Piece, tokens: TokenBytes | None, *, offset: int) -> Json:
    """The chunk for one piece; `offset`: characters of the choice's text before it."""
    choice = {
        "index": piece.choice,
        "text": piece.text,
        "logprobs": _text_logprobs(piece.logprobs, tokens, offset),
        "finish_reason": piece.finish_reason,
    }
    return _object("text_completion", envelope, [choice])


def usage_chunk(kind: str, envelope: Envelope, used: Usage) -> Json:
    """The last chunk of a stream with `include_usage`."""
    return _object(kind, envelope, []) | {"usage": usage(used)}


def usage(used: Usage) -> Json:
    """Tokens, with those that came from the prefix cache."""
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
    }


def server_sent(value: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def error(message: str, kind: str, param: str | None, code: str | None) -> Json:
    """OpenAI's error envelope."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _object(kind: str, envelope: Envelope, choices: list[Json]) -> Json:
    return {
        "id": envelope.id,
        "object": kind,
        "created": envelope.created,
        "model": envelope.model,
        "system_fingerprint": None,
        "choices": choices,
    }


def _chat_delta(
    envelope: Envelope, index: int, delta: Json, logprobs: Json | None = None, finish_reason: str | None = None
) -> Json:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    return _object("chat.completion.chunk", envelope, [choice])


def _chat_logprobs(found: Sequence[TokenLogprob], tokens: TokenBytes | None) -> Json | None:
    if tokens is None:
        return None
    content = [
        _token(tokens, item.token, item.logprob)
        | {"top_logprobs": [_token(tokens, token, logprob) for token, logprob in item.top]}
        for item in found
    ]
    return {"content": content, "refusal": None}


def _token(tokens: TokenBytes, token: int, logprob: float) -> Json:
    data = tokens[token]
    return {"token": data.decode(errors="replace"), "bytes": list(data), "logprob": logprob}


def _text_logprobs(found: Sequence[TokenLogprob], tokens: TokenBytes | None, offset: int) -> Json | None:
    if tokens is None:
        return None
    texts = [tokens[item.token].decode(errors="replace") for item in found]
    return {
        "tokens": texts,
        "token_logprobs": [item.logprob for item in found],
        "top_logprobs": [
            {
                tokens[token].decode(errors="replace"): logprob
                for token, logprob in (*item.top, (item.token, item.logprob))
            }
            for item in found
        ],
        "text_offset": [offset + sum(map(len, texts[:place])) for place in range(len(texts))],
    }
