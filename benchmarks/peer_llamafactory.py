"""Be LLaMA-Factory: train the rows of a handover with its own `train` entry, its settings given by their YAML names.

Run by train_vs_peers.py as `PYTHON peer_llamafactory.py DIRECTORY SETTINGS`, where PYTHON has llamafactory. The rows
go in as its `tokenized_path`, the format in which it keeps tokenised data itself, so its templates take no part. The
seconds are its own `train_runtime`, which begins where the first batch is fetched.

Two of the settings are ours. `weights` is the number format of the model: LLaMA-Factory trains in that of the file, so
another takes a copy of the model. `rows_end_to_end` makes one row of each batch, with the attention mask (1, 1, 2, 2,
...) that LLaMA-Factory's `neat_packing` writes; its own packer would fill rows to `cutoff_len` and so change the steps.
"""

import json
import shutil
from itertools import chain
from pathlib import Path

from datasets import Dataset
from llamafactory.train.tuner import run_exp
from transformers import AutoModelForCausalLM, AutoTokenizer

from peer_handover import ADAPTER_DIR, NOT_SUPERVISED, Handover, Row, hand_back, labels, read_order


def main() -> None:
    """Train one epoch and hand back the measurement."""
    directory, handover, settings = read_order()
    weights, end_to_end = settings.pop("weights"), settings.pop("rows_end_to_end", False)
    output, tokenized = directory / "llamafactory", directory / "llamafactory-rows"
    shutil.rmtree(output, ignore_errors=True)
    model = copy_in(weights, Path(handover["model"]), directory / f"llamafactory-{weights}")
    Dataset.from_list(packed(handover) if end_to_end else padded(handover)).save_to_disk(tokenized)
    shared = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": str(model),
        "adapter_name_or_path": str(directory / ADAPTER_DIR),
        "finetuning_type": "lora",
        "template": "smollm2",
        "dataset": "handover",
        "tokenized_path": str(tokenized),
        "output_dir": str(output),
        "per_device_train_batch_size": 1 if end_to_end else handover["batch_size"],
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1,
        "learning_rate": handover["learning_rate"],
        "lr_scheduler_type": "linear",
        "disable_shuffling": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
    }
    run_exp(shared | settings)
    hand_back(handover, train_runtime(output), losses(output))


def copy_in(weights: str, model: Path, copy: Path) -> Path:
    """The model with its weights in a number format, made once."""
    if not copy.is_dir():
        AutoModelForCausalLM.from_pretrained(model, dtype=weights).save_pretrained(copy)
        AutoTokenizer.from_pretrained(model).save_pretrained(copy)
    return copy


def padded(handover: Handover) -> list[dict[str, list[int]]]:
    """Each row by itself; the collator pads."""
    return [
        {"input_ids": row["ids"], "attention_mask": [1] * len(row["ids"]), "labels": labels(row)}
        for row in handover["rows"]
    ]


def packed(handover: Handover) -> list[dict[str, list[int]]]:
    """The rows of each batch as one; the mask counts them from 1."""
    rows, size = handover["rows"], handover["batch_size"]
    return [pack(rows[start : start + size]) for start in range(0, len(rows), size)]


def pack(rows: list[Row]) -> dict[str, list[int]]:
    """Rows end to end; no row's first token is predicted from the row before it."""
    return {
        "input_ids": list(chain.from_iterable(row["ids"] for row in rows)),
        "attention_mask": [number for number, row in enumerate(rows, 1) for _ in row["ids"]],
        "labels": [label for row in rows for label in (NOT_SUPERVISED, *labels(row)[1:])],
    }


def train_runtime(output: Path) -> float:
    """Seconds, from the results that the peer writes."""
    seconds: float = json.loads((output / "train_results.json").read_text())["train_runtime"]
    return seconds


def losses(output: Path) -> list[float]:
    """Of each step, from the state that the peer writes."""
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


if __name__ == "__main__":
    main()
