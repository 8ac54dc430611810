"""Training speed against `trl.SFTTrainer` with its defaults: useful tokens per second, memory, and the same losses.

    pip install trl
    python benchmarks/train_vs_trl.py [--rows FILE] [--limit 96] [--repeat 3] [--sides trl trl_float32]

Each side runs in a process of its own, in turns, `--repeat` times; the medians count. Both see the same token ids, the
same loss mask, rows in the same order, the same initial adapter, rank, batch, learning rate and schedule; all else of
TRL is its default (bfloat16, activation checkpointing, its own loss). On a CPU without bfloat16 instructions that
default takes minutes a step, so there the side is TRL in float32 unless `--sides trl` asks for the default (`--limit 2`
is enough to see it). The clock covers the whole first epoch, none of the imports and loading. The last line of the
output is one JSON object.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tunewise.catalogue import DEFAULT_MODEL, find
from tunewise.contracts.run import BaseModelRef, DataFile, LoraSpec, RunEvent, RunResult, TrainSpec
from tunewise.data.template import Template
from tunewise.machine import probe
from tunewise.settings import get_settings
from tunewise.train.plan import epoch_order
from tunewise.train.rows import load_rows

REPOSITORY = Path(__file__).parents[1]
DATA = (REPOSITORY.parent / "shared/data/recipes/train.jsonl", REPOSITORY / "examples/recipe-assistant/train.jsonl")
RANK, ALPHA, BATCH, RATE, SEED = 16, 32.0, 8, 2e-4, 42
TRL_SIDES = ("trl", "trl_float32")


def main() -> None:
    """Measure, print a table and the JSON line; with --trl-side, be the TRL process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=next((path for path in DATA if path.is_file()), DATA[-1]))
    parser.add_argument("--limit", type=int, default=96)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=TRL_SIDES, help="what to compare with")
    parser.add_argument("--trl-side", choices=TRL_SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trl_side:
        run_trl(options.directory, in_float32=options.trl_side == "trl_float32")
        return
    with tempfile.TemporaryDirectory() as directory:
        compare(Path(directory), options)


def compare(directory: Path, options: argparse.Namespace) -> None:
    """Run every side `repeat` times, in turns."""
    spec = prepare(directory, options.rows, options.limit)
    sides = ["tunewise", *(options.sides or (["trl"] if spec.dtype == "bfloat16" else ["trl_float32"]))]
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for turn in range(options.repeat):
        for side in sides:
            run = (
                measure_tunewise(directory / f"run-{turn}", spec)
                if side == "tunewise"
                else measure_trl(directory, side)
            )
            runs[side].append(run)
            print(f"turn {turn + 1} {side}: {run['tokens'] / run['seconds']:.0f} tok/s", flush=True)
    report(runs, spec)


def prepare(directory: Path, rows: Path, limit: int) -> TrainSpec:
    """Write what both sides need: the rows, rendered rows in training order, and the initial adapter."""
    lines = rows.read_bytes().splitlines(keepends=True)[:limit]
    train_file = directory / "train.jsonl"
    train_file.write_bytes(b"".join(lines))
    model = find(DEFAULT_MODEL, get_settings())
    spec = make_spec(model, train_file, len(lines), in_bfloat16=probe().bfloat16)
    rendered = load_rows(
        spec.train_file, Template.load(model.path), spec.objective, max_tokens=spec.max_tokens, overlong="error"
    ).units
    order = epoch_order(len(rendered), seed=SEED, epoch=0)
    data = [{"input_ids": row.ids, "assistant_masks": row.mask} for unit in order for row in rendered[unit].rows]
    (directory / "rendered.json").write_text(json.dumps({"model": str(model.path), "rows": data}))
    write_initial_adapter(model, directory / "initial.safetensors")
    return spec


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


def lora_config() -> LoraConfig:
    """The same adapter's shape for PEFT."""
    return LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=int(ALPHA), target_modules="all-linear")


