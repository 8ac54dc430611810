"""The tuned weights that a run has left, an adapter or a whole model: where they lie, and whether they are still what
training wrote. Knows no tensors.
"""

import hashlib
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from tunewise.contracts.run import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    MODEL_CONFIG_FILE,
    MODEL_WEIGHTS_FILE,
    RESULT_FILE,
    RunResult,
)
from tunewise.errors import ModelError

Kind: TypeAlias = Literal["adapter", "model"]
FILES: dict[Kind, tuple[str, str]] = {
    "adapter": (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE),
    "model": (MODEL_CONFIG_FILE, MODEL_WEIGHTS_FILE),
}


class TunedWeights(NamedTuple):
    """What a run has left: its directory, and the hash (sha256, hex) of its weights as training wrote them."""

    directory: Path
    sha256: str
    kind: Kind = "adapter"

    @property
    def identity(self) -> str:
        """What answers depend on: the run directory is named by everything that went in, the hash says what came out.

        The shape (`adapter_config.json`) follows from the former, the weights are the latter.
        """
        return f"{self.directory.parent.name}-{self.sha256}"


def kind_in(directory: Path) -> Kind:
    """What a directory of tuned weights holds; an adapter where it is not there."""
    return "model" if (directory / MODEL_CONFIG_FILE).is_file() else "adapter"


def missing_in(directory: Path) -> list[str]:
    """The files that hosting would need and that are not there."""
    return [name for name in FILES[kind_in(directory)] if not (directory / name).is_file()]


def weights_of(run_dir: Path, result: RunResult) -> TunedWeights:
    """The tuned weights of a run that has succeeded.

    Raises:
        ModelError: no_adapter.
    """
    if result.model is not None and result.model_sha256 is not None:
        return TunedWeights(run_dir / result.model, result.model_sha256, "model")
    if result.adapter is None or result.adapter_sha256 is None:
        raise ModelError("no_adapter", f"{run_dir / RESULT_FILE} names no adapter; {_train_anew(run_dir)}")
    return TunedWeights(run_dir / result.adapter, result.adapter_sha256)


def verified(weights: TunedWeights) -> Path:
    """The directory to host, once its weights are known to be those that were trained.

    Raises:
        ModelError: adapter_missing, adapter_changed.
    """
    path, run_dir = weights.directory / FILES[weights.kind][1], weights.directory.parent
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError("adapter_missing", f"{path}: {error.strerror}; {_train_anew(run_dir)}") from error
    if found != weights.sha256:
        raise ModelError(
            "adapter_changed",
            f"{path}: sha256 is {found}, but training wrote {weights.sha256}; put the file back, or "
            f"{_train_anew(run_dir)}",
        )
    return weights.directory


def _train_anew(run_dir: Path) -> str:
    return f"delete {run_dir / RESULT_FILE} and run again: the weights are written anew from the last checkpoint"
