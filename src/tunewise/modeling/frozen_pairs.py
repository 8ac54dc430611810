"""Low-rank pairs that stay as they are beside the trained one: a parent adapter's, and principal components.

PiSSA and OLoRA begin at components `B0 @ A0` of the frozen weight W, which PEFT takes out of W. Here W stays, and the
pair (-B0, A0) is applied beside the trained one: `W + s (B A - B0 A0)` is the same sum, it needs no second copy of W,
bfloat16 rounds nothing away, and trained and frozen pair together are a plain adapter for the unchanged base model.
Knows adapters; nothing of files or steps. Exactness: tests/modeling/test_frozen_pairs.py.
"""

from collections.abc import Mapping
from copy import copy
from typing import Literal, assert_never, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor
from torch.nn.functional import pad

from tunewise.modeling.lora import ADAPTER_NAME, Pair, frozen_pair, hold_frozen, lora_layers, trained_pair


def begin_at_components(adapted: PeftModel, init: Literal["pissa", "olora"]) -> None:
    """Start the trained pair at components of each weight, and hold the same ones back beside it.

    pissa: Meng et al. 2024, arXiv:2404.02948; olora: Büyükakyüz 2024, arXiv:2406.01775.
    """
    started: dict[str, Pair] = {}
    for path, layer in lora_layers(adapted).items():
        _take_out_components(layer, init)
        down, up = trained_pair(layer)
        started[path] = Pair(down.detach().clone(), -up.detach())
    add_frozen(adapted, started)


def _take_out_components(layer: PeftLinear, init: Literal["pissa", "olora"]) -> None:
    """PEFT's own initialisation, on a copy of the weight: where it lies decides the last bits of its products."""
    weight = cast(Tensor, layer.get_base_layer().weight)
    kept = weight.data
    weight.data = kept.clone()
    match init:
        case "pissa":
            layer.pissa_init(ADAPTER_NAME, init)  # type: ignore[no-untyped-call]
        case "olora":
            layer.olora_init(ADAPTER_NAME)  # type: ignore[no-untyped-call]
        case _:
            assert_never(init)
    weight.data = kept
    down, up = trained_pair(layer)
    missing = layer.r[ADAPTER_NAME] - down.shape[0]  # a weight has no more components than its shorter side
    down.data, up.data = pad(down.data, (0, 0, 0, missing)).contiguous(), pad(up.data, (0, missing)).contiguous()


def add_frozen(adapted: PeftModel, pairs: Mapping[str, Pair]) -> None:
    """Apply pairs, by layer and in the trained pairs' scale, beside what is there; zeros make all ranks equal."""
    layers = lora_layers(adapted)
    joined: dict[str, Pair] = {}
    for path, layer in layers.items():
        down, up = trained_pair(layer)
        parts = [pair for pair in (frozen_pair(layer), pairs.get(path)) if pair is not None]
        joined[path] = Pair(
            torch.cat([down.new_empty(0, down.shape[1]), *(part.down for part in parts)]),
            torch.cat([up.new_empty(up.shape[0], 0), *(part.up for part in parts)], 1),
        )
    rank = max((pair.down.shape[0] for pair in joined.values()), default=0)
    for path, pair in joined.items():
        missing = rank - pair.down.shape[0]
        hold_frozen(layers[path], Pair(pad(pair.down, (0, 0, 0, missing)), pad(pair.up, (0, missing))))


def whole_state(adapted: PeftModel) -> dict[str, Tensor]:
    """The adapter under PEFT's names, the frozen pairs after the trained ones: what the unchanged base model takes."""
    state: dict[str, Tensor] = dict(get_peft_model_state_dict(adapted))
    for path, layer in lora_layers(adapted).items():
        frozen = frozen_pair(layer)
        if frozen is not None:
            down, up = _names(path)
            state[down], state[up] = torch.cat([state[down], frozen.down]), torch.cat([state[up], frozen.up], 1)
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


def whole_config(adapted: PeftModel) -> LoraConfig:
    """The adapter's config with the rank of `whole_state`, and alpha so that the scale is what it was."""
    whole = cast(LoraConfig, copy(adapted.peft_config[ADAPTER_NAME]))
    frozen = next(map(frozen_pair, lora_layers(adapted).values()), None)
    if frozen is not None:
        growth = 1 + frozen.down.shape[0] / whole.r
        whole.r += frozen.down.shape[0]
        whole.lora_alpha *= growth**0.5 if whole.use_rslora else growth  # type: ignore[assignment]
    return whole


def restore_state(adapted: PeftModel, state: Mapping[str, Tensor]) -> None:
    """Put trained and frozen pairs back to what `whole_state` gave."""
    trained = dict(state)
    for path, layer in lora_layers(adapted).items():
        names, rank = _names(path), layer.r[ADAPTER_NAME]
        down, up = (state[name] for name in names)
        if down.shape[0] > rank:
            hold_frozen(layer, Pair(down[rank:].clone(), up[:, rank:].clone()))
            trained |= zip(names, (down[:rank], up[:, :rank]), strict=True)
    set_peft_model_state_dict(adapted, trained)


def _names(path: str) -> tuple[str, str]:
    return f"{path}.lora_A.weight", f"{path}.lora_B.weight"
