"""The machine: cores, memory, number formats, and how fast it multiplies matrices. Knows nothing of models or jobs."""

import platform
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil

from tunewise.contracts.frozen import Frozen
from tunewise.errors import TrainingError

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_PROBE_SIZE = 1024
_PROBE_SECONDS = 0.15


class Machine(Frozen):
    """What `planning` needs to know of the hardware."""

    name: str
    cores: int
    memory_bytes: int
    bfloat16: bool
    gflops: float


def probe() -> Machine:
    """Look at the hardware and multiply float32 matrices for about 0.2 seconds."""
    return Machine(
        name=_cpu_name(),
        cores=psutil.cpu_count(logical=False) or 1,
        memory_bytes=psutil.virtual_memory().total,
        bfloat16=bool(_cpu_flags() & _BF16_FLAGS),
        gflops=_measure_gflops(),
    )


def share(machine: Machine, among: int) -> Machine:
    """What one of so many trainers has: cores of its own, and the memory with the others.

    Threads that share a core wait for each other at the end of every matrix product.
    """
    cores = max(1, machine.cores // among)
    return machine.model_copy(update={"cores": cores, "gflops": machine.gflops * cores / machine.cores})


def refuse_missing_quantization() -> None:
    """Refuse 4-bit weights where nothing computes with them; bitsandbytes does, on CPUs and GPUs alike.

    Raises:
        TrainingError: qlora_unavailable.
    """
    if find_spec("bitsandbytes") is None:
        raise TrainingError(
            "qlora_unavailable",
            "weights: 'qlora' computes with 4-bit weights of the package bitsandbytes, which is not installed here; "
            "run pip install 'tunewise[qlora]', or choose weights 'lora', which is faster where memory allows",
            param="weights",
        )


@cache
def this_machine() -> Machine:
    """What runs here; looked at once in a process, as the probe takes a moment."""
    return probe()


def _cpu_fields() -> dict[str, str]:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return {}
    first = cpuinfo.read_text().split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip().lower(): value.strip() for key, value in pairs}


def _cpu_flags() -> set[str]:
    fields = _cpu_fields()
    return set((fields.get("flags") or fields.get("features") or "").split())


def _cpu_name() -> str:
    return _cpu_fields().get("model name") or platform.processor() or platform.machine()


def _measure_gflops() -> float:
    left = np.full((_PROBE_SIZE, _PROBE_SIZE), 0.5, dtype=np.float32)
    left @ left
    rounds, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < _PROBE_SECONDS:
        left @ left
        rounds += 1
    return 2 * _PROBE_SIZE**3 * rounds / elapsed / 1e9
