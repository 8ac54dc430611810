"""Attention over packed rows: many rows in one sequence, no padding, each token sees its own row only.

Rows that begin with the same tokens may share them: a row is a chain of segments (`prefixes`).

The CPU's fused attention (`sdpa`) has a slow backward; here both passes are batched matrix products over blocks of
queries. A block reads only the keys that it may see, so the upper triangle is never computed. The backward pass takes
the probabilities of short rows from the forward pass and recomputes those of long ones (as Dao et al. 2022,
arXiv:2205.14135), so memory grows with a row's length and not with its square. Knows nothing of models, adapters or
losses; exactness is proved in tests/modeling/test_attention.py and the yield measured by benchmarks/train_vs_trl.py.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from tunewise.errors import ModelError
from tunewise.modeling.autograd import Context, call

PACKED_ATTENTION = "tunewise_training"
QUERY_BLOCK = 512
# Probabilities of queries that see at most so many keys are kept: a third of what the layer keeps besides, at most.
KEPT_KEYS = 512
# Keys are taken in multiples of this, the last ones hidden: softmax over bfloat16 is three times as fast on whole
# vectors, and rows of many lengths become products of few shapes, each of which is compiled when it is first seen.
KEY_STEP = 32
# Arguments that change what attention computes; a model that sets one of them needs support here first.
UNSUPPORTED = ("softcap", "s_aux", "position_bias")


Range: TypeAlias = tuple[int, int]


class Segment(NamedTuple):
    """Tokens `start:stop` of the packed sequence, which continue the stretches `before`, oldest first.

    Nothing before: they begin a row. Several segments with the same `before` are rows that begin alike.
    """

    start: int
    stop: int
    before: tuple[Range, ...] = ()


class Block(NamedTuple):
    """Queries `start:stop`, the stretches of keys that they see, and how many of those keys precede the first query."""

    start: int
    stop: int
    keys: tuple[Range, ...]
    offset: int


def blocks(segments: Sequence[Segment], window: int | None) -> Iterator[Block]:
    """Cut segments into blocks of queries.

    `window`: how many tokens back a query sees, itself counted; None sees the whole row.
    """
    for segment in segments:
        earlier = sum(stop - start for start, stop in segment.before)
        for start in range(segment.start, segment.stop, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, segment.stop)
            place = earlier + start - segment.start
            skipped = 0 if window is None else max(0, place - window + 1)
            yield Block(start, stop, _from(skipped, (*segment.before, (segment.start, stop))), place - skipped)


def _from(skipped: int, ranges: Sequence[Range]) -> tuple[Range, ...]:
    """The ranges without their first `skipped` tokens; those that touch become one."""
    left: list[Range] = []
    for start, stop in ranges:
        cut = min(skipped, stop - start)
        skipped -= cut
        if left and left[-1][1] == start + cut:
            left[-1] = (left[-1][0], stop)
        elif start + cut < stop:
            left.append((start + cut, stop))
    return tuple(left)


def _hide(scores: Tensor, block: Block, window: int | None) -> None:
    """Make the scores of (..., queries, keys) minus infinity in place, where the query may not look."""
    queries, keys = scores.shape[-2:]
    if window is None or block.offset + queries <= window:
        scores[..., block.offset :] += _triangle(queries, keys - block.offset, scores.dtype)
        return
    places = torch.arange(block.offset, block.offset + queries)[:, None]
    seen = torch.arange(keys)[None, :]
    scores.masked_fill_((seen > places) | (seen <= places - window), float("-inf"))


def _triangle(queries: int, keys: int, dtype: torch.dtype) -> Tensor:
    """(queries, keys), to be added to scores: minus infinity for what comes after the query."""
    return _whole_triangle(QUERY_BLOCK, dtype)[:queries, :keys]


@lru_cache(maxsize=8)
def _whole_triangle(queries: int, dtype: torch.dtype) -> Tensor:
    return torch.full((queries, queries + KEY_STEP), float("-inf"), dtype=dtype).triu_(1)


def _seen(tensor: Tensor, block: Block) -> Tensor:
    """(heads, tokens, n) to (heads, keys of the block and up to KEY_STEP - 1 more, n): a view where it can be.

    What follows are tokens of other rows, or the last ones again; no query sees them.
    """
    missing = -sum(stop - start for start, stop in block.keys) % KEY_STEP
    *first, (start, stop) = block.keys
    beyond = max(0, stop + missing - tensor.shape[1])
    parts = [tensor[:, start:stop] for start, stop in (*first, (start, stop + missing - beyond))]
    if beyond:
        parts.append(tensor[:, -1:].expand(-1, beyond, -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _add_seen(total: Tensor, block: Block, part: Tensor) -> None:
    """Add (heads, keys of the block, n) to the places of `total` that the keys come from."""
    done = 0
    for start, stop in block.keys:
        total[:, start:stop] += part[:, done : done + stop - start]
        done += stop - start


class _PackedAttention(torch.autograd.Function):
    """query: (heads, tokens, head_dim), scaled; key, value: (key_value_heads, tokens, head_dim); out: like query.

    Grouped-query attention needs no copies of keys and values: the queries of a group stand one below the other.
    """

    @staticmethod
    def forward(
        ctx: Context, query: Tensor, key: Tensor, value: Tensor, segments: Sequence[Segment], window: int | None
    ) -> Tensor:
        out = torch.empty_like(query)
        kept: list[Tensor | None] = []
        for block in blocks(segments, window):
            probabilities = _probabilities(query, _seen(key, block), block, window)
            mixed = torch.bmm(probabilities, _seen(value, block))
            out[:, block.start : block.stop] = mixed.view(query.shape[0], -1, query.shape[2])
            kept.append(probabilities if probabilities.shape[-1] <= KEPT_KEYS else None)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.segments, ctx.window = segments, window
        return out

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        groups = key.shape[0]
        grad_query, grad_key, grad_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for block, probabilities in zip(blocks(ctx.segments, ctx.window), kept, strict=True):
            keys, asked = _seen(key, block), slice(block.start, block.stop)
            if probabilities is None:
                probabilities = _probabilities(query, keys, block, ctx.window)  # noqa: PLW2901
            upstream = _stacked(grads[0][:, asked], groups)
            _add_seen(grad_value, block, torch.bmm(probabilities.transpose(1, 2), upstream))
            inner = torch.bmm(upstream, _seen(value, block).transpose(1, 2))
            # d softmax: p * (inner - sum(p * inner)), in one pass.
            inner = torch._softmax_backward_data(inner, probabilities, -1, query.dtype)
            grad_query[:, asked] = torch.bmm(inner, keys).view(query.shape[0], -1, query.shape[2])
            _add_seen(grad_key, block, torch.bmm(inner.transpose(1, 2), _stacked(query[:, asked], groups)))
        return grad_query, grad_key, grad_value, None, None


def _stacked(tensor: Tensor, groups: int) -> Tensor:
    """(heads, queries, n) to (groups, heads / groups * queries, n)."""
    return tensor.reshape(groups, -1, tensor.shape[-1])


def _probabilities(query: Tensor, keys: Tensor, block: Block, window: int | None) -> Tensor:
    """Where each query of a block looks, (groups, heads / groups * queries, keys); the softmax runs in float32."""
    groups = keys.shape[0]
    scores = torch.bmm(_stacked(query[:, block.start : block.stop], groups), keys.transpose(1, 2))
    _hide(scores.view(query.shape[0], -1, keys.shape[1]), block, window)
    return torch.softmax(scores, -1)


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, segments: Sequence[Segment], *, scale: float, window: int | None = None
) -> Tensor:
    """Causal attention within rows, which are made of segments that lie end to end.

    query: (heads, tokens, head_dim); key, value: (key_value_heads, tokens, head_dim). Returns query's shape.
    """
    (out,) = call(_PackedAttention, query * scale, key, value, segments, window)
    return out


def _interface(  # noqa: PLR0913  # the signature is transformers'
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    segments: Sequence[Segment],
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """The signature that every `transformers` model calls; the model's forward is given `segments`."""
    present = [name for name in UNSUPPORTED if kwargs.get(name) is not None]
    if present or dropout:
        found = present[0] if present else f"attention dropout {dropout}"
        raise ModelError(
            "unsupported_attention",
            f"{type(module).__name__} uses {found}, which packed attention does not compute; choose another base model",
            param="base_model",
        )
    out = packed_attention(query[0], key[0], value[0], segments, scale=scaling, window=sliding_window)
    return out.transpose(0, 1)[None], None


AttentionInterface.register(PACKED_ATTENTION, _interface)
