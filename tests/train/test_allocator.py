"""Memory that a step frees is there for the next one without new pages."""

import platform
import subprocess
import sys

import pytest

# A process of its own, as settings of the allocator stay. 64 MB are larger than what glibc keeps by itself.
PROGRAM = """
import resource, sys
import torch
from tunewise.train.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for step in range(12):
    if step == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_memory_is_used_again() -> None:
    pages = 10 * (64 << 20) // 4096
    assert faults("kept") < min(pages / 20, faults("default"))
