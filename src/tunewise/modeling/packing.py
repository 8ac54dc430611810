"""Rows to one packed sequence, and its loss under a model. Knows one forward pass; nothing of steps or files."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunewise.data.template import Rendered
from tunewise.modeling.loading import backbone, head_weight
from tunewise.modeling.loss import TokenLoss, head_loss


class Packed(NamedTuple):
    """Rows end to end: `ids` and `positions` (tokens,), `predicts`, `targets` and `row_of` (supervised tokens,).

    `predicts` are the places whose hidden state predicts `targets`, tokens of the rows `row_of`; `lengths` are the
    rows' lengths.
    """

    ids: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    predicts: Tensor
    targets: Tensor
    row_of: Tensor


def pack(rows: Sequence[Rendered]) -> Packed:
    """Lay rows end to end.

    What follows a row's last supervised token, and that token itself, can influence no loss and is left out.
    """
    ids: list[int] = []
    positions: list[int] = []
    lengths: list[int] = []
    predicts: list[int] = []
    targets: list[int] = []
    row_of: list[int] = []
    for number, row in enumerate(rows):
        trained = [at for at, on in enumerate(row.mask) if on and at > 0]
        length = trained[-1]
        predicts += [len(ids) + at - 1 for at in trained]
        targets += [row.ids[at] for at in trained]
        row_of += [number] * len(trained)
        ids += row.ids[:length]
        positions += range(length)
        lengths.append(length)
    return Packed(
        torch.tensor(ids),
        torch.tensor(positions),
        tuple(lengths),
        torch.tensor(predicts),
        torch.tensor(targets),
        torch.tensor(row_of),
    )


def supervised_tokens(row: Rendered) -> int:
    """Tokens of a row that carry loss; the first has nothing before it to be predicted from."""
    return sum(row.mask[1:])


def packed_loss(model: PreTrainedModel, packed: Packed) -> TokenLoss:
    """The loss of each supervised token of packed rows, under a model loaded with packed attention."""
    states: Tensor = backbone(model)(
        input_ids=packed.ids[None],
        position_ids=packed.positions[None],
        row_lengths=packed.lengths,
        use_cache=False,
    ).last_hidden_state
    return head_loss(states[0, packed.predicts], head_weight(model), packed.targets)
