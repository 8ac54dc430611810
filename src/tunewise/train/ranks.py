"""A run in several processes of this machine: the first forks the others, and they end with it.

The first holds the run directory's lock, takes signals and writes files, so that from outside a run of several is a run
of one. The others inherit the lock (the directory is not free before the last has ended) and are killed with the first.
They meet in a file of the run directory and talk over the loopback interface only. `torchrun` may start them instead.
Knows nothing of what a run computes.
"""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import TypeAlias

from torch._C._distributed_c10d import FileStore
from torch.distributed.rendezvous import rendezvous

from tunewise.settings import set_environment
from tunewise.train.world import World, join

log = logging.getLogger(__name__)

MEETING_FILE = ".ranks"
# Of Linux' prctl(2): the signal that the kernel sends when the parent has ended.
_PR_SET_PDEATHSIG = 1
_LEAVE_SECONDS = 10.0
Work: TypeAlias = Callable[[World], int]
"""What each process does; its exit code."""


def run_in_processes(directory: Path, size: int, work: Work) -> int:
    """Do the work as the first of `size` processes; its exit code.

    Forked, the others are there in a moment and share the memory of what is imported; nothing has been computed yet,
    so that no thread of torch's is lost.
    """
    meeting = directory / MEETING_FILE
    meeting.unlink(missing_ok=True)
    set_environment(GLOO_SOCKET_IFNAME="lo")
    fork = multiprocessing.get_context("fork")
    others = [
        fork.Process(target=_be_rank, args=(meeting, rank, size, work, os.getpid()), name=f"rank {rank}", daemon=True)
        for rank in range(1, size)
    ]
    for other in others:
        other.start()
    try:
        return work(join(FileStore(str(meeting), size), 0, size))
    finally:
        _see_off(others)
        meeting.unlink(missing_ok=True)


def _be_rank(meeting: Path, rank: int, size: int, work: Work, parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    sys.exit(work(join(FileStore(str(meeting), size), rank, size)))


def _see_off(others: list[ForkProcess]) -> None:
    """Return when all have ended; one that does not end by itself is made to."""
    for other in others:
        other.join(_LEAVE_SECONDS)
        if other.exitcode is None:
            other.kill()
            other.join()
        if other.exitcode:
            how = f"was killed by signal {-other.exitcode}" if other.exitcode < 0 else f"ended with {other.exitcode}"
            log.error("%s (process %s) %s", other.name, other.pid, how)


def run_under_torchrun(work: Work) -> int:
    """Do the work as the process that `torchrun` has made of this one; its exit code."""
    store, rank, size = next(rendezvous("env://"))
    return work(join(store, rank, size))
