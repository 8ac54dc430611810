"""Reference log-probabilities: what the model that a run begins with makes of its answers, computed once and kept.

They are written into the run directory before the first step, under the hashes of all that they depend on, and read
again by whoever goes on with the run: by then the first weights are gone, and computing them with the later ones would
compare the model with itself. The model that a run begins with is the base model under a fresh adapter, which changes
nothing yet, or under the parent's adapter; with an adapter that begins at the weights' principal components, the sum of
both is the base model too. So it is always the whole model, as it is before the first step.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers import PreTrainedModel

from tunewise.contracts.run import REFERENCE_FILE, TrainSpec
from tunewise.data.template import Rendered
from tunewise.errors import TrainingError
from tunewise.train.criterion import Unit
from tunewise.train.journal import write_whole
from tunewise.train.methods.answers import score_apart

SECONDS = "seconds"


class Reference(NamedTuple):
    """Log-probabilities in nats, of each unit's rows and mismatched rows in turn; and the seconds that they took."""

    train: list[float]
    valid: list[float]
    seconds: float


def read_reference(directory: Path, spec: TrainSpec) -> Reference | None:
    """What was computed when the run began; None where nothing was, or it was for other inputs.

    Raises:
        TrainingError: unreadable_reference.
    """
    path = directory / REFERENCE_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            noted = file.metadata()
            train, valid = (file.get_tensor(name).tolist() for name in ("train", "valid"))
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            "unreadable_reference", f"{path}: cannot be read: {error}; remove the run directory's files and start again"
        ) from error
    seconds = float(noted.pop(SECONDS))
    return Reference(train, valid, seconds) if noted == _inputs(spec) else None


def make_reference(model: PreTrainedModel, train: Sequence[Unit], valid: Sequence[Unit]) -> Reference:
    """Compute them; `model` is as it is before the first step."""
    began = time.monotonic()
    of_train, of_valid = (score_apart(model, list(_rows(units))) for units in (train, valid))
    return Reference(of_train, of_valid, time.monotonic() - began)


def keep_reference(directory: Path, spec: TrainSpec, found: Reference) -> None:
    """Write them into the run directory, by rename.

    Raises:
        OSError: the disk is full.
    """
    tensors = {"train": _tensor(found.train), "valid": _tensor(found.valid)}
    metadata = {**_inputs(spec), SECONDS: repr(found.seconds)}
    write_whole(directory / REFERENCE_FILE, save(tensors, metadata=metadata))


def lost_reference(directory: Path) -> TrainingError:
    """A run that has taken steps cannot find out any more what its first weights made of the answers."""
    return TrainingError(
        "missing_reference",
        f"{directory / REFERENCE_FILE}: the run's reference log-probabilities are gone, or are of other files; put the "
        "file back, or remove the checkpoints to start again",
    )


def with_reference(units: Iterable[Unit], logps: Sequence[float]) -> list[Unit]:
    """The units, each with its own log-probabilities."""
    rest = iter(logps)
    return [unit._replace(reference=tuple(next(rest) for _ in _rows([unit]))) for unit in units]


def _rows(units: Iterable[Unit]) -> Iterator[Rendered]:
    return (row for unit in units for row in (*unit.rows, *unit.mismatched))


def _tensor(logps: Sequence[float]) -> torch.Tensor:
    return torch.tensor(logps, dtype=torch.float64)


def _inputs(spec: TrainSpec) -> dict[str, str]:
    """All that reference log-probabilities depend on."""
    return {
        "train": spec.train_file.sha256,
        "valid": spec.valid_file.sha256 if spec.valid_file else "",
        "base_model": spec.base_model.revision,
        "parent": spec.parent.sha256 if spec.parent else "",
        "rows": f"{spec.objective.type} {spec.max_tokens} {spec.overlong} {spec.dtype}",
    }
