"""The processes that share a run's steps, as one value: who this is, and what all of them know together.

Each computes a share of a step's units; sums over all make losses and gradients those of one process. A run in one
process is a world of one, in which nothing is sent. Knows nothing of rows, models or files.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import Store  # torch.distributed gives it without a type

from tunewise.contracts.run import RunFailure
from tunewise.errors import TrainingError, TunewiseError

# Gradients are sent in pieces of at most so many bytes; an adapter's fit into one.
PIECE_BYTES = 64 * 2**20
# A process may wait for the first to write a checkpoint, or for the others' longer rows.
PATIENCE = timedelta(hours=12)
_FAILURE = "failure"
_BROKEN_TEXTS = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "Broken pipe")


@dataclass(frozen=True)
class World:
    """`rank` of `size` processes, counted from 0; `store` is there where there are several.

    `in_step`: all of them must run the model equally often, as they hold its weights together.
    """

    rank: int = 0
    size: int = 1
    store: Store | None = None
    in_step: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return self.rank == 0

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let one process after the other through, as each takes much memory for a while."""
        for _ in range(self.rank):
            self._meet()
        yield
        for _ in range(self.rank, self.size):
            self._meet()

    def _meet(self) -> None:
        if self.size > 1:
            dist.barrier()

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Each number, summed over all processes; exact for counts below 2**53."""
        if self.size == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(sums)
        found: list[float] = sums.tolist()
        return found

    def any(self, flag: bool) -> bool:
        """Whether one of the processes says so; all get the same answer."""
        return self.sum([float(flag)])[0] > 0

    def sum_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Sum each weight's gradient over all processes; one that has none counts as zeros."""
        if self.size == 1:
            return
        for piece in _pieces([_gradient(weight) for weight in weights]):
            flat = torch.cat([gradient.flatten() for gradient in piece])
            dist.all_reduce(flat)
            totals = torch.split(flat, [gradient.numel() for gradient in piece])
            for gradient, total in zip(piece, totals, strict=True):
                gradient.copy_(total.view_as(gradient))

    def tell_failure(self, error: TunewiseError) -> None:
        """Leave word for the first of why this process ends, which it cannot see; it writes that down."""
        if self.store is not None and not isinstance(error, LostProcessError):
            failure = RunFailure(code=error.code, message=error.message, param=error.param)
            self.store.set(_FAILURE, failure.model_dump_json())

    def cause(self, error: BaseException) -> TunewiseError | None:
        """Why this process was cut off from another; None where `error` is another kind of error.

        What that process told before it ended is the cause; one that could tell nothing was killed.
        """
        if not isinstance(error, RuntimeError) or not any(text in str(error) for text in _BROKEN_TEXTS):
            return None
        told = self._told()
        return LostProcessError(self) if told is None else TrainingError(told.code, told.message, param=told.param)

    def _told(self) -> RunFailure | None:
        if self.store is None or not self.is_first or not self.store.check([_FAILURE]):
            return None
        return RunFailure.model_validate_json(self.store.get(_FAILURE))


class LostProcessError(TrainingError):
    """One of several processes was killed: no failure of the run's own, which goes on when it is started again."""

    exit_code = 75

    def __init__(self, world: World) -> None:
        super().__init__(
            "process_lost",
            f"one of the run's {world.size} processes has gone without a word; it may have been killed for want of "
            "memory. Start the run again: it goes on from its last checkpoint. Fewer processes take less memory",
        )


ALONE = World()


def join(store: Store, rank: int, size: int) -> World:
    """Meet the other processes, over gloo."""
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
    return World(rank, size, store)


def _gradient(weight: nn.Parameter) -> Tensor:
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def _pieces(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients in order, in lists of at most PIECE_BYTES and at least one."""
    piece: list[Tensor] = []
    held = 0
    for gradient in gradients:
        if piece and held + gradient.nbytes > PIECE_BYTES:
            yield piece
            piece, held = [], 0
        piece.append(gradient)
        held += gradient.nbytes
    if piece:
        yield piece
