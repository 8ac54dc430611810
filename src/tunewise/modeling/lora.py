"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685): made and named by PEFT, computed here.

PEFT's own forward casts the input to the adapter's float32 and walks five modules for each linear layer. Here one
autograd function does a layer's forward and backward, in the frozen weight's number format, and never computes a
gradient for the frozen weight. Exactness is proved in tests/modeling/test_lora.py. Knows nothing of files or batches.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from tunewise.contracts.run import LoraSpec
from tunewise.errors import ModelError
from tunewise.modeling.autograd import Context, call
from tunewise.modeling.dora import row_norms, row_squares
from tunewise.modeling.gates import use_fast_gates
from tunewise.modeling.layers import first_trained_layer, layers_of, linear_names
from tunewise.modeling.norms import use_fast_norms
from tunewise.modeling.token_rows import peft_option, use_rows_in_place

ADAPTER_NAME = "default"


class Pair(NamedTuple):
    """Two thin matrices whose product is added to a weight: down (rank, inputs) and up (outputs, rank)."""

    down: Tensor
    up: Tensor


class _LoraLinear(torch.autograd.Function):
    """x: (tokens, inputs); weight: (outputs, inputs), frozen; down: (rank, inputs); up: (outputs, rank)."""

    @staticmethod
    def forward(
        ctx: Context, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        down, up = down.to(x.dtype), up.to(x.dtype)
        inner = x @ down.t()
        out = linear(x, weight, bias)
        out.addmm_(inner, up.t(), alpha=scale)
        ctx.save_for_backward(x, weight, down, up, inner)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, inner = ctx.saved_tensors
        grad = grads[0]
        grad_inner = (grad @ up).mul_(ctx.scale)
        grad_up = (grad.t() @ inner).mul_(ctx.scale)
        grad_down = grad_inner.t() @ x
        grad_x = (grad @ weight).addmm_(grad_inner, down) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_down.float(), grad_up.float(), None


def lora_linear(x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """`x @ weight.T + bias + scale * (x @ down.T) @ up.T` over the last axis of x; gradients for x, down and up."""
    flat = x.reshape(-1, x.shape[-1])
    (out,) = call(_LoraLinear, flat, weight, bias, down, up, scale)
    return out.view(*x.shape[:-1], out.shape[-1])


def add_adapter(
    model: PreTrainedModel, spec: LoraSpec, top_layers: int | None = None, *, tokens: Sequence[int] = ()
) -> PeftModel:
    """Put a fresh adapter on a frozen model, with float32 weights; torch's random state decides its values.

    `top_layers`: on the last so many layers only. `tokens` are those whose own rows are trained too (`token_rows`).
    What `spec.init` asks for is done by `modeling.frozen_pairs`.

    Raises:
        ModelError: unknown_lora_targets, too_many_top_layers.
    """
    targets = spec.targets if isinstance(spec.targets, str) else list(spec.targets)
    try:
        with warnings.catch_warnings():
            # PEFT asks transformers for a name that transformers 5 has deprecated.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            adapted = get_peft_model(model, _config(model, spec, top_layers, tokens), adapter_name=ADAPTER_NAME)
    except ValueError as error:
        raise ModelError(
            "unknown_lora_targets",
            f"LoRA targets {targets} do not fit {model.config.name_or_path}: {error}; "
            'use "all-linear" or names of its linear layers such as q_proj',
            param="lora.targets",
        ) from error
    _use_fast_forward(adapted)
    use_fast_norms(adapted)
    use_fast_gates(adapted)
    use_rows_in_place(adapted)
    return adapted


def _config(model: PreTrainedModel, spec: LoraSpec, top_layers: int | None, tokens: Sequence[int]) -> LoraConfig:
    targets: str | list[str] = spec.targets if isinstance(spec.targets, str) else list(spec.targets)
    layers = None
    if top_layers is not None:
        count = len(layers_of(model))
        layers = list(range(first_trained_layer(model, top_layers), count))
        # PEFT takes numbers of layers only beside names.
        targets = linear_names(model) if isinstance(targets, str) else targets
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # annotated int, used as a number
        lora_dropout=spec.dropout,
        target_modules=targets,
        use_rslora=spec.rank_stabilized,
        use_dora=spec.dora,
        layers_to_transform=layers,
        trainable_token_indices=peft_option(model, tokens),
        base_model_name_or_path=model.config.name_or_path,
    )


def lora_layers(adapted: nn.Module) -> dict[str, PeftLinear]:
    """The linear layers that have an adapter, by their path in the adapted model."""
    return {path: layer for path, layer in adapted.named_modules() if isinstance(layer, PeftLinear)}


def scale_of(layer: PeftLinear) -> float:
    """What the trained pair's product is multiplied by."""
    return float(layer.scaling[ADAPTER_NAME])


def trained_pair(layer: PeftLinear) -> Pair:
    """The adapter's weights that are trained."""
    down, up = cast(nn.Linear, layer.lora_A[ADAPTER_NAME]), cast(nn.Linear, layer.lora_B[ADAPTER_NAME])
    return Pair(down.weight, up.weight)


def frozen_pair(layer: PeftLinear) -> Pair | None:
    """What is applied beside the trained pair, with the same scale, and stays as it is."""
    held = dict(layer.named_buffers(recurse=False))
    return Pair(held["frozen_down"], held["frozen_up"]) if "frozen_up" in held else None


def hold_frozen(layer: PeftLinear, pair: Pair) -> None:
    """Apply a pair beside the trained one, in the trained one's scale; what was held before goes.

    Raises:
        ModelError: unsupported_combination.
    """
    layer.register_buffer("frozen_down", pair.down, persistent=False)
    layer.register_buffer("frozen_up", pair.up, persistent=False)
    if not _is_fast(layer):
        if layer.use_dora[ADAPTER_NAME]:
            raise ModelError(
                "unsupported_combination",
                "DoRA with dropout has nothing computed beside it; leave lora.dropout, lora.init or lora.dora out",
                param="lora",
            )
        layer.forward = partial(_beside_frozen, layer)  # type: ignore[method-assign]


def _use_fast_forward(adapted: nn.Module) -> None:
    """Replace PEFT's forward where a layer is a plain linear one without dropout; elsewhere PEFT's stays."""
    for layer in lora_layers(adapted).values():
        if _is_fast(layer):
            if layer.use_dora[ADAPTER_NAME]:
                squares = row_squares(cast(Tensor, layer.get_base_layer().weight))
                layer.register_buffer("weight_squares", squares, persistent=False)
            layer.forward = partial(_fast_forward, layer)  # type: ignore[method-assign]


def _is_fast(layer: PeftLinear) -> bool:
    is_plain = type(layer.get_base_layer()) is nn.Linear
    return is_plain and isinstance(layer.lora_dropout[ADAPTER_NAME], nn.Identity)


def _fast_forward(layer: PeftLinear, x: Tensor) -> Tensor:
    base = cast(nn.Linear, layer.get_base_layer())
    (down, up), frozen, scale = trained_pair(layer), frozen_pair(layer), scale_of(layer)
    if frozen is not None:
        # One thin product of twice the rank costs what one of the rank does.
        down, up = torch.cat([down, frozen.down]), torch.cat([up, frozen.up], 1)
    if not layer.use_dora[ADAPTER_NAME]:
        return lora_linear(x, base.weight, base.bias, down, up, scale)
    with torch.no_grad():
        # The paper's section 4.3: the norm is a constant in the backward pass.
        norms = row_norms(
            cast(Tensor, layer.weight_squares), (base.weight @ down.t().to(x.dtype)).float(), down, up * scale
        )
    magnitude = cast(Tensor, layer.lora_magnitude_vector[ADAPTER_NAME].weight)
    out = lora_linear(x, base.weight, None, down, up, scale) * (magnitude / norms).to(x.dtype)
    return out if base.bias is None else out + base.bias


def _beside_frozen(layer: PeftLinear, x: Tensor) -> Tensor:
    """PEFT's forward, and the frozen pair, which sees no dropout."""
    out: Tensor = PeftLinear.forward(layer, x)
    frozen = frozen_pair(layer)
    if frozen is None:
        return out
    return out + linear(linear(x, frozen.down.to(x.dtype)), frozen.up.to(x.dtype)) * scale_of(layer)
