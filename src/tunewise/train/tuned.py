"""What is trained, an adapter or the weights themselves: begun, brought back from a checkpoint, and written.

Knows the two kinds, so that the loop and its checkpoints need not. Knows no optimizer and no rows.
"""

from pathlib import Path
from typing import TypeAlias

from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load
from transformers import PreTrainedModel

from tunewise.contracts.run import (
    ADAPTER_DIR,
    ADAPTER_WEIGHTS_FILE,
    MODEL_DIR,
    MODEL_WEIGHTS_FILE,
    TrainSpec,
)
from tunewise.errors import ModelError, TrainingError
from tunewise.modeling.frozen_pairs import begin_at_components, restore_state
from tunewise.modeling.layers import train_weights
from tunewise.modeling.loading import load_frozen, load_trained
from tunewise.modeling.lora import add_adapter
from tunewise.train.adapter import write_adapter
from tunewise.train.parent import load_parent, merge_parent
from tunewise.train.progress import Progress
from tunewise.train.whole_model import write_model

Tuned: TypeAlias = PeftModel | PreTrainedModel


def tuned_directory(spec: TrainSpec) -> str:
    """Where the tuned weights lie in the run directory."""
    return MODEL_DIR if spec.weights == "full" else ADAPTER_DIR


def tuned_weights(spec: TrainSpec) -> str:
    """The file of the tuned weights, in their directory and in a checkpoint."""
    return MODEL_WEIGHTS_FILE if spec.weights == "full" else ADAPTER_WEIGHTS_FILE


def load_base(spec: TrainSpec, checkpoint: Path | None) -> PreTrainedModel:
    """The base model, or the checkpoint of it where every weight is trained.

    Raises:
        ModelError, TrainingError: it cannot be loaded, unreadable_checkpoint, qlora_unavailable.
    """
    if spec.weights != "full":
        return load_frozen(spec.base_model, spec.dtype, four_bit=spec.weights == "qlora")
    if checkpoint is None:
        return load_trained(spec.base_model, spec.base_model.path)
    try:
        return load_trained(spec.base_model, checkpoint)
    except ModelError as error:
        raise unreadable(checkpoint, error) from error


def begin(base: PreTrainedModel, spec: TrainSpec, checkpoint: Path | None) -> Tuned:
    """Make what is trained: as it was at the checkpoint, or at its first weights.

    Raises:
        ModelError, TrainingError: the adapter or its parent does not fit, unreadable_checkpoint.
    """
    if spec.weights == "full":
        if spec.parent is not None and checkpoint is None:
            merge_parent(spec.parent, base)
        train_weights(base, spec.top_layers)
        return base
    model = add_adapter(base, spec.lora, spec.top_layers, tokens=spec.base_model.added_tokens)
    if checkpoint is not None:
        restore(model, spec, checkpoint)
        return model
    if spec.lora.init != "default":
        begin_at_components(model, spec.lora.init)
    if spec.parent is not None:
        load_parent(spec.parent, model)
    return model


def restore(model: Tuned, spec: TrainSpec, checkpoint: Path) -> None:
    """Put the tuned weights back to where a checkpoint was written.

    Raises:
        TrainingError: unreadable_checkpoint.
    """
    try:
        if isinstance(model, PeftModel):
            restore_state(model, load((checkpoint / ADAPTER_WEIGHTS_FILE).read_bytes()))
        else:
            model.load_state_dict(load_trained(spec.base_model, checkpoint).state_dict())
    except (OSError, ModelError, SafetensorError) as error:
        raise unreadable(checkpoint, error) from error


def write_tuned(directory: Path, model: Tuned, spec: TrainSpec, progress: Progress) -> None:
    """Fill a directory that is hosted, tuned further and exported.

    Raises:
        OSError: the disk is full, or the directory cannot be written.
    """
    if isinstance(model, PeftModel):
        write_adapter(directory, model, spec, progress)
    else:
        write_model(directory, model, spec, progress)


def unreadable(checkpoint: Path, error: Exception) -> TrainingError:
    """A checkpoint that cannot be gone on from."""
    return TrainingError(
        "unreadable_checkpoint",
        f"{checkpoint}: this checkpoint cannot be read: {error}; remove the directory to go on from the one before",
    )
