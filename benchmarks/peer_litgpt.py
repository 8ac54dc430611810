"""Be litgpt: train the rows of a handover with its `finetune.lora.setup`, its settings given by their own names.

Run by train_vs_peers.py as `PYTHON peer_litgpt.py DIRECTORY SETTINGS`, where PYTHON has litgpt and safetensors. The
model is converted by litgpt's own converter, and the initial adapter is put into the converted checkpoint, which
litgpt's loading takes. The rows go in through a data module, with litgpt's own collate function.

Two of litgpt's functions are replaced: its schedule (always a warm-up and a cosine) by the other sides' linear one, and
`fit` by itself between two looks at the clock; the process ends after it, as the saving reads a command line of its
own. It clips no gradients.
"""

import csv
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from litgpt.args import EvalArgs, TrainArgs
from litgpt.data.base import DataModule, get_sft_collate_fn
from litgpt.finetune import lora
from litgpt.prompts import Default, PromptStyle
from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint
from safetensors.torch import load_file
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from peer_handover import ADAPTER_DIR, Handover, Row, hand_back, labels, read_order

MODEL = "SmolLM2-135M-Instruct"
LAYER = "base_model.model.model.layers"


def main() -> None:
    """Train one epoch and hand back the measurement."""
    directory, handover, settings = read_order()
    checkpoint, output = directory / MODEL, directory / "litgpt"
    if not checkpoint.is_dir():
        convert(Path(handover["model"]), directory / ADAPTER_DIR, checkpoint)
    shutil.rmtree(output, ignore_errors=True)
    train = train_arguments(handover, settings.pop("train", {}))
    lora.get_lr_scheduler = linear_schedule
    lora.fit = timed(lora.fit, handover, partial(losses, output, train.gradient_accumulation_iters(1)))
    lora.setup(
        checkpoint_dir=checkpoint,
        out_dir=output,
        lora_r=handover["rank"],
        lora_alpha=handover["alpha"],
        lora_dropout=0.0,
        lora_query=True,
        lora_key=True,
        lora_value=True,
        lora_projection=True,
        lora_mlp=True,
        data=HandedRows(handover["rows"]),
        train=train,
        eval=EvalArgs(interval=train.max_steps + 1, max_new_tokens=1, max_iters=1, final_validation=False),
        optimizer={
            "class_path": "torch.optim.AdamW",
            "init_args": {"lr": handover["learning_rate"], "weight_decay": 0.0, "fused": True},
        },
        seed=handover["seed"],
        **settings,
    )


def train_arguments(handover: Handover, settings: dict[str, Any]) -> Any:  # noqa: ANN401  # litgpt's TrainArgs
    """One epoch; it is ended by its number of steps, as litgpt would write an example text at an epoch's end."""
    shared = {
        "global_batch_size": handover["batch_size"],
        "micro_batch_size": handover["batch_size"],
        "epochs": 1,
        "max_steps": -(-len(handover["rows"]) // handover["batch_size"]),
        "lr_warmup_steps": 0,
        "log_interval": 1,
        "save_interval": None,
    }
    return TrainArgs(**shared | settings)


def timed(
    fit: Callable[..., Any], handover: Handover, read_losses: Callable[[], list[float]]
) -> Callable[..., NoReturn]:
    """`fit` that hands back its measurement and ends the process."""

    def fit_and_end(**arguments: Any) -> NoReturn:  # noqa: ANN401  # litgpt's own
        started = time.perf_counter()
        fit(**arguments)
        hand_back(handover, time.perf_counter() - started, read_losses())
        sys.exit()

    return fit_and_end


@dataclass
class HandedRows(DataModule):  # type: ignore[misc]  # litgpt is not installed where this is checked
    """The handover's rows, in their order; the validation that litgpt begins with gets two tokens."""

    rows: list[Row]
    prompt_style: PromptStyle = field(default_factory=Default)
    batch_size: int = 1

    def connect(self, tokenizer: object = None, batch_size: int = 1, max_seq_length: int | None = None) -> None:
        """Take what litgpt decides."""
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        """All rows, in order."""
        return loader(self.rows, self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Two tokens."""
        return loader([{"ids": [1, 2], "mask": [0, 1]}], 1)


def loader(rows: list[Row], batch_size: int) -> DataLoader[Any]:
    """Batches of rows, in their order."""
    samples: Any = [sample(row) for row in rows]  # a list is what DataLoader reads, though not what it is typed to
    return DataLoader(samples, batch_size, collate_fn=get_sft_collate_fn())


def sample(row: Row) -> dict[str, Any]:
    """A row as litgpt's collate function takes it."""
    tokens = len(row["ids"])
    return {
        "input_ids": torch.tensor(row["ids"]),
        "labels": torch.tensor(labels(row)),
        "token_counts": {"raw": tokens, "raw_plus_prompt_template": tokens},
    }


def linear_schedule(optimizer: torch.optim.Optimizer, warmup_steps: int, max_steps: int) -> LambdaLR:
    """From the full rate at the first step linearly to zero after the last."""
    return LambdaLR(optimizer, lambda step: 1 - step / max_steps)


def convert(model: Path, adapter: Path, checkpoint: Path) -> None:
    """Make litgpt's checkpoint of a Hugging Face directory, in float32, with the initial adapter in it."""
    shutil.copytree(model, checkpoint)
    convert_hf_checkpoint(checkpoint, model_name=MODEL, dtype="float32")
    weights = torch.load(checkpoint / "lit_model.pth")
    torch.save(
        weights | adapter_weights(load_file(adapter / "adapter_model.safetensors")), checkpoint / "lit_model.pth"
    )


def adapter_weights(peft: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """PEFT's adapter under litgpt's names, where one layer computes queries, keys and values."""
    single = {
        "attn.proj": "self_attn.o_proj",
        "mlp.fc_1": "mlp.gate_proj",
        "mlp.fc_2": "mlp.up_proj",
        "mlp.proj": "mlp.down_proj",
    }
    weights: dict[str, torch.Tensor] = {}
    for layer in range(sum(name.endswith("self_attn.o_proj.lora_A.weight") for name in peft)):
        for side in ("lora_A", "lora_B"):
            queries_keys_values = [peft[f"{LAYER}.{layer}.self_attn.{one}_proj.{side}.weight"] for one in "qkv"]
            weights[f"transformer.h.{layer}.attn.qkv.{side}"] = torch.cat(queries_keys_values)
            for litgpt, hugging_face in single.items():
                weights[f"transformer.h.{layer}.{litgpt}.{side}"] = peft[
                    f"{LAYER}.{layer}.{hugging_face}.{side}.weight"
                ]
    return weights


def losses(output: Path, parts: int) -> list[float]:
    """Of each step, from litgpt's own log: the line of a step's last part has the mean of its parts."""
    (log,) = output.glob("logs/csv/*/metrics.csv")
    with log.open() as file:
        lines = [line for line in csv.DictReader(file) if line["loss"]]
    return [float(line["loss"]) for line in lines if int(line["iter"]) % parts == 0]


if __name__ == "__main__":
    main()
