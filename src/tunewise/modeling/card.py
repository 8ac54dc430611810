"""What model cards tell of a training, in the form that hubs read: of the data, counts and hashes, and no row.

Knows a run's manifest; knows nothing of where a card is put.
"""

from collections.abc import Mapping

from tunewise.contracts.run import TrainSpec

CARD_FILE = "README.md"
SETTINGS = (
    "weights",
    "top_layers",
    "n_epochs",
    "batch_size",
    "learning_rate",
    "schedule",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "max_tokens",
    "overlong",
    "dtype",
    "seed",
)


def data(spec: TrainSpec) -> str:
    """The files, by their use."""
    files = [("training", spec.train_file), *([("validation", spec.valid_file)] if spec.valid_file else [])]
    return table("Data", {f"{use} file": f"{file.rows} rows, sha256 {file.sha256}" for use, file in files})


def hyperparameters(spec: TrainSpec) -> str:
    """All that a training of the same data would be given."""
    lora = {} if spec.weights == "full" else {f"LoRA {name}": value for name, value in spec.lora.model_dump().items()}
    objective = {f"objective {name}": value for name, value in spec.objective.model_dump().items()}
    return table("Hyperparameters", {name: getattr(spec, name) for name in SETTINGS} | objective | lora)


def table(title: str, entries: Mapping[str, object]) -> str:
    """A section with a table of two columns."""
    rows = [f"| {name} | {value} |" for name, value in entries.items()]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *rows])
