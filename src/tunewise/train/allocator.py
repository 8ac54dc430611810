"""The C library's memory allocator, told what training does: give back each step what the next one takes again.

glibc returns large freed blocks to the system at once, which hands them out again page by page, each zeroed: tens of
thousands of page faults a step. The yield stands in docs/performance.md; what is kept is no more than the peak was.
"""

import ctypes
import logging

log = logging.getLogger(__name__)

# mallopt(3): the names are malloc.h's.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> None:
    """Keep freed memory for the next step; does nothing where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # TypeError: on Windows None names no library
        return
    # The first alone would have every block of 128 KB or more mapped by itself, which is far slower than the default.
    if not (mallopt(M_MMAP_THRESHOLD, LARGEST_INT) and mallopt(M_TRIM_THRESHOLD, LARGEST_INT)):
        log.info("the C library did not take the settings of its allocator")
