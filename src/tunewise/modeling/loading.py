"""Loading a base model for training: frozen, in the number format asked for, with packed attention.

Safetensors only, no network, no code from the model's directory. Knows nothing of adapters, data or runs.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from tunewise.contracts.fine_tuning import Dtype
from tunewise.contracts.run import BaseModelRef
from tunewise.errors import ModelError
from tunewise.machine import refuse_missing_quantization
from tunewise.modeling.attention import PACKED_ATTENTION

# Settings that change the logits in ways that the loss here does not compute.
HEAD_SETTINGS: tuple[tuple[str, float], ...] = (("logits_scaling", 1.0), ("logit_scale", 1.0))


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """The torch name of a number format."""
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype]


def load_frozen(
    reference: BaseModelRef, dtype: Dtype, attention: str = PACKED_ATTENTION, *, four_bit: bool = False
) -> PreTrainedModel:
    """Load a base model with every weight frozen; `four_bit`: those of its layers in NF4, computed in `dtype`.

    NF4 is of Dettmers et al. 2023 (arXiv:2305.14314), as bitsandbytes has it.

    Raises:
        ModelError: cannot_load_model, unsupported_head.
        TrainingError: qlora_unavailable.
    """
    quantised: dict[str, Any] = {}
    if four_bit:
        refuse_missing_quantization()
        quantised["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch_dtype(dtype),
        )
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            reference.path,
            dtype=torch_dtype(dtype),
            attn_implementation=attention,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            **quantised,
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


def load_trained(reference: BaseModelRef, directory: Path) -> PreTrainedModel:
    """Load a model whose weights are trained, from where it began or a checkpoint of it: float32, each in memory of its
    own. Where a weight lies decides the last bits of its products, and a file has it anywhere.

    Raises:
        ModelError: cannot_load_model, unsupported_head.
    """
    model = load_frozen(reference.model_copy(update={"path": directory}), "float32")
    for weight in model.parameters():
        weight.data = weight.data.clone()
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