def write_initial_adapter(model: BaseModelRef, path: Path) -> None:
    """The adapter that `python -m tunewise.train` begins with for this seed."""
    base = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    torch.manual_seed(SEED)
    save_file(get_peft_model_state_dict(get_peft_model(base, lora_config())), path)


def measure_tunewise(directory: Path, spec: TrainSpec) -> dict[str, Any]:
    """One `python -m tunewise.train`."""
    directory.mkdir()
    (directory / "spec.json").write_text(spec.model_dump_json())
    subprocess.run([sys.executable, "-m", "tunewise.train", str(directory)], check=True, capture_output=True)
    result = RunResult.model_validate_json((directory / "result.json").read_bytes())
    events = [RunEvent.model_validate_json(line) for line in (directory / "events.jsonl").read_bytes().splitlines()]
    return {
        "tokens": result.trained_tokens,
        "seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory_bytes,
        "losses": [event.data.train_loss for event in events if event.type == "metrics" and event.data],
    }


def measure_trl(directory: Path, side: str) -> dict[str, Any]:
    """One TRL process; its last line is its measurement."""
    command = [sys.executable, __file__, "--trl-side", side, "--directory", str(directory)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured: dict[str, Any] = json.loads(output.splitlines()[-1])
    return measured


def run_trl(directory: Path, *, in_float32: bool) -> None:
    """Be the TRL side: one epoch with SFTConfig's defaults but for what both sides must share."""
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    prepared = json.loads((directory / "rendered.json").read_text())
    rows = Dataset.from_list(prepared["rows"])
    trainer = SFTTrainer(
        model=prepared["model"],
        args=SFTConfig(
            output_dir=str(directory / "trl"),
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=RATE,
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            train_sampling_strategy="sequential",
            bf16=False if in_float32 else None,
            model_init_kwargs={"dtype": "float32"} if in_float32 else None,
        ),
        train_dataset=rows,
        peft_config=lora_config(),
    )
    set_peft_model_state_dict(trainer.model, load_file(directory / "initial.safetensors"))
    started = time.perf_counter()
    trainer.train()
    measured = {
        "tokens": sum(len(row["input_ids"]) for row in prepared["rows"]),
        "seconds": time.perf_counter() - started,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }
    print(json.dumps(measured))


def report(runs: dict[str, list[dict[str, Any]]], spec: TrainSpec) -> None:
    """Medians of each side, the ratio, and how far the losses are apart."""
    sides = {side: summary(side_runs, runs["tunewise"][0]["losses"]) for side, side_runs in runs.items()}
    for side, figures in sides.items():
        print(
            f"{side:12} {figures['tokens_per_second']:7.0f} tok/s   peak {figures['peak_memory_bytes'] / 2**30:.2f} GiB"
            f"   losses differ by at most {figures['max_loss_difference']:.2%} of ours"
        )
    ours = sides["tunewise"]["tokens_per_second"]
    ratios = {
        side: round(ours / figures["tokens_per_second"], 2) for side, figures in sides.items() if side != "tunewise"
    }
    ratio = ratios.get("trl", min(ratios.values()))
    print(json.dumps({"name": "train_vs_trl", "ratio": ratio, "ratios": ratios, "dtype": spec.dtype, "sides": sides}))


def summary(side_runs: list[dict[str, Any]], ours: list[float]) -> dict[str, float]:
    """Median speed, highest memory, and the largest relative difference of any step's loss to our first run's."""
    apart = [abs(loss - own) / own for run in side_runs for loss, own in zip(run["losses"], ours, strict=True)]
    return {
        "tokens_per_second": round(statistics.median(run["tokens"] / run["seconds"] for run in side_runs), 1),
        "peak_memory_bytes": max(run["peak_memory_bytes"] for run in side_runs),
        "max_loss_difference": round(max(apart), 5),
    }


if __name__ == "__main__":
    main()
