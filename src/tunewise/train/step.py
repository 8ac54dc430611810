"""One optimizer step's gradient, and the loss on rows that are not trained on. Knows units and parts; no files."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel

from tunewise.errors import TrainingError
from tunewise.modeling.prefixes import shared_with
from tunewise.train.criterion import Criterion, Tally, Unit
from tunewise.train.plan import parts, share
from tunewise.train.world import ALONE, World


def accumulate_gradients(
    model: PreTrainedModel, criterion: Criterion, units: Sequence[Unit], chosen: Sequence[int], world: World = ALONE
) -> Tally:
    """Add the gradient of the chosen units' mean loss, whatever the parts and processes they run in.

    Raises:
        TrainingError: loss_not_finite.
    """
    size = sum(criterion.size(units[unit]) for unit in chosen)
    tally = Tally()
    criterion.prepare(model, [units[unit] for unit in chosen])
    for part in _own_parts(criterion, units, chosen, world):
        found = criterion.loss(model, part.units)
        (found.total * part.counts / size).backward()  # type: ignore[no-untyped-call]
        tally = tally.plus(found.tally) if part.counts else tally
    world.sum_gradients([weight for weight in model.parameters() if weight.requires_grad])
    tally = _over_all(world, tally)
    if not torch.isfinite(torch.tensor(tally.loss_sum)):
        raise _not_finite(f"the training loss is {tally.loss_sum}")
    return tally


def clip_gradients(parameters: Sequence[Tensor], max_norm: float) -> None:
    """Scale gradients so that their norm is at most `max_norm`.

    Raises:
        TrainingError: loss_not_finite (the norm is not).
    """
    norm = clip_grad_norm_(parameters, max_norm)
    if not torch.isfinite(norm):
        raise _not_finite(f"the gradient's norm is {norm.item()}")


@torch.no_grad()
def evaluate(
    model: PreTrainedModel, criterion: Criterion, units: Sequence[Unit], chosen: Sequence[int], world: World = ALONE
) -> Tally:
    """The loss and accuracy on the chosen units, without dropout and without a gradient."""
    was_training = model.training
    model.train(False)
    criterion.prepare(model, [units[unit] for unit in chosen])
    tally = Tally()
    for part in _own_parts(criterion, units, chosen, world):
        found = criterion.loss(model, part.units)
        tally = tally.plus(found.tally) if part.counts else tally
    model.train(was_training)
    return _over_all(world, tally)


def _parts(criterion: Criterion, units: Sequence[Unit], chosen: Sequence[int]) -> Iterator[list[Unit]]:
    def cost(unit: int, members: Sequence[int]) -> int:
        if not criterion.share_prefixes:
            return units[unit].tokens
        others = [row.ids for member in members for row in units[member].rows]
        tokens = 0
        for row in units[unit].rows:
            tokens += len(row.ids) - shared_with(row.ids, others)
            others.append(row.ids)
        return tokens

    for part in parts(chosen, cost):
        yield [units[unit] for unit in part]


class _Part(NamedTuple):
    """Units that are computed at once; those that do not count keep this process in step with the others."""

    units: list[Unit]
    counts: bool


def _own_parts(criterion: Criterion, units: Sequence[Unit], chosen: Sequence[int], world: World) -> Iterator[_Part]:
    """The parts that this process computes; in step, as many as the process with most."""
    lengths = {unit: units[unit].tokens for unit in chosen}

    def parts_of(rank: int) -> list[list[Unit]]:
        return list(_parts(criterion, units, share(chosen, lengths, rank=rank, size=world.size)))

    own = parts_of(world.rank)
    yield from (_Part(part, counts=True) for part in own)
    if world.in_step:
        most = max(len(parts_of(rank)) for rank in range(world.size))
        shortest = units[min(chosen, key=lambda unit: (lengths[unit], unit))]
        yield from [_Part([shortest], counts=False)] * (most - len(own))


def _over_all(world: World, tally: Tally) -> Tally:
    return Tally._make(type(own)(total) for own, total in zip(tally, world.sum(tally), strict=True))


def _not_finite(found: str) -> TrainingError:
    return TrainingError(
        "loss_not_finite",
        f"{found}: the run has diverged; lower the learning rate (learning_rate_multiplier), "
        "and look at the rows of this step",
        param="learning_rate_multiplier",
    )
