"""Matrix products with weights that never change: how they are stored, and what multiplies them.

Knows number formats and this machine; knows nothing of models. `same` keeps the weights as they are, reordered once
into oneDNN's blocked layout where it can (docs/adr/0007). `float16` and `int8` store them smaller and multiply by
FBGEMM: float16 is widened to float32 as it is read, so that activations and sums stay float32; int8 has a scale for
each row of the weight and one for each product's activations. Exactness: tests/serve/test_kernels.py; speed and what it
costs in quality: benchmarks/hosting_engine.py (docs/adr/0025).
"""

import warnings
from collections.abc import Callable
from typing import Literal, TypeAlias, assert_never

import torch
from torch import Tensor, nn

from tunewise.errors import ConfigError

Kernel: TypeAlias = Callable[[Tensor], Tensor]
Weights: TypeAlias = Literal["same", "float16", "int8"]

PACKED_FOR_ROWS = 32  # the blocking oneDNN chooses for 32 rows is within 5 % of the best from 1 to 1,024
FLOAT16_MAX = 65504.0


def kernel(weight: Tensor, bias: Tensor | None, weights: Weights = "same") -> Kernel:
    """The fastest `x @ weight.T + bias` that this build and machine have. `weight`: (out, in).

    Raises:
        ConfigError: `weights_unsupported`, on machines that FBGEMM is not built for.
    """
    match weights:
        case "same":
            return _blocked(weight, bias) if _blocks(weight.dtype) else _plain(weight, bias)
        case "float16":
            check_supported(weights, weight.dtype)
            fits = float(weight.abs().max()) <= FLOAT16_MAX
            return _float16(weight, bias) if fits else _blocked(weight, bias)
        case "int8":
            check_supported(weights, weight.dtype)
            return _int8(weight, bias)
        case _:
            assert_never(weights)


def check_supported(weights: Weights, dtype: torch.dtype) -> None:
    """See that weights may be stored so beside activations of `dtype`.

    Raises:
        ConfigError: `weights_unsupported`, with what to do.
    """
    if weights == "same":
        return
    if dtype != torch.float32:
        message = f"weights={weights} needs float32 activations, not {dtype}; add --dtype float32, or leave it out"
        raise ConfigError("weights_unsupported", message, param="--weights")
    if torch.cuda.is_available() or "fbgemm" not in torch.backends.quantized.supported_engines:
        message = f"weights={weights} needs a CPU that FBGEMM is built for (x86-64 with AVX2); leave it out"
        raise ConfigError("weights_unsupported", message, param="--weights")


def native_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 matrices in hardware (AVX-512 BF16 or AMX, or a GPU)."""
    return torch.cuda.is_available() or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _blocks(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.enabled or torch.cuda.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and native_bfloat16())


def _plain(weight: Tensor, bias: Tensor | None) -> Kernel:
    return lambda hidden: nn.functional.linear(hidden, weight, bias)


def _blocked(weight: Tensor, bias: Tensor | None) -> Kernel:
    blocked = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_ROWS)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda hidden: multiply(hidden, blocked, bias, "none", [], "")


def _float16(weight: Tensor, bias: Tensor | None) -> Kernel:
    packed = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), bias)
    multiply = torch.ops.quantized.linear_dynamic_fp16.default
    return lambda hidden: multiply(hidden, packed)


def _int8(weight: Tensor, bias: Tensor | None) -> Kernel:
    scales = (weight.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny).double()
    with warnings.catch_warnings():
        # Eager-mode quantisation moves to torchao, whose CPU kernels need more than AVX2.
        warnings.filterwarnings("ignore", message=".*quant", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*quant", category=DeprecationWarning)
        rounded = torch.quantize_per_channel(weight, scales, torch.zeros(len(scales), dtype=torch.long), 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(rounded, bias)
    multiply = torch.ops.quantized.linear_dynamic.default
    # Without VNNI the product of two pairs of 8 bits may leave 16 bits; one bit less of the activations avoids it.
    return lambda hidden: multiply(hidden, packed, True)
