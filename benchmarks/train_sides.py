"""Sides of a training benchmark: ours and any peer on the same rows, in processes of their own, in turns.

What all sides share is in the handover: token ids, loss mask, the rows' order, the initial adapter, rank, batch,
learning rate and schedule. Knows how a side is started and compared; what a peer does stands in its own file.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from peer_handover import ADAPTER_DIR, HANDOVER_FILE, Handover, Measured, Row
from tunewise.catalogue import DEFAULT_MODEL, find
from tunewise.contracts.run import BaseModelRef, DataFile, LoraSpec, RunEvent, RunResult, StepMetrics, TrainSpec
from tunewise.data.template import Template
from tunewise.machine import probe
from tunewise.settings import get_settings
from tunewise.train.plan import epoch_order
from tunewise.train.rows import load_rows

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
DATA = (REPOSITORY.parent / "shared/data/recipes/train.jsonl", REPOSITORY / "examples/recipe-assistant/train.jsonl")
RANK, ALPHA, BATCH, RATE, SEED = 16, 32, 8, 2e-4, 42
OURS = "tunewise"
TRAINER = (sys.executable, "-m", "tunewise.train")


class Side(NamedTuple):
    """One side: `measure` runs it once in a process of its own."""

    name: str
    measure: Callable[[], Measured]


class Summary(NamedTuple):
    """A side's median speed, its highest memory, and its losses against our first run's.

    `step_difference` is the largest relative difference of any step, None where a side's steps have other rows;
    `mean_difference` is that of the mean over the epoch's steps.
    """

    tokens_per_second: float
    seconds: float
    peak_memory_bytes: int
    step_difference: float | None
    mean_difference: float


def add_arguments(parser: argparse.ArgumentParser, *, limit: int = 96) -> None:
    """What every training benchmark can be told."""
    parser.add_argument("--rows", type=Path, default=next((path for path in DATA if path.is_file()), DATA[-1]))
    parser.add_argument("--limit", type=int, default=limit, help="of the file's rows, the first so many")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each side, in turns; the medians count")


def prepare(directory: Path, rows: Path, limit: int) -> TrainSpec:
    """Write what all sides need: the rows for ours, the handover and the initial adapter for the others."""
    lines = rows.read_bytes().splitlines(keepends=True)[:limit]
    train_file = directory / "train.jsonl"
    train_file.write_bytes(b"".join(lines))
    spec = make_spec(find(DEFAULT_MODEL, get_settings()), train_file, len(lines), in_bfloat16=probe().bfloat16)
    handover = Handover(
        model=str(spec.base_model.path),
        rows=rows_in_order(spec),
        rank=RANK,
        alpha=ALPHA,
        batch_size=BATCH,
        learning_rate=RATE,
        seed=SEED,
    )
    (directory / HANDOVER_FILE).write_text(json.dumps(handover))
    write_initial_adapter(spec.base_model, directory / ADAPTER_DIR)
    return spec


def rows_in_order(spec: TrainSpec) -> list[Row]:
    """The rendered rows as our first epoch takes them."""
    template = Template.load(spec.base_model.path)
    units = load_rows(
        spec.train_file, template, spec.objective, max_tokens=spec.max_tokens, overlong=spec.overlong
    ).units
    order = epoch_order(len(units), seed=spec.seed, epoch=0)
    return [Row(ids=list(row.ids), mask=list(row.mask)) for unit in order for row in units[unit].rows]


def make_spec(model: BaseModelRef, train_file: Path, rows: int, *, in_bfloat16: bool) -> TrainSpec:
    """The run as Tunewise does it on this machine."""
    return TrainSpec(
        base_model=model,
        train_file=DataFile(path=train_file, sha256=sha256(train_file.read_bytes()).hexdigest(), rows=rows),
        valid_file=None,
        n_epochs=1,
        batch_size=BATCH,
        learning_rate=RATE,
        schedule="linear",
        warmup_ratio=0.0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        lora=LoraSpec(rank=RANK, alpha=ALPHA, dropout=0.0, targets="all-linear"),
        max_tokens=model.context_length,
        overlong="error",
        dtype="bfloat16" if in_bfloat16 else "float32",
        seed=SEED,
        valid_every_steps=1000,
        valid_sample_rows=1,
        checkpoint_minutes=1000,
        early_stopping_patience=None,
        versions={},
    )


def write_initial_adapter(model: BaseModelRef, directory: Path) -> None:
    """The adapter that `python -m tunewise.train` begins with for this seed, as PEFT saves it."""
    base = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    torch.manual_seed(SEED)
    get_peft_model(base, config).save_pretrained(str(directory))


def measure_tunewise(directory: Path, spec: TrainSpec, trainer: Sequence[str] = TRAINER) -> Measured:
    """One run of ours, as a side."""
    result = train(directory, spec, trainer)
    return Measured(
        tokens=result.trained_tokens,
        seconds=result.seconds,
        peak_memory_bytes=result.peak_memory_bytes,
        losses=[step.train_loss for step in steps_of(directory)],
    )


def train(directory: Path, spec: TrainSpec, trainer: Sequence[str] = TRAINER) -> RunResult:
    """One process of `trainer` in a new run directory."""
    directory.mkdir()
    (directory / "spec.json").write_text(spec.model_dump_json())
    run_to_its_end([*trainer, str(directory)])
    return RunResult.model_validate_json((directory / "result.json").read_bytes())


def steps_of(directory: Path) -> list[StepMetrics]:
    """The metrics of a run's steps."""
    events = [RunEvent.model_validate_json(line) for line in (directory / "events.jsonl").read_bytes().splitlines()]
    return [event.data for event in events if event.type == "metrics" and event.data]


