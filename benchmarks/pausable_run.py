"""A training run that a benchmark makes in a directory, starts, and may pause and go on with.

Knows files of rows and the manifest; nothing of what is measured before and after.
"""

import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from tunewise.contracts.fine_tuning import TrainingRequest
from tunewise.contracts.run import BaseModelRef, DataFile, RunResult, TrainSpec
from tunewise.machine import probe
from tunewise.planning import resolve

SPEC, RESULT = "spec.json", "result.json"


def manifest_in(directory: Path) -> TrainSpec | None:
    """The manifest of a run that was made before."""
    path = directory / SPEC
    return TrainSpec.model_validate_json(path.read_bytes()) if path.exists() else None


def make_run(
    directory: Path,
    request: TrainingRequest,
    base: BaseModelRef,
    *,
    train: DataFile,
    valid: DataFile | None,
    max_tokens: int,
) -> TrainSpec:
    """Write the manifest of a run on this machine."""
    spec = resolve(
        request,
        base_model=base,
        train_file=train,
        valid_file=valid,
        max_tokens=max_tokens,
        overlong="error",
        machine=probe(),
        versions={},
    )
    (directory / SPEC).write_text(spec.model_dump_json(indent=1))
    return spec


def kept(path: Path, lines: list[str]) -> DataFile:
    """Rows as a file, frozen."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return DataFile(path=path.resolve(), sha256=sha256(path.read_bytes()).hexdigest(), rows=len(lines))


def train_or_exit(directory: Path) -> RunResult:
    """Train in a process of its own, to which SIGTERM is passed on; a run that is paused or fails ends this one too."""
    child = subprocess.Popen([sys.executable, "-m", "tunewise.train", str(directory)])
    signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
    code = child.wait()
    if code:
        print(f"paused or failed with exit code {code}: {directory}")
        raise SystemExit(code)
    return RunResult.model_validate_json((directory / RESULT).read_bytes())
