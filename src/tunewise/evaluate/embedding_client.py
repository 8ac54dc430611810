"""Embeddings: texts to vectors, asked of any OpenAI-compatible server.

Knows HTTP through the `openai` SDK alone; knows nothing of what vectors are for, or which engine answers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from openai import BadRequestError, DefaultHttpxClient, OpenAI, OpenAIError

from tunewise.addresses import is_local
from tunewise.errors import EvaluationError
from tunewise.evaluate.client import Server
from tunewise.evaluate.embedding import Embed, Vector, Vectors

TEXTS_AT_ONCE = 256
TOO_LONG = "context_length_exceeded"


@contextmanager
def embedder(server: Server) -> Iterator[Embed]:
    """Asks `server`, each text once. A text longer than the model can read gets the mean of its pieces' vectors.

    That is OpenAI's own recipe for long texts; pieces count by their length.
    """
    known: dict[str, Vector] = {}
    with OpenAI(
        base_url=server.base_url,
        api_key=server.api_key or "none",
        max_retries=server.max_retries,
        timeout=server.timeout,
        http_client=DefaultHttpxClient(trust_env=not is_local(server.base_url)),
    ) as client:

        def embed(texts: Sequence[str]) -> Vectors:
            new = [text for text in dict.fromkeys(texts) if text not in known]
            for start in range(0, len(new), TEXTS_AT_ONCE):
                some = new[start : start + TEXTS_AT_ONCE]
                known.update(zip(some, _asked(client, server, some), strict=True))
            return np.array([known[text] for text in texts], dtype=np.float32)

        yield embed


def _asked(client: OpenAI, server: Server, texts: Sequence[str]) -> list[Vector]:
    try:
        answer = client.embeddings.create(model=server.model, input=list(texts))
    except BadRequestError as error:
        if error.code != TOO_LONG:
            raise _refused(server, error) from error
        return _in_pieces(client, server, texts)
    except OpenAIError as error:
        raise _refused(server, error) from error
    return [np.array(one.embedding, dtype=np.float32) for one in answer.data]


def _in_pieces(client: OpenAI, server: Server, texts: Sequence[str]) -> list[Vector]:
    """Halves the list until the text that is too long stands alone, and then the text."""
    if len(texts) > 1:
        middle = len(texts) // 2
        return [*_asked(client, server, texts[:middle]), *_asked(client, server, texts[middle:])]
    halves = _halves(texts[0])
    total: Vector = np.sum(
        [len(half) * vector for half, vector in zip(halves, _asked(client, server, halves), strict=True)], axis=0
    )
    return [total / np.linalg.norm(total)]


def _halves(text: str) -> list[str]:
    """Cut at the white space before the middle, or in the middle where there is none."""
    middle = len(text) // 2
    cut = max(text.rfind(blank, 1, middle) for blank in " \n\t")
    cut = cut if cut > 0 and text[:cut].strip() else middle
    return [half for half in (text[:cut], text[cut:]) if half.strip()]


def _refused(server: Server, error: OpenAIError) -> EvaluationError:
    return EvaluationError(
        "embeddings_failed",
        f"{server.base_url} gave no embeddings by {server.model!r}: {error} {error.__cause__ or ''}",
    )
