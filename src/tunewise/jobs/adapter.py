"""The adapter that a run has left: where it lies, and whether it is still what training wrote. Knows no tensors."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from tunewise.contracts.run import ADAPTER_WEIGHTS_FILE, RESULT_FILE, RunResult
from tunewise.errors import ModelError


class Adapter(NamedTuple):
    """A run's adapter: its directory, and the hash (sha256, hex) of its weights as training wrote them."""

    directory: Path
    sha256: str

    @property
    def identity(self) -> str:
        """What answers depend on: the run directory is named by everything that went in, the hash says what came out.

        The shape (`adapter_config.json`) follows from the former, the weights are the latter.
        """
        return f"{self.directory.parent.name}-{self.sha256}"


def adapter_of(run_dir: Path, result: RunResult) -> Adapter:
    """The adapter of a run that has succeeded.

    Raises:
        ModelError: no_adapter.
    """
    if result.adapter is None or result.adapter_sha256 is None:
        raise ModelError("no_adapter", f"{run_dir / RESULT_FILE} names no adapter; {_train_anew(run_dir)}")
    return Adapter(run_dir / result.adapter, result.adapter_sha256)


def verified(adapter: Adapter) -> Path:
    """The directory to host, once its weights are known to be those that were trained.

    Raises:
        ModelError: adapter_missing, adapter_changed.
    """
    weights, run_dir = adapter.directory / ADAPTER_WEIGHTS_FILE, adapter.directory.parent
    try:
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError("adapter_missing", f"{weights}: {error.strerror}; {_train_anew(run_dir)}") from error
    if found != adapter.sha256:
        raise ModelError(
            "adapter_changed",
            f"{weights}: sha256 is {found}, but training wrote {adapter.sha256}; put the file back, or "
            f"{_train_anew(run_dir)}",
        )
    return adapter.directory


def _train_anew(run_dir: Path) -> str:
    return f"delete {run_dir / RESULT_FILE} and run again: the adapter is written anew from the last checkpoint"