def measure_peer(python: Path, script: str, directory: Path, settings: Mapping[str, Any]) -> Measured:
    """One process of a peer; its last line is its measurement."""
    output = run_to_its_end([str(python), str(HERE / script), str(directory), json.dumps(settings)])
    measured: Measured = json.loads(output.splitlines()[-1])
    return measured


def run_to_its_end(command: Sequence[str]) -> str:
    """Run a side to its end and give what it printed; where it fails, end with its last words."""
    side = subprocess.run(command, capture_output=True, text=True, check=False)
    if side.returncode:
        sys.exit(f"{' '.join(command)[:300]}\nended with exit code {side.returncode}:\n{side.stderr[-3000:]}")
    return side.stdout


def run_in_turns(sides: Sequence[Side], repeat: int) -> dict[str, list[Measured]]:
    """Every side `repeat` times, so that a machine that slows down does so for all."""
    runs: dict[str, list[Measured]] = {side.name: [] for side in sides}
    for turn in range(repeat):
        for side in sides:
            run = side.measure()
            runs[side.name].append(run)
            print(f"turn {turn + 1} {side.name}: {run['tokens'] / run['seconds']:.0f} tok/s", flush=True)
    return runs


def summarise(runs: Mapping[str, list[Measured]], regrouped: frozenset[str] = frozenset()) -> dict[str, Summary]:
    """Print a line for each side, ours first; `regrouped` are the sides whose steps have other rows than ours."""
    ours = runs[OURS][0]["losses"]
    sides = {side: _summary(of_side, ours, regrouped=side in regrouped) for side, of_side in runs.items()}
    for side, summary in sides.items():
        apart = (
            "steps have other rows" if summary.step_difference is None else f"a step's {summary.step_difference:.2%}"
        )
        print(
            f"{side:24} {summary.tokens_per_second:7.1f} tok/s {summary.seconds:7.1f} s   "
            f"peak {summary.peak_memory_bytes / 2**30:.2f} GiB   "
            f"loss differs from ours: the mean {summary.mean_difference:.2%}, {apart}"
        )
    return sides


def _summary(of_side: Sequence[Measured], ours: Sequence[float], *, regrouped: bool) -> Summary:
    apart = [abs(loss - own) / own for run in of_side for loss, own in zip(run["losses"], ours, strict=True)]
    means = [abs(sum(run["losses"]) - sum(ours)) / sum(ours) for run in of_side]
    return Summary(
        tokens_per_second=round(statistics.median(run["tokens"] / run["seconds"] for run in of_side), 1),
        seconds=round(statistics.median(run["seconds"] for run in of_side), 2),
        peak_memory_bytes=max(run["peak_memory_bytes"] for run in of_side),
        step_difference=None if regrouped else round(max(apart), 5),
        mean_difference=round(max(means), 5),
    )


def ratios(sides: Mapping[str, Summary]) -> dict[str, float]:
    """How many times faster ours is than each other side."""
    ours = sides[OURS].tokens_per_second
    return {side: round(ours / figures.tokens_per_second, 2) for side, figures in sides.items() if side != OURS}


def print_outcome(name: str, ratio: float, sides: Mapping[str, Summary], **more: Any) -> None:  # noqa: ANN401
    """The last line: one JSON object; `more` is anything that JSON can hold."""
    figures = {side: summary._asdict() for side, summary in sides.items()}
    print(json.dumps({"name": name, "ratio": ratio, "ratios": ratios(sides), **more, "sides": figures}))
