"""Attention over packed tokens: one token of each running sequence, then stretches of prompts, in one row.

Knows where each token's keys and values go; knows nothing of weights, positions or sampling. It is registered with
transformers under `NAME`, for families whose own code computes the rest of a layer; `serve.trunk` calls `attend`.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from tunewise.errors import ModelError
from tunewise.modeling.loops import array, store_and_attend
from tunewise.serve.kv import Strip

NAME = "tunewise_serving"
REFUSED = ("softcap", "s_aux", "position_bias")  # options of some families that change the result


class DecodeGroup(NamedTuple):
    """One token each of the sequences in slots 0..n-1 of a pool; they are rows `start`..`end` of the batch.

    `kv`: (layers, 2, slots, kv_heads, capacity, head_dim); `positions`: (n,), where each new token stands.
    """

    start: int
    end: int
    kv: Tensor
    positions: Tensor


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


class Seen(NamedTuple):
    """What a layer's own code asks of attention. `window`: how many keys a query sees at most, None for all."""

    kv_heads: int
    head_dim: int
    scaling: float
    window: int | None


@dataclass
class StepLayout:
    """Which rows of the packed batch are what. `seen`: what each layer asked for, noted where a dict is given."""

    groups: list[DecodeGroup] = field(default_factory=list)
    spans: list[PromptSpan] = field(default_factory=list)
    seen: dict[int, Seen] | None = None


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
    if layout.seen is not None:
        layout.seen[layer] = Seen(key.shape[1], key.shape[3], scaling, sliding_window)
    heads = Heads(*(each[0].transpose(0, 1) for each in (query, key, value)))
    return attend(layout, layer, heads, scaling, sliding_window)[None], None


class Heads(NamedTuple):
    """Each token's queries (tokens, heads, head_dim), keys and values (tokens, kv_heads, head_dim), in any layout."""

    query: Tensor
    key: Tensor
    value: Tensor

    def rows(self, start: int, end: int) -> "Heads":
        """Of some tokens."""
        return Heads(self.query[start:end], self.key[start:end], self.value[start:end])


def attend(layout: StepLayout, layer: int, heads: Heads, scaling: float, window: int | None) -> Tensor:
    """Store the new keys and values and attend; gives (tokens, heads, head_dim)."""
    output = torch.empty(heads.query.shape, dtype=heads.query.dtype)
    for group in layout.groups:
        _decode(group, layer, heads.rows(group.start, group.end), scaling, window, output[group.start : group.end])
    for span in layout.spans:
        output[span.start : span.end] = _prefill(span, layer, heads.rows(span.start, span.end), scaling, window)
    return output


def _decode(group: DecodeGroup, layer: int, heads: Heads, scaling: float, window: int | None, output: Tensor) -> None:
    query, key, value = map(array, heads)
    cache = array(group.kv[layer])
    seen = cache.shape[3] if window is None else window
    store_and_attend(query, key, value, cache, group.positions.numpy(), np.float32(scaling), seen, array(output))


def _prefill(span: PromptSpan, layer: int, heads: Heads, scaling: float, window: int | None) -> Tensor:
    count = span.end - span.start
    total = span.past + count
    keys, values = span.strip.kv[layer, 0, :, :total], span.strip.kv[layer, 1, :, :total]
    keys[:, span.past :] = heads.key.transpose(0, 1)
    values[:, span.past :] = heads.value.transpose(0, 1)
    kv_heads = heads.key.shape[1]
    shape = (kv_heads, heads.query.shape[1] // kv_heads)
    asked = heads.query.transpose(0, 1).reshape(*shape, count, -1)
    many_keys, many_values = keys[:, None].expand(*shape, -1, -1), values[:, None].expand(*shape, -1, -1)
    mask = span.mask(window, asked.dtype)
    found = scaled_dot_product_attention(asked, many_keys, many_values, mask, scale=scaling)
    return found.flatten(0, 1).transpose(0, 1)


AttentionInterface.register(NAME, packed_attention)
