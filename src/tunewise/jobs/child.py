"""A process of the compute plane: `python -m MODULE`, in a session of its own, what it says appended to a log.

Ctrl-C reaches it only through whoever started it, as SIGTERM, so that it can stop cleanly. Knows nothing of what
it does.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tunewise.settings import environment, environment_without

SPINS = "30000"  # GNU's OpenMP counts 100,000 a millisecond
LEASH = Path(__file__).with_name("leash.py")


def start_child(
    module: str, arguments: Sequence[str], log: Path, *, files: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """`files`: descriptors that the child inherits.

    Its threads wait for each other awake for a third of a millisecond, which is longer than the code between two matrix
    products of one answer, and then sleep. OpenMP would have them spin on for milliseconds: beside another busy process
    a spinning thread keeps the core from the one that it waits for.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-u", "-m", module, *arguments],
            env=environment(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT=SPINS),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(files),
        )


def start_leashed(command: Sequence[str], log: Path, **added: str) -> subprocess.Popen[bytes]:
    """Another program, as `jobs.leash` holds it: it ends with this process. `added`: to its environment.

    This Python's own path is not for another one.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-u", str(LEASH), str(os.getpid()), *command],
            env=environment_without("PYTHONPATH", **added),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
