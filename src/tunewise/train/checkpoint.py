"""Checkpoints: all that a run needs to go on as if it had never stopped. Whole or absent, never half.

A checkpoint is an adapter's or a model's directory (it can be hosted and tuned further) with the optimizer's state,
torch's random state and the run's progress beside it. The batch plan and the learning rate are pure functions of the
step and need no state. Knows nothing of rows or losses.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Optimizer

from tunewise.contracts.run import OPTIMIZER_FILE, PROGRESS_FILE, TrainSpec
from tunewise.train.journal import make_directory_whole, remove_directory, write_synced
from tunewise.train.progress import Progress
from tunewise.train.tensors import write_tensors
from tunewise.train.tuned import Tuned, unreadable, write_tuned

RANDOM_STATE = "torch_random_state"


def directory_of(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return checkpoints / f"step-{step}"


def steps_on_disk(checkpoints: Path) -> list[int]:
    """The steps that have a checkpoint, oldest first."""
    return sorted(int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*"))


def save_checkpoint(checkpoints: Path, model: Tuned, optimizer: Optimizer, spec: TrainSpec, progress: Progress) -> None:
    """Write the checkpoint of `progress.step`.

    Raises:
        OSError: the disk is full; older checkpoints are as they were.
    """

    def fill(directory: Path) -> None:
        write_tuned(directory, model, spec, progress)
        write_tensors(directory / OPTIMIZER_FILE, _optimizer_tensors(optimizer))
        write_synced(directory / PROGRESS_FILE, progress.model_dump_json(indent=1).encode())

    make_directory_whole(directory_of(checkpoints, progress.step), fill)


def load_checkpoint(directory: Path, optimizer: Optimizer) -> Progress:
    """Put the optimizer and torch's random state back to where the checkpoint was written.

    Raises:
        TrainingError: unreadable_checkpoint.
    """
    try:
        state = {name: tensor.clone() for name, tensor in load_file(directory / OPTIMIZER_FILE).items()}
    except (OSError, SafetensorError) as error:
        raise unreadable(directory, error) from error
    torch.set_rng_state(state.pop(RANDOM_STATE))
    _restore_optimizer(optimizer, state)
    return read_progress(directory)


def read_progress(directory: Path) -> Progress:
    """How far the run was when the checkpoint was written.

    Raises:
        TrainingError: unreadable_checkpoint.
    """
    try:
        return Progress.model_validate_json((directory / PROGRESS_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise unreadable(directory, error) from error


def kept_epochs(spec: TrainSpec) -> int:
    """Of how many epochs the checkpoints are kept; one of a whole model is three times its size."""
    return 2 if spec.weights == "full" else 3


def prune(checkpoints: Path, keep: Iterable[int]) -> None:
    """Remove every checkpoint but those of the steps to keep, and what a kill has left half-done."""
    kept = set(keep)
    for step in steps_on_disk(checkpoints):
        if step not in kept:
            remove_directory(directory_of(checkpoints, step))
    remove_leftovers(checkpoints)


def remove_leftovers(parent: Path) -> None:
    """Remove directories that were being written or removed when the process was killed."""
    for pattern in (".*.aside", ".*.gone"):
        for path in parent.glob(pattern):
            remove_directory(path) if path.is_dir() else path.unlink()


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    tensors = {RANDOM_STATE: torch.get_rng_state()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"{index}.{name}": tensor for name, tensor in moments.items()}
    return tensors


def _restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
