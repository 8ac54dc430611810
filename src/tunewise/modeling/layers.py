"""The layers of a model by number: which there are, and which of them are trained. Knows no adapter and no data."""

from typing import cast

from torch import nn
from transformers import PreTrainedModel

from tunewise.errors import ModelError
from tunewise.modeling.loading import backbone


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder's layers, lowest first."""
    layers = backbone(model).layers
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(
            "unsupported_model",
            f"{type(model).__name__} has no list of layers; choose another base model",
            param="model",
        )
    return layers


def first_trained_layer(model: PreTrainedModel, top_layers: int) -> int:
    """The number of the lowest of the last `top_layers` layers, counted from 0.

    Raises:
        ModelError: too_many_top_layers.
    """
    count = len(layers_of(model))
    if top_layers > count:
        raise ModelError(
            "too_many_top_layers",
            f"top_layers is {top_layers}, but {model.config.name_or_path} has {count} layers; choose at most {count}, "
            "or leave it out to train all",
            param="top_layers",
        )
    return count - top_layers


def linear_names(model: PreTrainedModel) -> list[str]:
    """The names of the layers' linear modules, such as q_proj."""
    modules = layers_of(model).named_modules()
    return sorted({path.rpartition(".")[2] for path, module in modules if isinstance(module, nn.Linear)})


def train_weights(model: PreTrainedModel, top_layers: int | None) -> None:
    """Let every weight be trained, or those of the last `top_layers` layers and of the norm after them."""
    if top_layers is None:
        model.requires_grad_(True)
        return
    layers_of(model)[first_trained_layer(model, top_layers) :].requires_grad_(True)
    last_norm(model).requires_grad_(True)


def last_norm(model: PreTrainedModel) -> nn.Module:
    """The norm between the last layer and the head."""
    return cast(nn.Module, backbone(model).norm)
