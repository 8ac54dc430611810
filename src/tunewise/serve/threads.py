"""Which thread computes. OpenMP gives every thread that computes a team of its own, which stays while that thread does.

Where all teams together are more than the machine's cores, waiting threads give their core up at once, and each of a
step's hundreds of parallel loops pays for waking one: a step of one answer took 1.5 times as long. So one thread
computes at a time, and whoever is done with it ends.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def aside(work: Callable[[], Result]) -> Result:
    """Do some work on a thread of its own, which ends with it, and its team too."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="aside") as own:
        return own.submit(work).result()
