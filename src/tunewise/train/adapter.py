"""Writing an adapter as PEFT does: weights, config, tokenizer, template and a model card. Knows no training loop."""

import shutil
from pathlib import Path

from peft import PeftModel
from safetensors.torch import save

from tunewise.contracts.run import ADAPTER_WEIGHTS_FILE, BaseModelRef, TrainSpec
from tunewise.modeling import card
from tunewise.modeling.frozen_pairs import whole_config, whole_state
from tunewise.train.journal import write_synced
from tunewise.train.progress import Progress

BESIDE_WEIGHTS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def write_adapter(directory: Path, model: PeftModel, spec: TrainSpec, progress: Progress) -> None:
    """Fill a directory that `PeftModel.from_pretrained` and `tunewise.serve` load.

    The bytes are made in memory first: safetensors' own writer reports a full disk as an error of its own kind.

    Raises:
        OSError: the disk is full, or the directory cannot be written.
    """
    write_synced(directory / ADAPTER_WEIGHTS_FILE, save(whole_state(model), metadata={"format": "pt"}))
    whole_config(model).save_pretrained(str(directory))
    copy_tokenizer(spec.base_model, directory)
    write_synced(directory / card.CARD_FILE, model_card(spec, progress).encode())


def copy_tokenizer(base: BaseModelRef, directory: Path) -> None:
    """Put the base model's tokenizer and template beside the weights."""
    for name in BESIDE_WEIGHTS:
        if (base.path / name).is_file():
            shutil.copyfile(base.path / name, directory / name)


def model_card(spec: TrainSpec, progress: Progress) -> str:
    """What was trained on what, how, with which outcome, in the form that model hubs read."""
    is_model = spec.weights == "full"
    library, tags = ("transformers", "[tunewise]") if is_model else ("peft", "[lora, tunewise]")
    front = ["---", f"library_name: {library}", f"base_model: {spec.base_model.name}", f"tags: {tags}", "---"]
    title = f"# {spec.base_model.name}, tuned" if is_model else f"# A LoRA adapter for {spec.base_model.name}"
    return "\n\n".join(["\n".join(front), title, *_card_body(spec, progress)]) + "\n"


def _card_body(spec: TrainSpec, progress: Progress) -> list[str]:
    return [
        "Licence: that of the base model applies; it is not recorded here.",
        card.table("Base model", {"name": spec.base_model.name, "content sha256": spec.base_model.revision}),
        card.data(spec),
        card.hyperparameters(spec),
        card.table("Metrics", _metrics(progress)),
        card.table("Versions", spec.versions),
    ]


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
