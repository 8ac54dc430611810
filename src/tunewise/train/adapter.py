"""Writing an adapter as PEFT does: weights, config, tokenizer, template and a model card. Knows no training loop."""

import shutil
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save

from tunewise.contracts.run import ADAPTER_WEIGHTS_FILE, BaseModelRef, TrainSpec
from tunewise.train.journal import write_synced
from tunewise.train.progress import Progress

BESIDE_WEIGHTS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def write_adapter(directory: Path, model: PeftModel, spec: TrainSpec, progress: Progress) -> None:
    """Fill a directory that `PeftModel.from_pretrained` and `tunewise.serve` load.

    The bytes are made in memory first: safetensors' own writer reports a full disk as an error of its own kind.

    Raises:
        OSError: the disk is full, or the directory cannot be written.
    """
    tensors = {name: tensor.detach().contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
    write_synced(directory / ADAPTER_WEIGHTS_FILE, save(tensors, metadata={"format": "pt"}))
    model.peft_config[model.active_adapter].save_pretrained(str(directory))
    copy_tokenizer(spec.base_model, directory)
    write_synced(directory / "README.md", model_card(spec, progress).encode())


def copy_tokenizer(base: BaseModelRef, directory: Path) -> None:
    """Put the base model's tokenizer and template beside the weights."""
    for name in BESIDE_WEIGHTS:
        if (base.path / name).is_file():
            shutil.copyfile(base.path / name, directory / name)


def model_card(spec: TrainSpec, progress: Progress) -> str:
    """What was trained on what, how, with which outcome, in the form that model hubs read."""
    front = ["---", "library_name: peft", f"base_model: {spec.base_model.name}", "tags: [lora, tunewise]", "---"]
    return "\n".join([*front, "", f"# A LoRA adapter for {spec.base_model.name}", "", *_card_body(spec, progress), ""])


def _card_body(spec: TrainSpec, progress: Progress) -> list[str]:
    files = [("training", spec.train_file), *([("validation", spec.valid_file)] if spec.valid_file else [])]
    return [
        "Licence: that of the base model applies; it is not recorded here.",
        *_table("Base model", {"name": spec.base_model.name, "content sha256": spec.base_model.revision}),
        *_table("Data", {f"{use} file": f"{file.rows} rows, sha256 {file.sha256}" for use, file in files}),
        *_table("Hyperparameters", _hyperparameters(spec)),
        *_table("Metrics", _metrics(progress)),
        *_table("Versions", spec.versions),
    ]


def _hyperparameters(spec: TrainSpec) -> dict[str, object]:
    lora = {f"LoRA {name}": value for name, value in spec.lora.model_dump().items()}
    names = ("n_epochs", "batch_size", "learning_rate", "schedule", "warmup_ratio", "weight_decay", "max_grad_norm")
    rest = ("max_tokens", "overlong", "dtype", "seed")
    return {**{name: getattr(spec, name) for name in names}, **lora, **{name: getattr(spec, name) for name in rest}}


def _metrics(progress: Progress) -> dict[str, object]:
    mean = progress.epoch_loss_sum / progress.epoch_size if progress.epoch_size else None
    return {
        "steps": progress.step,
        "trained tokens": progress.tokens,
        "training loss, last epoch": "not measured" if mean is None else f"{mean:.4f}",
        "validation loss": "not measured" if progress.valid_loss is None else f"{progress.valid_loss:.4f}",
        "validation token accuracy": (
            "not measured" if progress.valid_accuracy is None else f"{progress.valid_accuracy:.4f}"
        ),
    }


def _table(title: str, entries: dict[str, object] | dict[str, str]) -> list[str]:
    return ["", f"## {title}", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in entries.items())]
