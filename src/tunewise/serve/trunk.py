"""The layers of the Llama shape in as few calls as possible: a norm, rotary attention, a norm, a gated product.

Llama, Mistral, Qwen 2 and 3 and SmolLM 2 have it. Knows the modules' names and the order of their work; a model is
computed here only where its modules are named so, and `serve.proof` then holds every layer against the family's own
code before it is used. Between the matrix products are `modeling.loops`, where transformers' code calls some twenty
operations.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewise.modeling import loops
from tunewise.modeling.gates import PARTS
from tunewise.modeling.loops import Array, array
from tunewise.modeling.norms import epsilon_of
from tunewise.serve.attention import Heads, Seen, StepLayout, attend
from tunewise.serve.linear import PackedLinear, Part

Module: TypeAlias = Any
"""A module whose parts are known by name, which torch's types do not tell."""

LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
HEAD_NORMS = {"q_norm", "k_norm"}


class Norm(NamedTuple):
    """An RMSNorm's weight, as `loops` reads it, and epsilon."""

    weight: Array
    epsilon: np.float32


class Turn(NamedTuple):
    """Each token's rotation: (tokens, head_dim), float32."""

    cosines: Array
    sines: Array


class Layer(NamedTuple):
    """One layer's parts. `head_norms`: (2, head_dim) of queries and keys, or (0, head_dim)."""

    before_attention: Norm
    joined: PackedLinear
    head_norms: Norm
    out: PackedLinear
    before_mlp: Norm
    gate_up: PackedLinear
    down: PackedLinear
    seen: Seen


class Trunk:
    """Everything between the embedding and the output head of one model."""

    def __init__(self, model: PreTrainedModel, layers: list[Layer], last: Norm) -> None:
        config = model.config.get_text_config()
        self._rotary: nn.Module = model.model.rotary_emb
        self._layers = layers
        self._last = last
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads

    def forward(self, hidden: Tensor, positions: Tensor, layout: StepLayout, picked: Tensor) -> Tensor:
        """`hidden`: (tokens, width), embedded, which is overwritten → (rows, width), normed, of the rows `picked`."""
        turn, added = self._turn(hidden, positions), torch.zeros_like(hidden)
        for index in range(len(self._layers)):
            added = self._layer(index, hidden, added, turn, layout)
        hidden, added = hidden[picked], added[picked]
        normed = torch.empty_like(hidden)
        _add_and_norm(hidden, added, self._last, normed)
        return normed

    def layer(self, index: int, hidden: Tensor, positions: Tensor, layout: StepLayout) -> Tensor:
        """One layer by itself: `hidden` (tokens, width), which is left as it is → (tokens, width)."""
        turn, summed = self._turn(hidden, positions), hidden.clone()
        return summed + self._layer(index, summed, torch.zeros_like(hidden), turn, layout)

    def _turn(self, hidden: Tensor, positions: Tensor) -> Turn:
        cosines, sines = (each[0].float() for each in self._rotary(hidden[None], positions[None]))
        if cosines.shape != (len(hidden), self._layers[0].seen.head_dim):
            raise ValueError(f"rotary positions of shape {tuple(cosines.shape)}")
        return Turn(cosines.numpy(), sines.numpy())

    def _layer(self, index: int, hidden: Tensor, added: Tensor, turn: Turn, layout: StepLayout) -> Tensor:
        """Add to `hidden` what is still to be `added`, and all of a layer but its last sum, which is given."""
        layer, normed = self._layers[index], torch.empty_like(hidden)
        _add_and_norm(hidden, added, layer.before_attention, normed)
        heads = layer.joined(normed).view(len(hidden), self._heads + 2 * self._kv_heads, layer.seen.head_dim)
        turned = self._heads + self._kv_heads
        norms, epsilon = layer.head_norms
        loops.rotate(array(heads), turn.cosines, turn.sines, self._heads, turned, norms, epsilon)
        parts = Heads(*heads.split((self._heads, self._kv_heads, self._kv_heads), dim=1))
        attended = attend(layout, index, parts, layer.seen.scaling, layer.seen.window)
        _add_and_norm(hidden, layer.out(attended.flatten(1)), layer.before_mlp, normed)
        gated = hidden.new_empty(len(hidden), layer.down.in_features)
        loops.gate_joined(array(layer.gate_up(normed)), array(gated))
        last: Tensor = layer.down(gated)
        return last


def trunk_of(model: PreTrainedModel, seen: Sequence[Seen]) -> Trunk | None:
    """The trunk of a model whose linear layers are packed; None where its modules are not of this shape.

    `seen`: what each layer's own code asks of attention.
    """
    inner = getattr(model, "model", None)
    layers, last = getattr(inner, "layers", None), getattr(inner, "norm", None)
    if not isinstance(layers, nn.ModuleList) or not isinstance(last, nn.Module) or not hasattr(inner, "rotary_emb"):
        return None
    if not all(_has_shape(layer) for layer in layers):
        return None
    return Trunk(model, list(map(_layer, layers, seen)), _norm(last))


def _has_shape(layer: nn.Module) -> bool:
    children = dict(layer.named_children())
    if children.keys() != LAYER:
        return False
    attention, mlp = dict(children["self_attn"].named_children()), dict(children["mlp"].named_children())
    norms = [children["input_layernorm"], children["post_attention_layernorm"]]
    norms += [attention[name] for name in attention.keys() & HEAD_NORMS]
    return (
        attention.keys() in (ATTENTION, ATTENTION | HEAD_NORMS)
        and getattr(children["self_attn"], "use_rope", True)
        and mlp.keys() == PARTS
        and isinstance(mlp["down_proj"], PackedLinear)
        and isinstance(attention["o_proj"], PackedLinear)
        and isinstance(mlp["gate_proj"], Part)
        and isinstance(attention["q_proj"], Part)
        and all(isinstance(epsilon_of(norm), float) for norm in norms)
    )


def _layer(layer: Module, seen: Seen) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        before_attention=_norm(layer.input_layernorm),
        joined=attention.q_proj.joined,
        head_norms=_head_norms(attention, layer.input_layernorm.weight.dtype),
        out=attention.o_proj,
        before_mlp=_norm(layer.post_attention_layernorm),
        gate_up=mlp.gate_proj.joined,
        down=mlp.down_proj,
        seen=seen,
    )


def _head_norms(attention: Module, dtype: torch.dtype) -> Norm:
    if not hasattr(attention, "q_norm"):
        return Norm(array(torch.empty(0, attention.head_dim, dtype=dtype)), np.float32(0))
    both = torch.stack([attention.q_norm.weight.detach(), attention.k_norm.weight.detach()])
    return Norm(array(both), _norm(attention.q_norm).epsilon)


def _norm(module: Module) -> Norm:
    return Norm(array(module.weight.detach()), np.float32(cast(float, epsilon_of(module))))


def _add_and_norm(hidden: Tensor, added: Tensor, norm: Norm, normed: Tensor) -> None:
    loops.add_and_norm(array(hidden), array(added), norm.weight, norm.epsilon, array(normed))
