"""Attention over packed rows: many rows in one sequence, no padding, each token sees its own row only.

The CPU's fused attention (`sdpa`) has a slow backward; here both passes are batched matrix products over blocks of
queries. A block reads only the keys that it may see, so the upper triangle is never computed, and the backward pass
recomputes the probabilities (as Dao et al. 2022, arXiv:2205.14135), so memory grows with the row's length and not with
its square. Knows nothing of models, adapters or losses; exactness is proved in
tests/modeling/test_attention.py and the yield measured by benchmarks/train_vs_trl.py.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from tunewise.errors import ModelError
from tunewise.modeling.autograd import Context, call

PACKED_ATTENTION = "tunewise_training"
QUERY_BLOCK = 512
# Arguments that change what attention computes; a model that sets one of them needs support here first.
UNSUPPORTED = ("softcap", "s_aux", "position_bias")


class Block(NamedTuple):
    """Queries `start:stop` of the packed sequence, and the keys `first:stop` that they may see."""

    start: int
    stop: int
    first: int


def blocks(lengths: Sequence[int], window: int | None) -> Iterator[Block]:
    """Cut rows of the given lengths, which lie end to end, into blocks of queries.

    `window`: how many tokens back a query sees, itself counted; None sees the whole row.
    """
    row = 0
    for length in lengths:
        for start in range(row, row + length, QUERY_BLOCK):
            first = row if window is None else max(row, start - window + 1)
            yield Block(start, min(start + QUERY_BLOCK, row + length), first)
        row += length


def _mask(block: Block, window: int | None, like: Tensor) -> Tensor:
    """(queries, keys), to be added to scores: minus infinity where the query may not look."""
    queries = torch.arange(block.start, block.stop, device=like.device)[:, None]
    keys = torch.arange(block.first, block.stop, device=like.device)[None, :]
    hidden = keys > queries
    if window is not None:
        hidden |= keys <= queries - window
    return like.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf"))


class _PackedAttention(torch.autograd.Function):
    """query: (heads, tokens, head_dim), scaled; key, value: (key_value_heads, tokens, head_dim); out: like query.

    Grouped-query attention needs no copies of keys and values: the queries of a group stand one below the other.
    """

    @staticmethod
    def forward(
        ctx: Context, query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], window: int | None
    ) -> Tensor:
        out = torch.empty_like(query)
        for block in blocks(lengths, window):
            mixed = torch.bmm(_probabilities(query, key, block, window), value[:, block.first : block.stop])
            out[:, block.start : block.stop] = mixed.view(query.shape[0], -1, query.shape[2])
        ctx.save_for_backward(query, key, value)
        ctx.lengths, ctx.window = lengths, window
        return out

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        groups = key.shape[0]
        grad_query, grad_key, grad_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for block in blocks(ctx.lengths, ctx.window):
            seen, asked = slice(block.first, block.stop), slice(block.start, block.stop)
            probabilities = _probabilities(query, key, block, ctx.window)
            upstream = _stacked(grads[0][:, asked], groups)
            grad_value[:, seen] += torch.bmm(probabilities.transpose(1, 2), upstream)
            inner = torch.bmm(upstream, value[:, seen].transpose(1, 2))
            # d softmax: p * (inner - sum(p * inner)), in one pass.
            inner = torch._softmax_backward_data(inner, probabilities, -1, query.dtype)
            grad_query[:, asked] = torch.bmm(inner, key[:, seen]).view(query.shape[0], -1, query.shape[2])
            grad_key[:, seen] += torch.bmm(inner.transpose(1, 2), _stacked(query[:, asked], groups))
        return grad_query, grad_key, grad_value, None, None


def _stacked(tensor: Tensor, groups: int) -> Tensor:
    """(heads, queries, n) to (groups, heads / groups * queries, n)."""
    return tensor.reshape(groups, -1, tensor.shape[-1])


def _probabilities(query: Tensor, key: Tensor, block: Block, window: int | None) -> Tensor:
    """Where each query of a block looks, (groups, heads / groups * queries, keys); the softmax runs in float32."""
    groups = key.shape[0]
    stacked = _stacked(query[:, block.start : block.stop], groups)
    mask = _mask(block, window, query).repeat(query.shape[0] // groups, 1)
    scores = torch.baddbmm(mask[None], stacked, key[:, block.first : block.stop].transpose(1, 2))
    return torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], *, scale: float, window: int | None = None
) -> Tensor:
    """Causal attention within rows of the given lengths, which lie end to end.

    query: (heads, tokens, head_dim); key, value: (key_value_heads, tokens, head_dim). Returns query's shape.
    """
    (out,) = call(_PackedAttention, query * scale, key, value, lengths, window)
    return out


def _interface(  # noqa: PLR0913  # the signature is transformers'
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    row_lengths: Sequence[int],
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """The signature that every `transformers` model calls; the model's forward is given `row_lengths`."""
    present = [name for name in UNSUPPORTED if kwargs.get(name) is not None]
    if present or dropout:
        found = present[0] if present else f"attention dropout {dropout}"
        raise ModelError(
            "unsupported_attention",
            f"{type(module).__name__} uses {found}, which packed attention does not compute; choose another base model",
            param="base_model",
        )
    out = packed_attention(query[0], key[0], value[0], row_lengths, scale=scaling, window=sliding_window)
    return out.transpose(0, 1)[None], None


AttentionInterface.register(PACKED_ATTENTION, _interface)
