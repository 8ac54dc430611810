"""Writing a model as a GGUF file: its shape, its tokenizer, its tensors under llama.cpp's names and in its order.

Matrices are f16 or q8_0, vectors float32, as llama.cpp's own script has it. Tensors are turned one by one while they
are written, so that no second copy of the model is held. Knows Llama, Qwen 2, Qwen 3 and Gemma 3, and refuses others by
name; whether llama.cpp makes of the file what the model was is the gate's to find out.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, LlamaFileType, RopeScalingType
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from tunewise.contracts.export import ExportSpec
from tunewise.data.template import Template
from tunewise.errors import ModelError
from tunewise.export.gguf_tokens import add_tokenizer
from tunewise.export.tuned import tokenizer_directory

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
}
FORMATS = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
GEMMA_PERIOD = 6  # llama.cpp takes every sixth layer for a full one where a file does not say
GEMMA_27B_LAYERS = 62
PERMUTED = ("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias")


class Stored(NamedTuple):
    """A tensor under its name in the file, and how it is to be kept there."""

    name: str
    value: Tensor
    kind: GGMLQuantizationType


def write_gguf(spec: ExportSpec, model: PreTrainedModel, template: Template, path: Path) -> None:
    """Write the whole file.

    Raises:
        ModelError: unsupported_gguf, unknown_tokenizer.
        OSError: the disk is full.
    """
    config = model.config.get_text_config()
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise _unsupported(spec, f"{config.model_type} models are not written, only {', '.join(ARCHITECTURES)}")
    kind, file_type = FORMATS[spec.quantisation]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_name(spec.title)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if spec.licence:
        writer.add_license(spec.licence.id)
    _add_shape(writer, config, spec)
    add_tokenizer(writer, tokenizer_directory(spec), template, config.vocab_size)
    stored = list(_tensors(model, config, architecture, kind, spec))
    for tensor in stored:
        shape = gguf.quant_shape_to_byte_shape(tensor.value.shape, tensor.kind)
        nbytes = math.prod(shape)
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), nbytes, raw_dtype=tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in stored:
        writer.write_tensor_data(_turned(tensor))
    writer.close()


def _turned(tensor: Stored) -> NDArray[np.uint8]:
    values = np.ascontiguousarray(tensor.value.detach().float().numpy())
    kept: NDArray[Any] = gguf.quantize(values, tensor.kind)
    return kept.view(np.uint8)


def _add_shape(writer: gguf.GGUFWriter, config: PreTrainedConfig, spec: ExportSpec) -> None:
    shape: dict[str, Any] = config.to_dict()
    heads = shape["num_attention_heads"]
    head_dim = shape.get("head_dim") or shape["hidden_size"] // heads
    writer.add_vocab_size(shape["vocab_size"])
    writer.add_context_length(shape["max_position_embeddings"])
    writer.add_embedding_length(shape["hidden_size"])
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_feed_forward_length(shape["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(shape["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(shape["rms_norm_eps"])
    if config.model_type == "gemma3_text":
        _add_windows(writer, shape, spec)
        return
    if shape.get("use_sliding_window"):
        raise _unsupported(spec, "llama.cpp has no attention windows for Qwen")
    _add_rope(writer, shape["rope_parameters"], spec)


def _add_rope(writer: gguf.GGUFWriter, rope: dict[str, Any], spec: ExportSpec) -> None:
    writer.add_rope_freq_base(rope["rope_theta"])
    match rope["rope_type"]:
        case "default" | "llama3":  # the factors of the latter are a tensor
            return
        case "linear":
            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
        case other:
            raise _unsupported(spec, f"rotary frequencies of the kind {other!r} are not written")


def _add_windows(writer: gguf.GGUFWriter, shape: dict[str, Any], spec: ExportSpec) -> None:
    """Of Gemma 3: windows of attention in all but each n-th layer, and rotary frequencies for both kinds of layer."""
    kinds, period = shape["layer_types"], _period(shape["layer_types"], spec)
    writer.add_sliding_window(shape["sliding_window"])
    if period != GEMMA_PERIOD and "sliding_attention" in kinds:
        writer.add_sliding_window_pattern(period)
    _add_rope(writer, shape["rope_parameters"]["full_attention"], spec)
    windowed = shape["rope_parameters"]["sliding_attention"]
    if windowed["rope_type"] != "default":
        raise _unsupported(spec, f"llama.cpp does not scale frequencies within windows ({windowed})")
    writer.add_rope_freq_base_swa(windowed["rope_theta"])
    if shape.get("attn_logit_softcapping"):
        raise _unsupported(spec, "llama.cpp does not cap Gemma 3's attention")
    if shape.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(shape["final_logit_softcapping"])


def _period(kinds: list[str], spec: ExportSpec) -> int:
    """Every which layer sees the whole text.

    Raises:
        ModelError: unsupported_gguf, where there is no such rule.
    """
    period = kinds.index("full_attention") + 1 if "full_attention" in kinds else len(kinds) + 1
    if any((kind == "full_attention") != (number % period == period - 1) for number, kind in enumerate(kinds)):
        raise _unsupported(spec, f"its layers with windows follow no rule that llama.cpp has: {kinds}")
    return period


def _tensors(
    model: PreTrainedModel,
    config: PreTrainedConfig,
    architecture: gguf.MODEL_ARCH,
    kind: GGMLQuantizationType,
    spec: ExportSpec,
) -> Iterator[Stored]:
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    rope: dict[str, Any] = config.to_dict()["rope_parameters"]
    if rope.get("rope_type") == "llama3":
        yield Stored("rope_freqs.weight", _llama3_factors(config, rope), GGMLQuantizationType.F32)
    for path, value in model.state_dict().items():
        if path == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = names.get_name(path, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise _unsupported(spec, f"llama.cpp has no name for {path}")
        turned = _as_llama_cpp_has_it(path, value, config)
        fits = value.ndim > 1 and (kind == GGMLQuantizationType.F16 or value.shape[-1] % 32 == 0)
        rest = GGMLQuantizationType.F16 if value.ndim > 1 else GGMLQuantizationType.F32
        yield Stored(name, turned, kind if fits else rest)


def _as_llama_cpp_has_it(path: str, value: Tensor, config: PreTrainedConfig) -> Tensor:
    """Llama's queries and keys have their rotary pairs side by side; Gemma's norms are counted from 0, not from 1."""
    if config.model_type == "llama" and path.endswith(PERMUTED):
        heads = config.num_attention_heads if "q_proj" in path else config.num_key_value_heads
        return value.reshape(heads, 2, -1, *value.shape[1:]).transpose(1, 2).reshape(value.shape)
    if config.model_type == "gemma3_text" and path.endswith("norm.weight"):
        gain = 1 + value.float()
        return gain * _query_scale(config) if path.endswith("q_norm.weight") else gain
    return value


def _query_scale(config: PreTrainedConfig) -> float:
    """What a Gemma's queries lack of their scale once llama.cpp has scaled them in its way; 1 for published ones."""
    width = config.hidden_size / config.num_attention_heads
    theirs: float = width if config.num_hidden_layers == GEMMA_27B_LAYERS else config.head_dim
    return math.sqrt(theirs / config.query_pre_attn_scalar)


def _llama3_factors(config: PreTrainedConfig, rope: dict[str, Any]) -> Tensor:
    """By what each rotary frequency is divided: long waves by `factor`, short ones not, between them by a mean."""
    head_dim = config.to_dict().get("head_dim") or config.hidden_size // config.num_attention_heads
    frequencies = rope["rope_theta"] ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    smooth = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
    smooth = smooth.clamp(0, 1)
    factors: Tensor = 1 / ((1 - smooth) / rope["factor"] + smooth)
    return factors


def _unsupported(spec: ExportSpec, why: str) -> ModelError:
    return ModelError("unsupported_gguf", f"{spec.title}: {why}; export merged", param="--to")
