"""Be TRL: train the rows of a handover with `SFTTrainer`, its settings given as those of `SFTConfig`.

Run by train_vs_trl.py and train_vs_peers.py as `PYTHON peer_trl.py DIRECTORY SETTINGS`, where PYTHON has trl and peft.
Rows come as token ids with TRL's own `assistant_masks`; the clock is around `trainer.train()`.
"""

import time
from typing import Any

from datasets import Dataset
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from peer_handover import ADAPTER_DIR, Handover, hand_back, read_order


def main() -> None:
    """Train one epoch and hand back the measurement."""
    directory, handover, settings = read_order()
    shared: dict[str, Any] = {
        "output_dir": str(directory / "trl"),
        "per_device_train_batch_size": handover["batch_size"],
        "num_train_epochs": 1,
        "learning_rate": handover["learning_rate"],
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "train_sampling_strategy": "sequential",
    }
    trainer = SFTTrainer(
        model=handover["model"],
        args=SFTConfig(**shared | settings),
        train_dataset=dataset(handover),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=handover["rank"], lora_alpha=handover["alpha"], target_modules="all-linear"
        ),
    )
    set_peft_model_state_dict(trainer.model, load_file(directory / ADAPTER_DIR / "adapter_model.safetensors"))
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    hand_back(handover, seconds, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry])


def dataset(handover: Handover) -> Dataset:
    """The rows as TRL takes rows that are tokenised already."""
    return Dataset.from_list([{"input_ids": row["ids"], "assistant_masks": row["mask"]} for row in handover["rows"]])


if __name__ == "__main__":
    main()
