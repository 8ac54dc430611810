"""Checkpoints: all that a run needs to go on as if it had never stopped. Whole or absent, never half.

A checkpoint is an adapter directory (it can be hosted and tuned further) with the optimizer's state, torch's random
state and the run's progress beside it. The batch plan and the learning rate are pure functions of the step and need
no state. Knows nothing of rows or losses.
"""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.optim import Optimizer

from tunewise.contracts.run import ADAPTER_WEIGHTS_FILE, OPTIMIZER_FILE, PROGRESS_FILE, ParentAdapter, TrainSpec
from tunewise.errors import TrainingError
from tunewise.train.adapter import write_adapter
from tunewise.train.journal import make_directory_whole, remove_directory, write_synced
from tunewise.train.progress import Progress

KEPT_EPOCHS = 3
RANDOM_STATE = "torch_random_state"


def directory_of(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return checkpoints / f"step-{step}"


def steps_on_disk(checkpoints: Path) -> list[int]:
    """The steps that have a checkpoint, oldest first."""
    return sorted(int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*"))


def save_checkpoint(
    checkpoints: Path, model: PeftModel, optimizer: Optimizer, spec: TrainSpec, progress: Progress
) -> None:
    """Write the checkpoint of `progress.step`.

    Raises:
        OSError: the disk is full; older checkpoints are as they were.
    """

    def fill(directory: Path) -> None:
        write_adapter(directory, model, spec, progress)
        write_synced(directory / OPTIMIZER_FILE, save(_optimizer_tensors(optimizer)))
        write_synced(directory / PROGRESS_FILE, progress.model_dump_json(indent=1).encode())

    make_directory_whole(directory_of(checkpoints, progress.step), fill)


def load_checkpoint(directory: Path, model: PeftModel, optimizer: Optimizer) -> Progress:
    """Put model, optimizer and torch's random state back to where the checkpoint was written.

    Raises:
        TrainingError: unreadable_checkpoint.
    """
    progress, weights, state = _read(directory)
    set_peft_model_state_dict(model, weights)
    torch.set_rng_state(state.pop(RANDOM_STATE))
    _restore_optimizer(optimizer, state)
    return progress


def load_weights(directory: Path, model: PeftModel) -> Progress:
    """Put the adapter's weights, and nothing else, back to where a checkpoint was written; how far the run was then.

    Raises:
        TrainingError: unreadable_checkpoint.
    """
    progress, weights, _ = _read(directory)
    set_peft_model_state_dict(model, weights)
    return progress


def load_parent(parent: ParentAdapter, model: PeftModel) -> None:
    """Begin where another adapter ended.

    Raises:
        TrainingError: unreadable_parent, changed_parent, parent_does_not_fit.
    """
    path = parent.path / ADAPTER_WEIGHTS_FILE
    try:
        data = path.read_bytes()
        weights = load(data)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            "unreadable_parent", f"{path}: cannot be read: {error}; start from another model"
        ) from error
    found = sha256(data).hexdigest()
    if found != parent.sha256:
        raise TrainingError(
            "changed_parent", f"{path}: sha256 is {found}, but the run was made for {parent.sha256}; restore the file"
        )
    wanted = {name: tensor.shape for name, tensor in get_peft_model_state_dict(model).items()}
    if wanted != {name: tensor.shape for name, tensor in weights.items()}:
        raise TrainingError(
            "parent_does_not_fit",
            f"{path}: its weights do not have the names and shapes of this run's adapter; tune it further with the "
            "base model, rank and targets that it was made with",
            param="model",
        )
    set_peft_model_state_dict(model, weights)


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


def _read(directory: Path) -> tuple[Progress, dict[str, Tensor], dict[str, Tensor]]:
    """Progress, adapter weights and optimizer state, all of them or none."""
    try:
        progress = Progress.model_validate_json((directory / PROGRESS_FILE).read_bytes())
        weights = load((directory / ADAPTER_WEIGHTS_FILE).read_bytes())
        state = load((directory / OPTIMIZER_FILE).read_bytes())
    except (OSError, ValidationError, SafetensorError) as error:
        raise TrainingError(
            "unreadable_checkpoint",
            f"{directory}: this checkpoint cannot be read: {error}; remove the directory to go on from the one before",
        ) from error
    return progress, weights, state


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
