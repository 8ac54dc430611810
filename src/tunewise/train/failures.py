"""What can go wrong outside our own code, as named errors with a remedy. Knows exceptions; knows no run."""

import errno

import torch

from tunewise.errors import TrainingError, TunewiseError

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What torch's and oneDNN's allocators say; they raise plain RuntimeError on a CPU.
OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "not enough memory", "could not create a memory object", "bad_alloc")


def named(error: BaseException) -> TunewiseError | None:
    """The TunewiseError that stands for an exception, or None where it is a fault of ours."""
    match error:
        case TunewiseError():
            return error
        case MemoryError() | torch.OutOfMemoryError():
            return _out_of_memory(error)
        case RuntimeError() if any(text in str(error) for text in OUT_OF_MEMORY_TEXTS):
            return _out_of_memory(error)
        case OSError(errno=code) if code in FULL_DISK:
            return TrainingError(
                "disk_full",
                f"the disk is full ({error}); free some space and start the run again: "
                "it goes on from its last checkpoint",
            )
        case OSError(errno=errno.ENOMEM):
            return _out_of_memory(error)
        case _:
            return None


def _out_of_memory(error: BaseException) -> TrainingError:
    return TrainingError(
        "out_of_memory",
        f"memory ran out ({str(error)[:200] or type(error).__name__}); shorten the longest rows, lower the LoRA rank, "
        "or choose a smaller base model; the run goes on from its last checkpoint when started again",
    )
