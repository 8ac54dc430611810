"""Tensors to a safetensors file as they lie in memory, without a copy; a full disk is an OSError, as everywhere."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

# How safetensors ends the message of what the system refused.
_REFUSED = re.compile(r"\(os error (\d+)\)")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a file and return when it is on the disk. Raises OSError where it does not fit."""
    with naming_a_full_disk(path):
        save_file(dict(tensors), path, metadata={"format": "pt"})
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def naming_a_full_disk(path: Path) -> Iterator[None]:
    """Turn what safetensors tells of the system's refusals into the system's own error."""
    try:
        yield
    except SafetensorError as error:
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise
        raise OSError(int(refused[1]), os.strerror(int(refused[1])), str(path)) from error
