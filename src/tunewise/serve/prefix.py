"""Keys and values of prompt beginnings, kept for the next prompt that begins the same way.

Knows blocks of tokens by a chained hash that includes the adapter, so that a block stands for everything before it too;
knows nothing of requests. Least recently used blocks go when the byte budget is spent.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 16  # tokens


def block_hashes(ids: Sequence[int], adapter: int) -> list[bytes]:
    """One hash per whole block that may be reused: never the prompt's last token, whose logits are needed."""
    digest = f"adapter {adapter}".encode()
    hashes = []
    for start in range(0, len(ids) - BLOCK, BLOCK):
        digest = hashlib.blake2b(array("q", ids[start : start + BLOCK]).tobytes(), digest_size=16, key=digest).digest()
        hashes.append(digest)
    return hashes


class PrefixCache:
    """Blocks by hash; each (layers, 2, kv_heads, BLOCK, head_dim)."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._bytes = 0
        self._blocks: OrderedDict[bytes, Tensor] = OrderedDict()

    def __contains__(self, key: bytes) -> bool:
        return key in self._blocks

    def matched(self, hashes: Sequence[bytes]) -> int:
        """How many leading blocks are here."""
        count = 0
        while count < len(hashes) and hashes[count] in self._blocks:
            count += 1
        return count

    def load(self, hashes: Sequence[bytes], into: Tensor) -> None:
        """Copy blocks, all of them here, to the beginning of `into` (layers, 2, kv_heads, capacity, head_dim)."""
        if not hashes:
            return
        for key in reversed(hashes):  # the first block ends up the most recently used: without it the rest is no use
            self._blocks.move_to_end(key)
        torch.cat([self._blocks[key] for key in hashes], dim=3, out=into[:, :, :, : BLOCK * len(hashes)])

    def store(self, key: bytes, block: Tensor) -> None:
        """Keep a copy of a block, if the budget allows one at all."""
        size = block.numel() * block.itemsize
        if key in self._blocks or size > self._budget:
            return
        while self._bytes + size > self._budget:
            _, oldest = self._blocks.popitem(last=False)
            self._bytes -= oldest.numel() * oldest.itemsize
        self._blocks[key] = block.clone(memory_format=torch.contiguous_format)
        self._bytes += size
