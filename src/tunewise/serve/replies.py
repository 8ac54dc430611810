"""What clients get back: OpenAI's chat and completion objects, whole and as stream chunks.

Knows the wire's shapes; knows nothing of the engine. Plain dicts: they are written once and read by nobody here.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, assert_never

from tunewise.serve.call_reader import CallArguments, CallBegun, CallReader, Said, Told
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
    """One choice, gathered from its pieces. `reader`: of tool calls, where there may be any."""

    def __init__(self, reader: CallReader | None = None) -> None:
        self.reader = reader
        self.text: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: str | None = None

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        self.text.append(piece.text)
        self.logprobs += piece.logprobs
        self.finish_reason = piece.finish_reason

    def told(self) -> tuple[Json, str | None]:
        """The assistant's message, which is text, or calls, or both, and why it ended."""
        text = "".join(self.text)
        if self.reader is None:
            return {"role": "assistant", "content": text, "refusal": None}, self.finish_reason
        told = self.reader.push(text, final=True)
        reason = _reason(self.finish_reason, self.reader)
        said = "".join(one.text for one in told if isinstance(one, Said))
        calls = [_begun(one) for one in told if isinstance(one, CallBegun)]
        for one in told:
            if isinstance(one, CallArguments):
                calls[one.number]["function"]["arguments"] += one.text
        message: Json = {"role": "assistant", "content": said if said or not calls else None, "refusal": None}
        return (message | {"tool_calls": calls} if calls else message), reason


def chat(envelope: Envelope, answers: Sequence[Answer], used: Usage, tokens: TokenBytes | None) -> Json:
    """A whole chat completion; `tokens` None leaves log-probabilities out."""
    choices = []
    for index, answer in enumerate(answers):
        message, reason = answer.told()
        logprobs = _chat_logprobs(answer.logprobs, tokens)
        choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason})
    return _object("chat.completion", envelope, choices) | {"usage": usage(used)}


def chat_chunks(
    envelope: Envelope, piece: Piece, tokens: TokenBytes | None, reader: CallReader | None = None, *, first: bool
) -> list[Json]:
    """The chunks for one piece: the role before the first text, the finish reason after the last.

    With a reader of tool calls, its deltas are what it reads; the piece's log-probabilities go with the first of them.
    """
    chunks = []
    # Whether there will be any text is not known yet where there may be calls instead.
    delta: Json = {"role": "assistant", "content": "" if reader is None else None, "refusal": None}
    if first:
        chunks.append(_chat_delta(envelope, piece.choice, delta))
    deltas: list[Json] = [{"content": piece.text}] if piece.text or piece.logprobs else []
    if reader is not None:
        told = reader.push(piece.text, final=piece.finish_reason is not None)
        deltas = [_delta(one) for one in told] or ([{}] if piece.logprobs else [])
    for number, one in enumerate(deltas):
        logprobs = None if number else _chat_logprobs(piece.logprobs, tokens)
        chunks.append(_chat_delta(envelope, piece.choice, one, logprobs))
    if piece.finish_reason:
        chunks.append(_chat_delta(envelope, piece.choice, {}, None, _reason(piece.finish_reason, reader)))
    return chunks


def _delta(told: Told) -> Json:
    match told:
        case Said(text):
            return {"content": text}
        case CallBegun(number):
            return {"tool_calls": [{"index": number} | _begun(told)]}
        case CallArguments(number, text):
            return {"tool_calls": [{"index": number, "function": {"arguments": text}}]}
        case _:
            assert_never(told)


def _begun(call: CallBegun) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}


def _reason(reason: str | None, reader: CallReader | None) -> str | None:
    """Why an answer ended; one that stopped after a call waits for what the tool says."""
    return "tool_calls" if reader is not None and reader.calls and reason == "stop" else reason


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
