"""Matrix products with weights that never change: how they are stored, and what multiplies them.

Knows number formats and this machine; knows nothing of models. Weights that float16 holds, as it does those of bfloat16
checkpoints, are stored so for float32 products: FBGEMM widens them as it reads them, which is the same product for half
the reading. Others are reordered once into oneDNN's blocked layout where it can (docs/adr/0007 and 0025). Exactness:
tests/serve/test_kernels.py; speed: benchmarks/hosting_engine.py.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

Kernel: TypeAlias = Callable[[Tensor], Tensor]

PACKED_FOR_ROWS = 32  # the blocking oneDNN chooses for 32 rows is within 5 % of the best from 1 to 1,024
FLOAT32_ROUNDING = 2.0**-24  # of a number, relative


def kernel(weight: Tensor, bias: Tensor | None) -> Kernel:
    """The fastest `x @ weight.T + bias` that this build and machine have. `weight`: (out, in)."""
    if _is_float16(weight):
        return _float16(weight, bias)
    return _blocked(weight, bias) if _blocks(weight.dtype) else _plain(weight, bias)


def native_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 matrices in hardware (AVX-512 BF16 or AMX, or a GPU)."""
    return torch.cuda.is_available() or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _is_float16(weight: Tensor) -> bool:
    """Whether float16 holds float32 weights to within float32's own rounding, and this machine multiplies by it.

    A bfloat16 number of 2⁻¹⁷ or more fits to the last bit; smaller ones lose less than float32 products do.
    """
    if weight.dtype != torch.float32 or torch.cuda.is_available():
        return False
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    lost = float((weight.half().float() - weight).norm() / weight.norm())
    return lost <= FLOAT32_ROUNDING


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
