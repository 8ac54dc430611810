"""A process that has imported torch and forks trainers, workers and model servers, in a tenth of a second and not ten.

What runs in them is the product's own code; the files that are handed over (a run's lock) are the asker's own. A child
belongs to this process, so that it outlives a worker that is killed, as a started trainer does.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.context import ForkProcess
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import NamedTuple, cast


class Forked(NamedTuple):
    """A child of the nursery, watched from elsewhere; as far as the product looks at it, a `subprocess.Popen`."""

    pid: int

    def poll(self) -> int | None:
        return None if is_alive(self.pid) else 0

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (timeout or float("inf"))
        while is_alive(self.pid):
            if time.monotonic() > deadline:
                raise TimeoutExpired("a child of the nursery", timeout or 0.0)
            time.sleep(0.01)
        return 0

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Whether there is such a process; the nursery's own are gone as soon as they end."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Nursery:
    """Started once for all tests of a session."""

    def __init__(self, directory: Path) -> None:
        self.address = directory / "nursery"
        self._process = Popen([sys.executable, __file__, str(self.address)])
        while not self.address.exists():
            time.sleep(0.01)

    def close(self) -> None:
        """End it; its children go on."""
        self._process.kill()
        self._process.wait()


def ask(address: Path, module: str, arguments: list[str], log: Path, files: list[int]) -> int:
    """Fork `module.main(arguments, files)`, which says what it says to `log`; its process id."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(address))
        socket.send_fds(asking, ["\0".join([module, str(log), *arguments]).encode()], files)
        return int(asking.recv(32))


def main(address: str) -> None:
    """Answer until killed."""
    # The system forgets children as they end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        import tunewise.jobs.study
        import tunewise.jobs.worker
        import tunewise.serve.__main__
        import tunewise.train.__main__  # noqa: F401

        while True:
            asking, _ = listening.accept()
            with asking:
                request, files, _, _ = socket.recv_fds(asking, 65536, 4)
                pid = os.fork()
                if pid == 0:
                    _be(request.decode().split("\0"), files)
                asking.sendall(str(pid).encode())
            for file in files:
                os.close(file)


def _be(request: list[str], files: list[int]) -> None:
    """Become the child."""
    module, log, *arguments = request
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with Path(log).open("a") as told:
        os.dup2(told.fileno(), 1)
        os.dup2(told.fileno(), 2)
    code = 1
    try:
        code = ROLES[module](arguments, files)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - the edge of a process
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def be_trainer(arguments: list[str], files: list[int]) -> int:
    """`python -m tunewise.train`."""
    from tunewise.train.__main__ import main

    take_one_core()
    return main([*arguments, "--lock", str(files[0])])


def be_server(arguments: list[str], _files: list[int]) -> int:
    """`python -m tunewise.serve`; the parent that it must not outlive is this process."""
    from tunewise.serve.__main__ import main

    take_one_core()
    return main([*arguments, "--exit-with-parent", str(os.getppid())])


def take_one_core() -> None:
    """Compute in one thread: processes that share cores wait for each other most of the time."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})


def be_worker(arguments: list[str], files: list[int]) -> int:
    """`tunewise worker`, whose trainers are forked too."""
    from tunewise.cli.worker import leaves, log_as_json
    from tunewise.jobs.platform import open_platform
    from tunewise.jobs.worker import Worker
    from tunewise.settings import Settings

    address, clock_shift, settings = arguments
    clock = time.time
    time.time = lambda: clock() + int(clock_shift)
    log_as_json()
    platform = open_platform(Settings.model_validate_json(settings))
    spawn_trainer, spawn_study = (spawner(Path(address), role) for role in ("trainer", "study"))
    Worker(platform, spawn_trainer, spawn_study).run(leaves(None))
    return 0


def be_study(arguments: list[str], files: list[int]) -> int:
    """`python -m tunewise.jobs.study`, whose model servers are its own forks: torch is imported already."""
    from tunewise.jobs import launch, study

    launch._child = forked_server
    return study.main([*arguments, "--lock", str(files[0])])


@contextmanager
def forked_server(arguments: list[str], log: Path) -> Iterator[Popen[bytes]]:
    """`python -m tunewise.serve` as a child of this process, and ended as `launch` ends its own."""
    from tunewise.jobs import launch
    from tunewise.serve.__main__ import main as serve

    process = multiprocessing.get_context("fork").Process(target=_serve, args=(serve, arguments, log))
    process.start()
    try:
        yield cast("Popen[bytes]", Server(process))
    finally:
        launch._stop(cast("Popen[bytes]", Server(process)))


def _serve(serve: Callable[[list[str]], int], arguments: list[str], log: Path) -> None:
    take_one_core()
    with log.open("a") as told:
        os.dup2(told.fileno(), 1)
        os.dup2(told.fileno(), 2)
    sys.exit(serve(arguments))


class Server(NamedTuple):
    """A forked model server; as far as the product looks at it, a `subprocess.Popen`."""

    process: ForkProcess

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid or 0, number)

    def wait(self, timeout: float | None = None) -> int | None:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise TimeoutExpired("serve", timeout or 0)
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()


def spawner(address: Path, role: str = "trainer") -> Callable[[Path, int], Forked]:
    """Starts trainers as `tunewise.jobs.trainer.spawn` does, or studies."""

    def spawn(run_dir: Path, lock: int) -> Forked:
        pid = ask(address, role, [str(run_dir)], run_dir / "log.txt", [lock])
        return Forked(pid)

    return spawn


class ServerSpawner:
    """Starts model servers as `tunewise.jobs.model_server.spawn` does, and remembers them.

    `first_signal`: what each is sent at once, as SIGSTOP, so that its start takes until somebody lets it go on.
    """

    def __init__(self, address: Path) -> None:
        self.started: list[Forked] = []
        self.first_signal: signal.Signals | None = None
        self._address = address

    def __call__(self, arguments: list[str], log: Path) -> Forked:
        server = Forked(ask(self._address, "server", arguments, log, []))
        if self.first_signal is not None:
            server.send_signal(self.first_signal)
        self.started.append(server)
        return server


ROLES = {"trainer": be_trainer, "study": be_study, "worker": be_worker, "server": be_server}

if __name__ == "__main__":
    main(sys.argv[1])
