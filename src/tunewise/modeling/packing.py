"""Rows to one packed sequence, and its loss under a model. Knows one forward pass; nothing of steps or files."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.data.template import Rendered
from tunewise.modeling.attention import Segment
from tunewise.modeling.head import head_of
from tunewise.modeling.loading import backbone
from tunewise.modeling.loss import TokenLoss, head_loss
from tunewise.modeling.noise import with_noise
from tunewise.modeling.prefixes import lay_out


class Packed(NamedTuple):
    """Rows end to end: `ids` and `positions` (tokens,), `predicts`, `targets` and `row_of` (supervised tokens,).

    `predicts` are the places whose hidden state predicts `targets`, tokens of the rows `row_of`; a place that rows
    share may stand there more than once. `segments` are what the rows are made of.
    """

    ids: Tensor
    positions: Tensor
    segments: tuple[Segment, ...]
    predicts: Tensor
    targets: Tensor
    row_of: Tensor


def pack(rows: Sequence[Rendered], *, share_prefixes: bool) -> Packed:
    """Lay rows end to end, what they begin with alike once where it may be shared.

    What follows a row's last supervised token, and that token itself, can influence no loss and is left out.
    """
    layout = lay_out([row.ids[: computed_tokens(row)] for row in rows], share=share_prefixes)
    predicts: list[int] = []
    targets: list[int] = []
    row_of: list[int] = []
    for number, (row, places) in enumerate(zip(rows, layout.places, strict=True)):
        trained = [at for at, on in enumerate(row.mask) if on and at > 0]
        predicts += [places[at - 1] for at in trained]
        targets += [row.ids[at] for at in trained]
        row_of += [number] * len(trained)
    return Packed(
        torch.tensor(layout.ids),
        torch.tensor(layout.positions),
        tuple(layout.segments),
        torch.tensor(predicts),
        torch.tensor(targets),
        torch.tensor(row_of),
    )


def supervised_tokens(row: Rendered) -> int:
    """Tokens of a row that carry loss; the first has nothing before it to be predicted from."""
    return sum(row.mask[1:])


def computed_tokens(row: Rendered) -> int:
    """Tokens of a row that its loss depends on: those before its last supervised one."""
    return len(row.mask) - 1 - row.mask[::-1].index(1)


def packed_loss(
    model: PreTrainedModel, packed: Packed, *, label_smoothing: float = 0.0, noise_alpha: float | None = None
) -> TokenLoss:
    """The loss of each supervised token of packed rows, under a model loaded with packed attention.

    `noise_alpha`: of noise on the embeddings of rows that share no prefix (see `noise`); None adds none.
    """
    inputs = {"input_ids": packed.ids[None]}
    if noise_alpha is not None:
        embed: nn.Module = model.get_input_embeddings()
        lengths = [segment.stop - segment.start for segment in packed.segments]
        inputs = {"inputs_embeds": with_noise(embed(packed.ids), lengths, noise_alpha)[None]}
    states: Tensor = backbone(model)(
        **inputs,
        position_ids=packed.positions[None],
        segments=packed.segments,
        use_cache=False,
    ).last_hidden_state
    head = head_of(model)
    return head_loss(
        states[0, packed.predicts],
        head.weight,
        packed.targets,
        label_smoothing=label_smoothing,
        bias=head.bias,
        cap=head.cap,
        rows=head.rows,
    )
