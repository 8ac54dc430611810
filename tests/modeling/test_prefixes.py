"""Rows that share their beginnings have the losses and the gradients that each has alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunewise.contracts.run import BaseModelRef, LoraSpec
from tunewise.data.template import Rendered
from tunewise.modeling import prefixes
from tunewise.modeling.attention import Segment
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.lora import add_adapter
from tunewise.modeling.packing import pack, packed_loss
from tunewise.modeling.prefixes import common_prefix, lay_out, shared_with

rows_lists = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=60), min_size=1, max_size=8)


@given(st.lists(st.integers(0, 1), max_size=40), st.lists(st.integers(0, 1), max_size=40))
def test_the_common_prefix_is_the_longest(left: list[int], right: list[int]) -> None:
    found = common_prefix(left, right)
    assert left[:found] == right[:found]
    assert left[found : found + 1] != right[found : found + 1] or found == min(len(left), len(right))


@given(rows_lists, st.booleans())
def test_each_row_can_be_read_back_along_its_segments(rows: list[list[int]], share: bool) -> None:
    layout = lay_out(rows, share=share)
    by_last = {segment.stop - 1: segment for segment in layout.segments}
    for row, places in zip(rows, layout.places, strict=True):
        assert [layout.ids[place] for place in places] == row
        assert [layout.positions[place] for place in places] == list(range(len(row)))
        segment = by_last[places[-1]]
        chain = (*segment.before, (segment.start, segment.stop))
        assert places == [place for start, stop in chain for place in range(start, stop)]
    assert share or len(layout.ids) == sum(map(len, rows))


@given(rows_lists)
def test_rows_share_all_that_is_long_enough(rows: list[list[int]]) -> None:
    computed = len(lay_out(rows, share=True).ids)
    one_by_one = sum(len(row) - shared_with(row, rows[:n]) for n, row in enumerate(rows))
    # A stretch that a row shares may be cut where others leave it, and what is left then be too short to be shared.
    assert computed <= one_by_one + prefixes.LEAST_SHARED * len(rows)
    assert computed >= one_by_one


def test_a_system_prompt_and_a_question_are_computed_once() -> None:
    system, question = list(range(100, 140)), list(range(200, 230))
    rows = [system + question + [1, 2], system + question + [3], [*system, 4, 5, 6], [7, 8]]
    assert lay_out(rows, share=True).segments == [
        Segment(0, 40),
        Segment(40, 70, ((0, 40),)),
        Segment(70, 72, ((0, 40), (40, 70))),
        Segment(72, 73, ((0, 40), (40, 70))),
        Segment(73, 76, ((0, 40),)),
        Segment(76, 78),
    ]


def shared_rows() -> list[Rendered]:
    """A tree of rows; one stands there twice, one is the beginning of others, and shared tokens carry loss in some."""
    torch.manual_seed(3)
    system, question = (torch.randint(3, 49152, (length,)).tolist() for length in (50, 20))
    tails = [torch.randint(3, 49152, (length,)).tolist() for length in (9, 30, 1, 17)]
    ids = [system + question + tails[0], system + question + tails[1], system + tails[2], system + question, tails[3]]
    ids.append(ids[1])
    return [Rendered(row, [int(place % 4 == 1 or place == len(row) - 1) for place in range(len(row))]) for row in ids]


def test_losses_and_gradients_are_those_of_rows_apart(tiny_model: BaseModelRef) -> None:
    def run(*, share: bool) -> tuple[torch.Tensor, list[torch.Tensor], int]:
        base = load_frozen(tiny_model, "float32")
        torch.manual_seed(1)
        adapted = add_adapter(base, LoraSpec(rank=4, alpha=8.0, dropout=0.0, targets="all-linear"))
        weights = [weight for weight in adapted.parameters() if weight.requires_grad]
        for weight in weights:
            torch.nn.init.normal_(weight, std=0.1)
        packed = pack(shared_rows(), share_prefixes=share)
        found = packed_loss(base, packed)
        (found.losses * torch.arange(1.0, len(found.losses) + 1)).sum().backward()  # type: ignore[no-untyped-call]
        return found.losses.detach(), [weight.grad for weight in weights if weight.grad is not None], len(packed.ids)

    losses, gradients, computed = run(share=True)
    plain, plain_gradients, all_tokens = run(share=False)
    torch.testing.assert_close(losses, plain, rtol=1e-5, atol=1e-5)
    for mine, other in zip(gradients, plain_gradients, strict=True):
        assert (mine - other).norm() <= 1e-5 * other.norm()
    assert computed < 0.5 * all_tokens


@pytest.mark.parametrize(("length", "shared"), [(prefixes.LEAST_SHARED, True), (prefixes.LEAST_SHARED - 1, False)])
def test_short_beginnings_are_not_shared(length: int, shared: bool) -> None:
    rows = [[*range(length), 100], [*range(length), 200]]
    assert (len(lay_out(rows, share=True).segments) == 3) is shared
    assert shared_with(rows[0], rows[1:]) == (length if shared else 0)
