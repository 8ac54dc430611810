"""Rows of added tokens that adapters bring along, in the embedding and in the output head, per row of a batch.

The base's matrices are shared and stay as they are: what an adapter's rows change is put in place of what the base
computed. A server whose adapters bring none computes nothing here. Knows weights and rows of a batch; nothing of files.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn


class TokenRows(NamedTuple):
    """`indices` (n,) are tokens of the vocabulary, `values` (n, d_model) the rows that stand for theirs."""

    indices: Tensor
    values: Tensor


@dataclass
class RowAdapters:
    """Whose each row of the current batch is: of `tokens` (tokens,), and of those of them that are `picked` (rows,)."""

    tokens: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    picked: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))


class RowBank:
    """The rows of one module, by adapter."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._own: dict[int, TokenRows] = {}

    def put(self, key: int, rows: TokenRows) -> None:
        """Hold an adapter's rows."""
        self._own[key] = TokenRows(rows.indices, rows.values.to(self._dtype))

    def drop(self, key: int) -> None:
        """Let an adapter's rows go."""
        self._own.pop(key, None)

    def used_by(self, adapters: Tensor) -> Iterator[tuple[Tensor, TokenRows]]:
        """For each adapter with rows that is in the batch: where, as a mask over `adapters`, and its rows."""
        for key in set(adapters.tolist()) & self._own.keys() if self._own else ():
            yield adapters == key, self._own[key]


class RowEmbedding(nn.Module):
    """Stands where the embedding stood."""

    def __init__(self, embedding: nn.Module, batch: RowAdapters, dtype: torch.dtype) -> None:
        super().__init__()
        self.bank = RowBank(dtype)
        self._embedding = embedding
        self._batch = batch
        # Gemma multiplies what it looks up.
        self._scale = dict(embedding.named_buffers(recurse=False)).get("embed_scale", torch.ones(()))

    def forward(self, ids: Tensor) -> Tensor:
        """(1, tokens) → (1, tokens, d_model)."""
        found: Tensor = self._embedding(ids)
        for mine, rows in self.bank.used_by(self._batch.tokens):
            for index, value in zip(
                rows.indices.tolist(), rows.values * self._scale.to(rows.values.dtype), strict=True
            ):
                found[0, mine & (ids[0] == index)] = value
        return found


class RowHead(nn.Module):
    """Stands where the output head stood."""

    def __init__(self, head: nn.Module, batch: RowAdapters, dtype: torch.dtype) -> None:
        super().__init__()
        self.bank = RowBank(dtype)
        self._head = head
        self._batch = batch

    def forward(self, hidden: Tensor) -> Tensor:
        """(1, rows, d_model) → (1, rows, vocabulary)."""
        logits: Tensor = self._head(hidden)
        for mine, rows in self.bank.used_by(self._batch.picked):
            at = mine.nonzero()
            logits[0, at, rows.indices] = hidden[0, mine] @ rows.values.t()
        return logits
