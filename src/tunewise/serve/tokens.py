"""The bytes of single tokens, for log-probabilities: a token may be part of a character.

Knows the two ways in which tokenizers write bytes; knows nothing of models.
"""

import json
import re
from functools import lru_cache

from tokenizers import Tokenizer

BYTE_TOKEN = re.compile(r"^<0x([0-9A-F]{2})>$")


class TokenBytes:
    """Bytes by token id. `tokens[id]` is what the token adds to the text; special tokens give their own name."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._byte_level = '"ByteLevel"' in json.dumps(json.loads(self._tokenizer.to_str())["decoder"])
        self._added = self._tokenizer.get_added_tokens_decoder()

    def __getitem__(self, token: int) -> bytes:
        text = self._tokenizer.id_to_token(token) or ""
        if token in self._added:
            return text.encode()
        if self._byte_level:
            table = byte_level_alphabet()
            return bytes(table[character] for character in text)
        if match := BYTE_TOKEN.match(text):
            return bytes.fromhex(match[1])
        return text.replace("\u2581", " ").encode()


@lru_cache(maxsize=1)
def byte_level_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return table | {chr(256 + place): byte for place, byte in enumerate(others)}
