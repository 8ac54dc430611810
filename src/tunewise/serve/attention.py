"""Attention over packed tokens: one token of each running sequence, then stretches of prompts, in one row.

Knows where each token's keys and values go; knows nothing of weights, positions or sampling. It is registered with
transformers under `NAME`, so each family's own code does rotary embedding, query norms and projections, and only
the product with the cache is ours. Grouped queries read their shared keys once: the query heads of a group are laid
along the query axis instead of repeating keys and values.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from tunewise.errors import ModelError
from tunewise.serve.kv import Strip

NAME = "tunewise_serving"
REFUSED = ("softcap", "s_aux", "position_bias")  # options of some families that change the result


@dataclass
class DecodeGroup:
    """One token each of the sequences in slots 0..n-1 of a pool; they are rows `start`..`end` of the batch.

    `kv`: (layers, 2, slots, kv_heads, capacity, head_dim); `positions`: (n,), where each new token stands.
    """

    start: int
    end: int
    kv: Tensor
    positions: Tensor
    longest: int
    bias: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """(n, 1, 1, longest): 0 where a key is seen, -inf elsewhere; made once per step and window."""
        if window not in self.bias:
            keys, last = torch.arange(self.longest), self.positions[:, None]
            hidden = keys > last
            if window is not None:
                hidden |= keys <= last - window
            self.bias[window] = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)[:, None, None]
        return self.bias[window]


@dataclass
class PromptSpan:
    """Rows `start`..`end` of the batch: the next tokens of one prompt, after `past` tokens already in its strip."""

    start: int
    end: int
    strip: Strip
    past: int
    bias: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """(tokens, past + tokens): causal, and within the window where there is one."""
        if window not in self.bias:
            rows = torch.arange(self.past, self.past + self.end - self.start)[:, None]
            keys = torch.arange(self.past + self.end - self.start)
            hidden = keys > rows
            if window is not None:
                hidden |= keys <= rows - window
            self.bias[window] = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)
        return self.bias[window]


@dataclass
class StepLayout:
    """Which rows of the packed batch are what. `seen`: shapes of keys per layer, noted where a list is given."""

    groups: list[DecodeGroup] = field(default_factory=list)
    spans: list[PromptSpan] = field(default_factory=list)
    seen: dict[int, tuple[int, int]] | None = None


def packed_attention(  # the signature is the one that transformers calls
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: StepLayout,
    sliding_window: int | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """Store the new keys and values and attend. `query`: (1, heads, tokens, head_dim) → (1, tokens, heads, head_dim).

    Raises:
        ModelError: the family asks for something that this attention does not do.
    """
    for name in REFUSED:
        if options.get(name) is not None:
            raise ModelError(
                "model_unsupported", f"this model family needs {name} in attention, which is not supported"
            )
    layer: int = module.layer_idx  # type: ignore[assignment]  # every family's attention module has it
    output = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
    if layout.seen is not None:
        layout.seen[layer] = (key.shape[1], key.shape[3])
    for group in layout.groups:
        output[group.start : group.end] = _decode(group, layer, query, key, value, scaling, sliding_window)
    for span in layout.spans:
        output[span.start : span.end] = _prefill(span, layer, query, key, value, scaling, sliding_window)
    return output[None], None


def _decode(
    group: DecodeGroup, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
) -> Tensor:
    count, (start, end) = group.end - group.start, (group.start, group.end)
    keys, values = group.kv[layer, 0], group.kv[layer, 1]
    rows = torch.arange(count)
    keys[rows, :, group.positions] = key[0, :, start:end].transpose(0, 1)
    values[rows, :, group.positions] = value[0, :, start:end].transpose(0, 1)
    heads, kv_heads = query.shape[1], key.shape[1]
    asked = query[0, :, start:end].transpose(0, 1).reshape(count, kv_heads, heads // kv_heads, -1)
    seen = slice(0, group.longest)
    mask = group.mask(window, query.dtype)
    found = scaled_dot_product_attention(asked, keys[:count, :, seen], values[:count, :, seen], mask, scale=scaling)
    return found.reshape(count, heads, -1)


def _prefill(
    span: PromptSpan, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
) -> Tensor:
    start, end = span.start, span.end
    total = span.past + end - start
    keys, values = span.strip.kv[layer, 0, :, :total], span.strip.kv[layer, 1, :, :total]
    keys[:, span.past :] = key[0, :, start:end]
    values[:, span.past :] = value[0, :, start:end]
    heads, kv_heads = query.shape[1], key.shape[1]
    shape = (kv_heads, heads // kv_heads)
    asked = query[0, :, start:end].reshape(*shape, end - start, -1)
    many_keys, many_values = keys[:, None].expand(*shape, -1, -1), values[:, None].expand(*shape, -1, -1)
    mask = span.mask(window, query.dtype)
    found = scaled_dot_product_attention(asked, many_keys, many_values, mask, scale=scaling)
    return found.flatten(0, 1).transpose(0, 1)


AttentionInterface.register(NAME, packed_attention)
