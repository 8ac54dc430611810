"""How likely answers are: what every method of preferences is made of. Knows rows and one forward pass."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunewise.data.template import Rendered
from tunewise.modeling.packing import pack, packed_loss, supervised_tokens
from tunewise.train.plan import PART_TOKENS


class Answers(NamedTuple):
    """Of some rows: `logps` (rows,), float64, differentiable: each answer's log-probability in nats, over its tokens.

    `lengths` (rows,): tokens of the answers; `correct` (supervised tokens,): whether each was predicted.
    """

    logps: Tensor
    lengths: Tensor
    correct: Tensor


def score(model: PreTrainedModel, rows: Sequence[Rendered], *, share_prefixes: bool) -> Answers:
    """The log-probabilities of rows' answers, in one forward pass."""
    packed = pack(rows, share_prefixes=share_prefixes)
    found = packed_loss(model, packed)
    logps = torch.zeros(len(rows), dtype=torch.float64).index_add(0, packed.row_of, -found.losses.double())
    lengths = torch.tensor([supervised_tokens(row) for row in rows], dtype=torch.float64)
    return Answers(logps, lengths, found.correct)


@torch.no_grad()
def score_apart(model: PreTrainedModel, rows: Sequence[Rendered]) -> list[float]:
    """The log-probabilities of many rows' answers, without a gradient and without dropout, in passes that fit."""
    was_training = model.training
    model.train(False)
    logps = [logp for part in _passes(rows) for logp in score(model, part, share_prefixes=True).logps.tolist()]
    model.train(was_training)
    return logps


def _passes(rows: Sequence[Rendered]) -> Iterator[list[Rendered]]:
    """Neighbours together, for they may begin alike, up to about as many tokens as a part of a step has."""
    part: list[Rendered] = []
    for row in rows:
        if part and sum(len(each.ids) for each in part) + len(row.ids) > PART_TOKENS:
            yield part
            part = []
        part.append(row)
    if part:
        yield part
