"""What a method of preferences does to real rows: how often the better answer is the likelier one, before and after.

    python benchmarks/preferences.py dpo TRAIN.jsonl TEST.jsonl [--loss ipo] [--rows 48] [--tests 24] [--longest 400]
    python benchmarks/preferences.py orpo TRAIN.jsonl TEST.jsonl
    python benchmarks/preferences.py kto LABELLED.jsonl TEST.jsonl

All: [--beta 0.1] [--epochs 1] [--batch 4] [--rate MULTIPLIER] [--directory RUN]. Of each file the first rows are taken
of which no side is longer than `--longest` tokens; TEST holds preference pairs for every method. SIGTERM pauses the
run, and the same command with the same directory goes on with it. The default model, in this machine's number format.

An answer's likelihood is its mean log-probability per token, in nats; the margin is beta times the difference of both
answers' log-ratios to the untuned model, the reward of DPO. Beside it stands what choosing the longer answer comes to.
The last line of the output is one JSON object.
"""

import argparse
import json
import tempfile
from hashlib import sha256
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load

from pausable_run import kept, make_run, manifest_in, train_or_exit
from tunewise.catalogue import DEFAULT_MODEL, find
from tunewise.contracts.fine_tuning import Dpo, Kto, Method, Orpo, PreferenceHyperparameters, TrainingRequest
from tunewise.contracts.run import ADAPTER_WEIGHTS_FILE, DataFile, OrpoObjective, RunResult, TrainSpec
from tunewise.data.formats import examples_of, read_rows
from tunewise.data.template import Rendered, Template
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.lora import add_adapter
from tunewise.modeling.packing import supervised_tokens
from tunewise.settings import get_settings
from tunewise.train.methods.answers import score_apart
from tunewise.train.rows import load_rows


class Judged(NamedTuple):
    """Of each test pair the log-probability of its better and its worse answer, in nats."""

    better: list[float]
    worse: list[float]


def main() -> None:
    """Run one method, and print what became of the test pairs."""
    options = parsed()
    with tempfile.TemporaryDirectory() as aside:
        directory = options.directory or Path(aside) / "run"
        directory.mkdir(parents=True, exist_ok=True)
        spec = prepared(directory, options)
        pairs = test_pairs(directory / "test.jsonl", spec)
        before = judged_before(directory, spec, pairs)
        result = train_or_exit(directory)
        told(spec, pairs, before, judged(spec, pairs, directory / (result.adapter or "")), result)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["dpo", "orpo", "kto"])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--loss", choices=["sigmoid", "ipo"], default="sigmoid")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--tests", type=int, default=24)
    parser.add_argument("--longest", type=int, default=400)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--directory", type=Path, help="a run to make or to go on with")
    return parser.parse_args()


def prepared(directory: Path, options: argparse.Namespace) -> TrainSpec:
    """The run's files and its manifest, or those that are there."""
    made = manifest_in(directory)
    if made is not None:
        return made
    base = find(DEFAULT_MODEL, get_settings())
    template = Template.load(base.path)
    train_file = kept(directory / "train.jsonl", short_rows(options.train, options.rows, options.longest, template))
    kept(directory / "test.jsonl", short_rows(options.test, options.tests, options.longest, template))
    request = TrainingRequest(method=method(options))
    return make_run(directory, request, base, train=train_file, valid=None, max_tokens=options.longest)


def method(options: argparse.Namespace) -> Method:
    """What was asked for on the command line."""
    numbers = PreferenceHyperparameters(
        n_epochs=options.epochs,
        batch_size=options.batch,
        learning_rate_multiplier=options.rate,
        beta=options.beta,
    )
    match options.method:
        case "dpo":
            return Method(type="dpo", dpo=Dpo(hyperparameters=numbers, loss=options.loss))
        case "orpo":
            return Method(type="orpo", orpo=Orpo(hyperparameters=numbers))
        case _:
            return Method(type="kto", kto=Kto(hyperparameters=numbers))


def short_rows(source: Path, rows: int, longest: int, template: Template) -> list[str]:
    """The first rows that are short enough, as they stand in the file."""
    lines = source.read_text(encoding="utf-8").split("\n")
    fitting = (
        lines[line - 1]
        for line, row in read_rows(source)
        if all(len(template.render(example).ids) <= longest for example in examples_of(row))
    )
    return list(islice(fitting, rows))


def test_pairs(path: Path, spec: TrainSpec) -> list[tuple[Rendered, ...]]:
    """Better and worse of each test pair."""
    file = DataFile(path=path, sha256=sha256(path.read_bytes()).hexdigest(), rows=0)
    template = Template.load(spec.base_model.path)
    pairs = OrpoObjective(beta=1.0)
    loaded = load_rows(file, template, pairs, max_tokens=spec.max_tokens, overlong="error")
    return [unit.rows for unit in loaded.units]


def judged_before(directory: Path, spec: TrainSpec, pairs: list[tuple[Rendered, ...]]) -> Judged:
    """The untuned model on the test pairs; kept in the run's directory."""
    path = directory / "before.json"
    if not path.exists():
        path.write_text(json.dumps(judged(spec, pairs, None)))
    return Judged(*json.loads(path.read_bytes()))


def judged(spec: TrainSpec, pairs: list[tuple[Rendered, ...]], adapter: Path | None) -> Judged:
    """A model, with its adapter where there is one, on the test pairs."""
    torch.set_num_threads(spec.threads or 1)
    model = load_frozen(spec.base_model, spec.dtype)
    if adapter is not None:
        tuned = add_adapter(model, spec.lora)
        set_peft_model_state_dict(tuned, load((adapter / ADAPTER_WEIGHTS_FILE).read_bytes()))
    logps = score_apart(model, [row for pair in pairs for row in pair])
    return Judged(logps[::2], logps[1::2])


def accuracy(found: Judged, pairs: list[tuple[Rendered, ...]]) -> float:
    """Share of the pairs whose better answer has the higher mean log-probability."""
    per_token = [
        (better / supervised_tokens(rows[0]), worse / supervised_tokens(rows[1]))
        for better, worse, rows in zip(*found, pairs, strict=True)
    ]
    return mean(better > worse for better, worse in per_token)


def told(spec: TrainSpec, pairs: list[tuple[Rendered, ...]], before: Judged, after: Judged, result: RunResult) -> None:
    """What changed, and in how many tokens and seconds."""
    beta: float = getattr(spec.objective, "beta", 0.0)
    gains = [[now - then for now, then in zip(*side, strict=True)] for side in zip(after, before, strict=True)]
    margins = [beta * (better - worse) for better, worse in zip(*gains, strict=True)]
    figures = {
        "accuracy_before": accuracy(before, pairs),
        "accuracy_after": accuracy(after, pairs),
        "reward_accuracy_after": mean(margin > 0 for margin in margins),
        "reward_margin_after": mean(margins),
        "longer_answer_is_better": mean(supervised_tokens(pair[0]) > supervised_tokens(pair[1]) for pair in pairs),
    }
    for name, value in figures.items():
        print(f"{name:28} {value:.3f}")
    print(
        json.dumps(
            {
                "name": "preferences",
                "objective": spec.objective.model_dump(),
                "rows": result.rows.rows,
                "test_pairs": len(pairs),
                "steps": result.steps,
                "tokens": result.trained_tokens,
                "train_loss": result.train_loss,
                "seconds": round(result.seconds, 1),
                "learning_rate": spec.learning_rate,
                **figures,
            }
        )
    )


if __name__ == "__main__":
    main()
