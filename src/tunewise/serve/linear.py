"""Linear layers packed for the machine, several that read the same input as one, with LoRA adapters beside them.

Knows weights and rows; knows nothing of requests, nor of how a product is computed (`serve.kernels`). Exactness:
tests/serve/test_linear.py; speed: benchmarks/generate_vs_transformers.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tunewise.serve.adapters import AdapterRows, LoraBank
from tunewise.serve.kernels import kernel

SHARED_INPUT: tuple[tuple[str, ...], ...] = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class PackedLinear(nn.Module):
    """One or several linear layers with the same input. `paths` are their names in the model, as PEFT writes them."""

    def __init__(self, paths: Sequence[str], layers: Sequence[nn.Linear], rows: AdapterRows) -> None:
        super().__init__()
        self.paths = tuple(paths)
        self.sizes = [layer.out_features for layer in layers]
        self.in_features: int = layers[0].in_features
        self._rows = rows
        weight, bias = torch.cat([layer.weight.detach() for layer in layers]), _joined_bias(layers)
        self._multiply = kernel(weight, bias)
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

    @property
    def joined(self) -> PackedLinear:
        """All of them."""
        return self._joined[0]

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
