"""Grammars: which tokens may come next, so that an answer is what was asked for. docs/adr/0022 says why llguidance.

Knows one tokenizer and the library; knows nothing of requests, of batches or of how a token is drawn. A grammar is
compiled where a request is read, never on the engine's thread, and kept; an answer walks through a copy of it.
"""

import json
import threading
from collections.abc import Sequence, Set
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from tunewise.errors import ConfigError
from tunewise.serve.json_formats import narrowed

GRAMMARS_KEPT = 128
BITS = 32  # of a mask's word
REASON_MAX = 400  # characters of the library's reason, which may quote the whole grammar
# A weak model that may write as many blanks as it likes does so up to its last token, hence at most these: one line
# break with its indentation, or a few blanks. Nothing of the schema is passed over in silence.
JSON_OPTIONS = {"whitespace_pattern": r"\n[ ]{0,16}|[ ]{1,4}", "lenient": False, "coerce_one_of": False}


class Walk:
    """One answer's way through a grammar."""

    def __init__(self, matcher: LLMatcher, words: int) -> None:
        self._matcher = matcher
        self._words = words

    def take(self, token: int) -> None:
        """Go on by a token that `allowed` has allowed."""
        self._matcher.consume_token(token)

    def is_over(self) -> bool:
        """Whether nothing but an end token may follow."""
        return self._matcher.is_stopped()

    def problem(self) -> str | None:
        """Why no way leads on: the grammar took more work than the library's limits allow."""
        return self._matcher.get_error().partition("\n")[0] if self._matcher.is_error() else None

    def mask(self) -> NDArray[np.int32]:
        """(words,): a bit for each token, set where it may come next; end tokens only where all is said."""
        bits = np.zeros(self._words, dtype=np.int32)
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        return bits


class Grammar(NamedTuple):
    """A compiled grammar; `begin` is cheap, a microsecond."""

    start: LLMatcher
    words: int

    def begin(self) -> Walk:
        """Stand at its beginning."""
        return Walk(self.start.deep_copy(), self.words)


class Grammars:
    """Compiles grammars for one tokenizer; may be used from any thread, and takes a second at its first use.

    `vocabulary`: of the model, which may have more rows than its tokenizer has tokens.
    """

    def __init__(self, tokenizer: Tokenizer, stop_ids: Set[int], vocabulary: int) -> None:
        self._source = tokenizer
        self._stop_ids = sorted(stop_ids)
        self._vocabulary = max(vocabulary, tokenizer.get_vocab_size(with_added_tokens=True))
        self._tokenizer: LLTokenizer | None = None
        self._lock = threading.Lock()
        self._compiled = lru_cache(maxsize=GRAMMARS_KEPT)(self._compile)

    def compiled(self, lark: str, param: str) -> Grammar:
        """The grammar that `lark` describes, in llguidance's dialect of Lark.

        Raises:
            ConfigError: `invalid_json_schema`, with the library's reason; `param` is the field that asked for it.
        """
        with self._lock:
            return self._compiled(lark, param)

    def _compile(self, lark: str, param: str) -> Grammar:
        if self._tokenizer is None:
            self._tokenizer = LLTokenizer(
                self._source.to_str(), n_vocab=self._vocabulary, eos_token=self._stop_ids or None
            )
        matcher = LLMatcher(self._tokenizer, lark, log_level=0)
        if matcher.is_error():
            raise _refusal(param, matcher.get_error())
        return Grammar(matcher, -(-self._vocabulary // BITS))


def allowed(walks: Sequence[Walk], vocabulary: int) -> Tensor:
    """What may come next in each answer: (walks, vocabulary), bool."""
    bits = np.stack([walk.mask() for walk in walks]).view(np.uint8)
    return torch.from_numpy(np.unpackbits(bits, axis=1, count=vocabulary, bitorder="little")).bool()


def json_rule(schema: dict[str, Any]) -> str:
    """JSON of `schema`, as a part of a Lark rule."""
    return "%json " + json.dumps(_enforced(schema))


def check_schema(schema: dict[str, Any], param: str) -> None:
    """Refuse a schema that cannot be enforced.

    Raises:
        ConfigError: `invalid_json_schema`, with the reason and the field at fault.
    """
    grammar = LLMatcher.grammar_from_json_schema(_enforced(schema))
    is_wrong, reasons = LLMatcher.validate_grammar_with_warnings(grammar)
    if is_wrong:
        raise _refusal(param, reasons[0])


def _enforced(schema: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = narrowed(schema)
    return made | {"x-guidance": JSON_OPTIONS}


def _refusal(param: str, reason: str) -> ConfigError:
    message = f"{param}: this schema cannot be enforced: {reason.strip()[:REASON_MAX]}; write it without that"
    return ConfigError("invalid_json_schema", message, param=param)
