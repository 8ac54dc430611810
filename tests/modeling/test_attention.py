"""Packed attention equals torch's own attention under the mask that the rows imply."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tunewise.modeling import attention
from tunewise.modeling.attention import Block, Segment, blocks, packed_attention


def end_to_end(lengths: list[int]) -> list[Segment]:
    """Rows that share nothing."""
    ends = [sum(lengths[: n + 1]) for n in range(len(lengths))]
    return [Segment(end - length, end) for end, length in zip(ends, lengths, strict=True)]


lengths_lists = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def reference(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], window: int | None) -> Tensor:
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(sum(lengths))
    seen = (row[:, None] == row[None]) & (place[:, None] >= place[None])
    if window is not None:
        seen &= place[:, None] - place[None] < window
    return scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=0.3, enable_gqa=True)


@settings(max_examples=40, deadline=None)
@given(lengths_lists, st.sampled_from([1, 3]), st.sampled_from([None, 1, 5]), st.sampled_from([7, 512]))
def test_output_and_gradients_equal_sdpa(lengths: list[int], groups: int, window: int | None, block: int) -> None:
    torch.manual_seed(sum(lengths))
    heads = (2 * groups, 2, 2)
    query, key, value = inputs = [torch.randn(h, sum(lengths), 8, requires_grad=True) for h in heads]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "QUERY_BLOCK", block)
        ours = packed_attention(query, key, value, end_to_end(lengths), scale=0.3, window=window)
        upstream = torch.randn_like(ours)
        our_grads = torch.autograd.grad(ours, inputs, upstream)
    theirs = reference(query, key, value, lengths, window)
    their_grads = torch.autograd.grad(theirs, inputs, upstream)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(our_grads, their_grads, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_within_its_precision_of_float32() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(heads, 50, 16) for heads in (4, 2, 2))
    exact = packed_attention(query, key, value, end_to_end([20, 30]), scale=0.25)
    rounded = packed_attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), end_to_end([20, 30]), scale=0.25)
    assert rounded.dtype is torch.bfloat16
    assert (rounded.float() - exact).abs().max() < 0.03


@given(lengths_lists, st.sampled_from([None, 3]))
def test_blocks_cover_each_query_once_and_never_leave_the_row(lengths: list[int], window: int | None) -> None:
    ends = [sum(lengths[: n + 1]) for n in range(len(lengths))]
    found = list(blocks(end_to_end(lengths), window))
    assert [query for b in found for query in range(b.start, b.stop)] == list(range(sum(lengths)))
    for block in found:
        end = next(end for end in ends if block.start < end)
        ((first, last),) = block.keys
        assert end - lengths[ends.index(end)] <= first <= block.start < block.stop == last <= end
        assert block.offset == block.start - first


def test_a_window_leaves_out_keys_that_no_query_sees() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "QUERY_BLOCK", 4)
        assert list(blocks([Segment(0, 10)], 3)) == [
            Block(0, 4, ((0, 4),), 0),
            Block(4, 8, ((2, 8),), 2),
            Block(8, 10, ((6, 10),), 2),
        ]


def test_a_segment_sees_what_it_continues_and_nothing_of_its_siblings() -> None:
    stem, first, second = Segment(0, 3), Segment(3, 5, ((0, 3),)), Segment(5, 6, ((0, 3),))
    assert list(blocks([stem, first, second], None)) == [
        Block(0, 3, ((0, 3),), 0),
        Block(3, 5, ((0, 5),), 3),
        Block(5, 6, ((0, 3), (5, 6)), 3),
    ]
    assert list(blocks([second], 2)) == [Block(5, 6, ((2, 3), (5, 6)), 1)]
    assert list(blocks([second], 1)) == [Block(5, 6, ((5, 6),), 0)]
