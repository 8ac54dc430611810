"""Room to train: what a run takes, and whether that is there beside the runs that train already.

Knows run directories, the processes that hold them, and this machine's free memory; knows no queue and no status. What
others on the machine hold, such as model servers, counts through what is free.
"""

from collections.abc import Sequence
from pathlib import Path

import psutil

from tunewise import planning
from tunewise.contracts.run import TrainSpec
from tunewise.errors import TrainingError
from tunewise.evaluate.wording import size
from tunewise.jobs import trainer
from tunewise.jobs.plan import expected
from tunewise.machine import Machine
from tunewise.settings import Settings

MEGABYTE = 2**20


def refuse_the_impossible(spec: TrainSpec, machine: Machine, settings: Settings) -> None:
    """Refuse a run that takes more than there will ever be.

    Raises:
        TrainingError: insufficient_memory.
    """
    allowed, least = settings.training_memory_mb, planning.least_memory(spec)
    if least > machine.memory_bytes:
        limit = f"this machine has {size(machine.memory_bytes)}"
    elif allowed is not None and least > allowed * MEGABYTE:
        limit = f"TUNEWISE_TRAINING_MEMORY_MB allows {size(allowed * MEGABYTE)}"
    else:
        return
    raise TrainingError(
        "insufficient_memory",
        f"Training {spec.base_model.name} in {spec.dtype} takes at least {size(least)} of memory, and {limit}; "
        f"choose {'fewer processes, ' if spec.processes > 1 else ''}a smaller base model, or train where there is more",
        param="model",
    )


def memory_wanted(run_dir: Path, beside: Sequence[Path]) -> int:
    """Bytes that must be free before the run starts beside those runs, all of them grown to what they will take.

    A run that trains alone computes its activations twice where they do not fit, and may start with less.
    """
    if not beside:
        return expected(run_dir).least_memory_bytes
    return expected(run_dir).memory_bytes + sum(map(_still_to_come, beside))


def memory_free(beside: Sequence[Path], settings: Settings) -> int:
    """Bytes that trainings may take beyond what those runs have taken."""
    available = psutil.virtual_memory().available
    if settings.training_memory_mb is None:
        return available
    return min(available, settings.training_memory_mb * MEGABYTE - sum(map(_taken, beside)))


def _still_to_come(run_dir: Path) -> int:
    return max(0, expected(run_dir).memory_bytes - _taken(run_dir))


def _taken(run_dir: Path) -> int:
    """Bytes that the run's trainer and its processes hold; none before it has started."""
    pid = trainer.pid_of(run_dir)
    if pid is None or not trainer.is_running(run_dir):
        return 0
    try:
        first = psutil.Process(pid)
        return sum(int(process.memory_info().rss) for process in [first, *first.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0
