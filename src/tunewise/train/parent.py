"""Where a run's first weights come from when they are not the base model's alone: the adapter of a tuned model.

Its weights train on, or they stay as they are under a fresh adapter. Knows PEFT's files; nothing of steps.
"""

import json
from hashlib import sha256
from typing import Any, assert_never

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor
from transformers import PreTrainedModel

from tunewise.contracts.run import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, ParentAdapter
from tunewise.errors import TrainingError
from tunewise.modeling.frozen_pairs import add_frozen
from tunewise.modeling.lora import ADAPTER_NAME, Pair, lora_layers, scale_of

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


def load_parent(parent: ParentAdapter, model: PeftModel) -> None:
    """Begin where another adapter ended, or put what is trained on top of it.

    Raises:
        TrainingError: unreadable_parent, changed_parent, parent_does_not_fit.
    """
    config, weights = _read(parent)
    match parent.use:
        case "continue":
            _continue(parent, model, weights)
        case "stack":
            _stack(parent, model, config, weights)
        case _:
            assert_never(parent.use)


def merge_parent(parent: ParentAdapter, base: PreTrainedModel) -> None:
    """Add another adapter to the weights themselves, which are trained on from there.

    Raises:
        TrainingError: unreadable_parent, changed_parent, parent_does_not_fit.
    """
    if parent.use != "continue":
        raise _does_not_fit(parent, "where every weight is trained, nothing of it stays; choose parent.use continue")
    _read(parent)
    PeftModel.from_pretrained(base, str(parent.path)).merge_and_unload()


def _read(parent: ParentAdapter) -> tuple[dict[str, Any], dict[str, Tensor]]:
    path = parent.path / ADAPTER_WEIGHTS_FILE
    try:
        config = json.loads((parent.path / ADAPTER_CONFIG_FILE).read_bytes())
        data = path.read_bytes()
        weights = load(data)
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(
            "unreadable_parent", f"{path}: cannot be read: {error}; start from another model"
        ) from error
    found = sha256(data).hexdigest()
    if found != parent.sha256:
        raise TrainingError(
            "changed_parent", f"{path}: sha256 is {found}, but the run was made for {parent.sha256}; restore the file"
        )
    return config, weights


def _continue(parent: ParentAdapter, model: PeftModel, weights: dict[str, Tensor]) -> None:
    wanted = {name: tensor.shape for name, tensor in get_peft_model_state_dict(model).items()}
    if wanted != {name: tensor.shape for name, tensor in weights.items()}:
        raise _does_not_fit(
            parent,
            "its weights do not have the names and shapes of this run's adapter; tune it further with the base model, "
            "rank and targets that it was made with",
        )
    set_peft_model_state_dict(model, weights)


def _stack(parent: ParentAdapter, model: PeftModel, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    layers = lora_layers(model)
    has_dora = any(layer.use_dora[ADAPTER_NAME] for layer in layers.values())
    if config["use_dora"] or has_dora:
        why = "DoRA's magnitudes are not those of a sum of two adapters; choose parent.use continue, or LoRA for both"
        raise _does_not_fit(parent, why)
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
    downs = {name.removesuffix(DOWN): down for name, down in weights.items() if name.endswith(DOWN)}
    for path, down in downs.items():
        if path not in layers or layers[path].in_features != down.shape[1]:
            raise _does_not_fit(
                parent,
                f"it changes {path.removeprefix('base_model.model.')}, which the new adapter does not; choose targets "
                "and top_layers that hold every layer of the parent",
            )
    ups = {path: weights[path + UP] * (scale / scale_of(layers[path])) for path in downs}
    add_frozen(model, {path: Pair(downs[path].float(), ups[path].float()) for path in downs})


def _does_not_fit(parent: ParentAdapter, why: str) -> TrainingError:
    return TrainingError("parent_does_not_fit", f"{parent.path / ADAPTER_WEIGHTS_FILE}: {why}", param="model")
