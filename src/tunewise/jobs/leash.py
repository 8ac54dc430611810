"""`python leash.py PARENT COMMAND...`: run another program that must not outlive PARENT, however that ends.

Our own servers look after their parent themselves; a program of others is held by this one. SIGTERM is passed on; what
does not end by then is killed, with all that it has started. Imports nothing of ours, so that it stays small. Linux.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import FrameType

POLL_SECONDS = 0.2
GRACE_SECONDS = 120.0  # less than what whoever stopped us waits
PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> int:
    """Run the command; gives its exit code."""
    libc = ctypes.CDLL(None)

    def end_with_leash() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    # Nothing but this thread runs here, so that a function between fork and exec is safe.
    child = subprocess.Popen(command, start_new_session=True, preexec_fn=end_with_leash)  # noqa: PLW1509
    asked_at: float | None = None

    def ask_to_end(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked_at
        asked_at = asked_at or time.monotonic()
        child.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask_to_end)
    while child.poll() is None:
        if asked_at is None and os.getppid() != parent:
            ask_to_end(signal.SIGTERM, None)
        if asked_at is not None and time.monotonic() - asked_at > GRACE_SECONDS:
            child.kill()
        time.sleep(POLL_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # what the program has started and left
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
