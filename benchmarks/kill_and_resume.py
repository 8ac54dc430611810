"""Kill -9 a training run of the real base model again and again, and compare the weights with a straight run's.

    python benchmarks/kill_and_resume.py [--rows FILE] [--limit 24] [--kills 2] [--seed 0]

The same is tested on a tiny model, ten times, in tests/train/test_resume.py. The last line of the output is one JSON
object; the exit code is 1 where any weight differs.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from train_sides import DATA, make_spec
from tunewise.catalogue import DEFAULT_MODEL, find
from tunewise.contracts.run import RunResult, TrainSpec
from tunewise.machine import probe
from tunewise.settings import get_settings


def main() -> int:
    """Train once straight and once with kills; 0 if both gave the same adapter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=next((path for path in DATA if path.is_file()), DATA[-1]))
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        lines = options.rows.read_bytes().splitlines(keepends=True)[: options.limit]
        (directory / "train.jsonl").write_bytes(b"".join(lines))
        model = find(DEFAULT_MODEL, get_settings())
        spec = make_spec(model, directory / "train.jsonl", len(lines), in_bfloat16=probe().bfloat16)
        # A checkpoint after each step, so that each restart goes on from another one.
        spec = spec.model_copy(update={"checkpoint_minutes": 1e-9, "n_epochs": 2})
        straight, seconds = train(make_run(directory / "straight", spec))
        killed = train_with_kills(make_run(directory / "killed", spec), options.kills, seconds, options.seed)
    outcome = {"name": "kill_and_resume", "kills": options.kills, "same_weights": straight == killed, "sha256": killed}
    print(json.dumps(outcome))
    return 0 if straight == killed else 1


def make_run(directory: Path, spec: TrainSpec) -> Path:
    """A run directory that has not begun."""
    directory.mkdir()
    (directory / "spec.json").write_text(spec.model_dump_json())
    return directory


def train(run: Path) -> tuple[str | None, float]:
    """Train to the end: the adapter's hash, and the seconds it took with loading."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "tunewise.train", str(run)], check=True, capture_output=True)
    result = RunResult.model_validate_json((run / "result.json").read_bytes())
    return result.adapter_sha256, time.monotonic() - started


def train_with_kills(run: Path, kills: int, seconds: float, seed: int) -> str | None:
    """Kill at random moments of a run's length, then train to the end; the adapter's hash."""
    chance = random.Random(seed)
    for kill in range(kills):
        process = subprocess.Popen([sys.executable, "-m", "tunewise.train", str(run)], stderr=subprocess.DEVNULL)
        time.sleep(seconds * chance.uniform(0.2, 0.6))
        process.kill()
        process.wait()
        print(f"kill {kill + 1}: checkpoints {sorted(path.name for path in (run / 'checkpoints').glob('step-*'))}")
    return train(run)[0]


if __name__ == "__main__":
    sys.exit(main())
