"""What a method does to real rows: the loss on rows that are held out, before and after one run.

    python benchmarks/methods.py pretraining TRAIN.jsonl VALID.jsonl [--train-kb 40] [--valid-kb 10]
    python benchmarks/methods.py supervised TRAIN.jsonl VALID.jsonl [--loss-on last_assistant] [--rows 24]
        [--label-smoothing 0.1] [--neftune-alpha 5]

Both: [--epochs 2] [--batch 4] [--rate MULTIPLIER] [--directory RUN] [--model smollm2-135m-instruct], and
[--options '{"weights": "full"}'], whatever of `training:` in tunewise.yaml is not the method's own. Of text files the
first kilobytes are taken, of others the first rows. SIGTERM pauses the run, and the same command with the same
directory goes on with it. Losses are in nats per token that carries loss, in this machine's number format; after
`supervised` that is the chosen tokens' plain or smoothed loss, as it was trained. The last line of the output is one
JSON object.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch

from pausable_run import kept, make_run, manifest_in, train_or_exit
from tunewise.catalogue import DEFAULT_MODEL, find
from tunewise.contracts.fine_tuning import Hyperparameters, Method, Pretraining, Supervised, TrainingRequest
from tunewise.contracts.run import RunResult, TrainSpec
from tunewise.data.template import Template
from tunewise.modeling.loading import load_frozen
from tunewise.planning import longest_row
from tunewise.settings import get_settings
from tunewise.train.methods import criterion
from tunewise.train.rows import load_rows
from tunewise.train.step import evaluate


def main() -> None:
    """Run one method on one pair of files, and print what it did."""
    options = parsed()
    with tempfile.TemporaryDirectory() as aside:
        directory = options.directory or Path(aside) / "run"
        directory.mkdir(parents=True, exist_ok=True)
        spec = prepared(directory, options)
        before = measured_before(directory, spec)
        told(spec, before, train_or_exit(directory))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["pretraining", "supervised"])
    parser.add_argument("train", type=Path)
    parser.add_argument("valid", type=Path)
    parser.add_argument("--train-kb", type=int, default=40)
    parser.add_argument("--valid-kb", type=int, default=10)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--valid-rows", type=int, default=8)
    parser.add_argument("--loss-on", choices=["assistant", "last_assistant", "all"], default="assistant")
    parser.add_argument("--label-smoothing", type=float, default=0.0)
    parser.add_argument("--neftune-alpha", type=float)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--options", type=json.loads, default={}, help='such as {"lora": {"init": "pissa"}}')
    parser.add_argument("--directory", type=Path, help="a run to make or to go on with")
    return parser.parse_args()


def prepared(directory: Path, options: argparse.Namespace) -> TrainSpec:
    """The run's files and its manifest, or those that are there."""
    made = manifest_in(directory)
    if made is not None:
        return made
    is_text = options.method == "pretraining"
    files = [
        kept(directory / name, text_slice(source, kilobytes * 1000) if is_text else rows_slice(source, rows))
        for name, source, kilobytes, rows in (
            ("train.jsonl", options.train, options.train_kb, options.rows),
            ("valid.jsonl", options.valid, options.valid_kb, options.valid_rows),
        )
    ]
    base = find(options.model, get_settings())
    return make_run(
        directory,
        TrainingRequest(method=method(options), **options.options),
        base,
        train=files[0],
        valid=files[1],
        max_tokens=longest_row(options.method, base.context_length),
    )


def method(options: argparse.Namespace) -> Method:
    """What was asked for on the command line."""
    numbers = Hyperparameters(n_epochs=options.epochs, batch_size=options.batch, learning_rate_multiplier=options.rate)
    if options.method == "pretraining":
        return Method(type="pretraining", pretraining=Pretraining(hyperparameters=numbers))
    asked = Supervised(
        hyperparameters=numbers,
        loss_on=options.loss_on,
        label_smoothing=options.label_smoothing,
        neftune_alpha=options.neftune_alpha,
    )
    return Method(supervised=asked)


def text_slice(source: Path, size: int) -> list[str]:
    """The first documents of a file, the last of them cut where `size` bytes are reached."""
    lines: list[str] = []
    for line in source.read_text(encoding="utf-8").splitlines():
        text = json.loads(line)["text"].encode()[:size].decode(errors="ignore")
        lines.append(json.dumps({"text": text}))
        size -= len(text.encode())
        if size <= 0:
            break
    return lines


def rows_slice(source: Path, rows: int) -> list[str]:
    """The first rows of a file."""
    return source.read_text(encoding="utf-8").split("\n")[:rows]


def measured_before(directory: Path, spec: TrainSpec) -> dict[str, float]:
    """The base model on the validation rows; kept in the run's directory."""
    path = directory / "before.json"
    if not path.exists():
        assert spec.valid_file is not None
        loaded = load_rows(
            spec.valid_file,
            Template.load(spec.base_model.path),
            spec.objective,
            max_tokens=spec.max_tokens,
            overlong=spec.overlong,
        )
        torch.set_num_threads(spec.threads or 1)
        loss = criterion(spec.objective, share_prefixes=True)
        tally = evaluate(load_frozen(spec.base_model, spec.dtype), loss, loaded.units, range(len(loaded.units)))
        found = {"valid_loss": tally.loss, "valid_mean_token_accuracy": tally.accuracy}
        if loaded.text_bytes:
            found["valid_bits_per_byte"] = tally.loss_sum / math.log(2) / loaded.text_bytes
        path.write_text(json.dumps(found))
    before: dict[str, float] = json.loads(path.read_bytes())
    return before


def told(spec: TrainSpec, before: dict[str, float], result: RunResult) -> None:
    """What changed, and in how many tokens and seconds."""
    after = {name: getattr(result, name) for name in before}
    for name, value in before.items():
        print(f"{name:28} {value:.4f} -> {after[name]:.4f}")
    told: dict[str, Any] = {
        "name": "methods",
        "objective": spec.objective.model_dump(),
        "rows": result.rows.rows,
        "steps": result.steps,
        "tokens": result.trained_tokens,
        "supervised_tokens": result.supervised_tokens,
        "seconds": round(result.seconds, 1),
        "peak_memory_bytes": result.peak_memory_bytes,
        "learning_rate": spec.learning_rate,
        "before": before,
        "after": after,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
