"""Recomputed activations give the very same gradients, and are chosen only where kept ones would not fit."""

import psutil
import pytest
import torch

from tunewise.contracts.run import BaseModelRef, LoraSpec
from tunewise.data.template import Rendered
from tunewise.modeling import memory
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.lora import add_adapter
from tunewise.modeling.memory import activation_bytes, keep_within_memory, recompute_activations
from tunewise.train.criterion import Unit
from tunewise.train.methods.supervised import TokenCriterion
from tunewise.train.step import accumulate_gradients

ROWS = [
    Unit((Rendered(list(range(5, 45)), [0, 1] * 20),)),
    Unit((Rendered(list(range(60, 80)), [0, 0, 1, 1] * 5),)),
]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_are_the_same_bit_for_bit(dropout: float, tiny_model: BaseModelRef) -> None:
    def gradients(*, recompute: bool) -> list[torch.Tensor]:
        base = load_frozen(tiny_model, "float32")
        if recompute:
            recompute_activations(base)
        torch.manual_seed(1)
        adapted = add_adapter(base, LoraSpec(rank=4, alpha=8.0, dropout=dropout, targets="all-linear"))
        adapted.train()
        weights = [weight for weight in adapted.parameters() if weight.requires_grad]
        for weight in weights:
            torch.nn.init.normal_(weight, std=0.1)
        accumulate_gradients(base, TokenCriterion(share_prefixes=True), ROWS, [0, 1])
        return [weight.grad for weight in weights if weight.grad is not None]

    kept, recomputed = gradients(recompute=False), gradients(recompute=True)
    assert len(kept) == 28
    assert all(torch.equal(mine, other) for mine, other in zip(kept, recomputed, strict=True))


def test_recomputing_begins_where_memory_ends(tiny_model: BaseModelRef, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_frozen(tiny_model, "float32")
    assert not keep_within_memory(model, 1024)
    assert not model.is_activation_checkpointing
    free = psutil.virtual_memory().available
    monkeypatch.setattr(memory, "SHARE_OF_FREE_MEMORY", activation_bytes(model, 1000) / free)
    assert keep_within_memory(model, 2048)
    assert model.is_activation_checkpointing


def test_what_training_will_take_counts_and_layers_that_are_not_trained_do_not(
    tiny_model: BaseModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_frozen(tiny_model, "float32")
    free = psutil.virtual_memory().available
    assert activation_bytes(model, 1024, top_layers=1) * 2 == activation_bytes(model, 1024)
    monkeypatch.setattr(memory, "SHARE_OF_FREE_MEMORY", activation_bytes(model, 3000) / free)
    assert not keep_within_memory(model, 4000, top_layers=1)
    assert keep_within_memory(model, 2000, spoken_for=free // 2)
