"""Rows that are packed give the loss that each gives alone, padded, in plain `transformers`."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from tunewise.contracts.run import BaseModelRef
from tunewise.data.template import Rendered
from tunewise.modeling.attention import Segment
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.packing import pack, packed_loss, supervised_tokens


def make_rows() -> list[Rendered]:
    torch.manual_seed(0)
    rows = []
    for length in (5, 40, 17):
        ids = torch.randint(3, 49152, (length,)).tolist()
        mask = [int(place % 5 in (2, 3)) for place in range(length)]
        rows.append(Rendered(ids, mask))
    return [*rows, Rendered([7, 8, 9], [1, 1, 0])]


def plain_loss(model: torch.nn.Module, row: Rendered) -> float:
    labels = torch.tensor([i if on else -100 for i, on in zip(row.ids, row.mask, strict=True)])
    logits = model(input_ids=torch.tensor([row.ids])).logits[0]
    return cross_entropy(logits[:-1], labels[1:], reduction="sum").item()


@torch.no_grad()
def test_packed_loss_equals_the_sum_of_plain_losses(tiny_model: BaseModelRef) -> None:
    rows = make_rows()
    packed = packed_loss(load_frozen(tiny_model, "float32"), pack(rows, share_prefixes=True))
    plain = load_frozen(tiny_model, "float32", attention="sdpa")
    assert packed.losses.sum().item() == pytest.approx(sum(plain_loss(plain, row) for row in rows), rel=1e-6)


@torch.no_grad()
def test_a_rows_loss_does_not_depend_on_its_neighbours(tiny_model: BaseModelRef) -> None:
    model, rows = load_frozen(tiny_model, "float32"), make_rows()
    alone = sum(packed_loss(model, pack([row], share_prefixes=True)).losses.sum().item() for row in rows)
    together = [
        packed_loss(model, pack(order, share_prefixes=True)).losses.sum().item() for order in (rows, rows[::-1])
    ]
    assert together == pytest.approx([alone, alone], rel=1e-6)


def test_what_follows_the_last_supervised_token_is_not_computed() -> None:
    packed = pack([Rendered([5, 6, 7, 8, 9], [0, 0, 1, 1, 0]), Rendered([1, 2], [0, 1])], share_prefixes=True)
    assert packed.ids.tolist() == [5, 6, 7, 1]
    assert packed.positions.tolist() == [0, 1, 2, 0]
    assert packed.segments == (Segment(0, 3), Segment(3, 4))
    assert packed.predicts.tolist() == [1, 2, 3]
    assert packed.targets.tolist() == [7, 8, 2]
    assert packed.row_of.tolist() == [0, 0, 1]


def test_the_first_token_of_a_row_cannot_be_predicted() -> None:
    row = Rendered([5, 6], [1, 1])
    assert supervised_tokens(row) == 1
    assert pack([row], share_prefixes=True).targets.tolist() == [6]
