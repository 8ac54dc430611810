"""Many threads that begin at the same moment."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

Given = TypeVar("Given")


def at_once(count: int, act: Callable[[int], Given]) -> list[Given]:
    """What `act` gives for each number below `count`, all called at the same moment; its first error is raised."""
    barrier = Barrier(count)

    def begin(number: int) -> Given:
        barrier.wait(30)
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))
