"""Linear layers packed for the machine, several that read the same input as one, with LoRA adapters beside them.

Knows weights and rows; knows nothing of requests. Where oneDNN can, weights are reordered once into its blocked layout
(`mkldnn::_linear_pointwise`): at 8 to 64 rows that is 1.2 to 2.2 times `F.linear`, for float32 on AVX2 as for bfloat16
on AVX-512 (docs/adr/0007). Exactness: tests/serve/test_linear.py; speed: benchmarks/generate_vs_transformers.py.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from tunewise.serve.adapters import AdapterRows, LoraBank

Kernel: TypeAlias = Callable[[Tensor], Tensor]

SHARED_INPUT: tuple[tuple[str, ...], ...] = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
PACKED_FOR_ROWS = 32  # the blocking oneDNN chooses for 32 rows is within 5 % of the best from 1 to 1,024


class PackedLinear(nn.Module):
    """One or several linear layers with the same input. `paths` are their names in the model, as PEFT writes them."""

    def __init__(self, paths: Sequence[str], layers: Sequence[nn.Linear], rows: AdapterRows) -> None:
        super().__init__()
        self.paths = tuple(paths)
        self.sizes = [layer.out_features for layer in layers]
        self.in_features: int = layers[0].in_features
        self._rows = rows
        weight, bias = torch.cat([layer.weight.detach() for layer in layers]), _joined_bias(layers)
        self._multiply = packed_kernel(weight, bias)
        self.lora = LoraBank(self.paths, self.in_features, self.sizes, self._multiply, bias, weight.dtype)
        self._input: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()

    def forward(self, hidden: Tensor) -> Tensor:
        """`hidden`: (..., tokens, in_features) → (..., tokens, sum of out_features)."""
        output = self._multiply(hidden)
        self.lora.add(output, hidden, self._rows)
        return output

    def part(self, hidden: Tensor, index: int) -> Tensor:
        """The output of one of the layers; computed with the first and kept until the last has been asked for."""
        if index == 0 or self._input is not hidden:
            self._input, self._outputs = hidden, self(hidden).split(self.sizes, dim=-1)
        output = self._outputs[index]
        if index == len(self.sizes) - 1:
            self._input, self._outputs = None, ()
        return output


class Part(nn.Module):
    """Stands where one of several joined layers stood."""

    def __init__(self, joined: PackedLinear, index: int) -> None:
        super().__init__()
        self._joined = [joined]  # in a list, so that torch does not register one module under several names
        self._index = index

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., tokens, in_features) → (..., tokens, out_features)."""
        return self._joined[0].part(hidden, self._index)


def pack(model: nn.Module, rows: AdapterRows) -> list[PackedLinear]:
    """Replace every linear layer of `model` by its packed form; the plain weights are let go."""
    packed: list[PackedLinear] = []
    for path, parent in list(model.named_modules()):
        children = {name: child for name, child in parent.named_children() if isinstance(child, nn.Linear)}
        for names in _joinable(children):
            full = [f"{path}.{name}" if path else name for name in names]
            joined = PackedLinear(full, [children[name] for name in names], rows)
            packed.append(joined)
            for index, name in enumerate(names):
                setattr(parent, name, joined if len(names) == 1 else Part(joined, index))
    return packed


def packed_kernel(weight: Tensor, bias: Tensor | None) -> Kernel:
    """The fastest `x @ weight.T + bias` that this build and machine have. `weight`: (out, in)."""
    if not _packs(weight.dtype):
        return lambda hidden: nn.functional.linear(hidden, weight, bias)
    blocked = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_ROWS)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda hidden: multiply(hidden, blocked, bias, "none", [], "")


def native_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 matrices in hardware (AVX-512 BF16 or AMX, or a GPU)."""
    return torch.cuda.is_available() or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packs(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.enabled or torch.cuda.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and native_bfloat16())


def _joined_bias(layers: Sequence[nn.Linear]) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    return torch.cat(
        [torch.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias.detach() for layer in layers]
    )


def _joinable(children: dict[str, nn.Linear]) -> list[tuple[str, ...]]:
    groups = [
        names
        for names in SHARED_INPUT
        if all(name in children for name in names) and len({children[name].in_features for name in names}) == 1
    ]
    taken = {name for names in groups for name in names}
    return groups + [(name,) for name in children if name not in taken]
