"""Loading a base model for training: frozen, in the number format asked for, with packed attention.

Safetensors only, no network, no code from the model's directory. Knows nothing of adapters, data or runs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tunewise.contracts.fine_tuning import Dtype
from tunewise.contracts.run import BaseModelRef
from tunewise.errors import ModelError
from tunewise.modeling.attention import PACKED_ATTENTION

# Settings that change the logits after the head; the loss here computes plain `hidden @ head.T`.
HEAD_SETTINGS: tuple[tuple[str, float | None], ...] = (
    ("final_logit_softcapping", None),
    ("logits_scaling", 1.0),
    ("logit_scale", 1.0),
)


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """The torch name of a number format."""
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype]


def load_frozen(reference: BaseModelRef, dtype: Dtype, attention: str = PACKED_ATTENTION) -> PreTrainedModel:
    """Load a base model with every weight frozen.

    Raises:
        ModelError: cannot_load_model, unsupported_head.
    """
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            reference.path,
            dtype=torch_dtype(dtype),
            attn_implementation=attention,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            "cannot_load_model",
            f"base model {reference.name}: {reference.path} cannot be loaded: {error}; pull the model again",
            param="base_model",
        ) from error
    _check_head(model, reference)
    model.requires_grad_(False)
    model.config.use_cache = False
    return model


def _check_head(model: PreTrainedModel, reference: BaseModelRef) -> None:
    config: dict[str, Any] = model.config.get_text_config().to_dict()
    for name, neutral in HEAD_SETTINGS:
        if config.get(name, neutral) != neutral:
            raise ModelError(
                "unsupported_head",
                f"base model {reference.name} sets {name}={config[name]}, which training does not support yet; "
                "choose another base model",
                param="base_model",
            )


def backbone(model: PreTrainedModel) -> nn.Module:
    """The layers below the head: ids in, hidden states out."""
    decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    return decoder


def head_weight(model: PreTrainedModel) -> Tensor:
    """The output projection, (vocabulary, d_model)."""
    weight: Tensor = model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
    return weight
