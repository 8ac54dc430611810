"""Frozen layers computed once give the losses and gradients of layers computed each time."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from train.making import SUPERVISED, row, write_rows
from tunewise.contracts.run import BaseModelRef, LoraSpec
from tunewise.data.template import Template
from tunewise.modeling.layers import layers_of, train_weights
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.lora import add_adapter
from tunewise.modeling.trunk import FrozenTrunk, StateStore, keep_trunk
from tunewise.train.criterion import Unit
from tunewise.train.methods.supervised import TokenCriterion
from tunewise.train.rows import load_rows
from tunewise.train.step import accumulate_gradients, evaluate

LORA = LoraSpec(rank=4, alpha=8.0, dropout=0.0, targets="all-linear")
STEPS = 12


@pytest.fixture(scope="module")
def units(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> list[Unit]:
    file = write_rows(tmp_path_factory.mktemp("rows") / "train.jsonl", [row(number) for number in range(8)])
    return load_rows(file, Template.load(tiny_model.path), SUPERVISED, max_tokens=512, overlong="error").units


def losses(model: BaseModelRef, units: list[Unit], kept_in: Path | None, weights: str) -> list[float]:
    base = load_frozen(model, "float32")
    torch.manual_seed(0)
    if weights == "lora":
        add_adapter(base, LORA, top_layers=1)
    else:
        train_weights(base, top_layers=1)
    if kept_in is not None:
        assert keep_trunk(base, 1, kept_in)
    optimizer = torch.optim.AdamW([weight for weight in base.parameters() if weight.requires_grad], lr=1e-2)
    found = []
    for step in range(STEPS):
        found.append(
            accumulate_gradients(base, TokenCriterion(share_prefixes=False), units, [step % 8, (step * 3 + 1) % 8]).loss
        )
        optimizer.step()
        optimizer.zero_grad()
    return [*found, evaluate(base, TokenCriterion(share_prefixes=False), units, range(8)).loss]


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_losses_are_those_of_layers_computed_each_time(
    weights: str, tiny_model: BaseModelRef, units: list[Unit], tmp_path: Path
) -> None:
    plain = losses(tiny_model, units, None, weights)
    assert losses(tiny_model, units, tmp_path, weights) == pytest.approx(plain, rel=1e-6)
    assert plain[-1] < plain[0]


def test_what_memory_does_not_hold_is_read_back_the_same(
    tiny_model: BaseModelRef, units: list[Unit], tmp_path: Path
) -> None:
    found: list[list[float]] = []
    for memory_bytes in (2**30, 40_000, 0):
        base = load_frozen(tiny_model, "float32")
        FrozenTrunk(base, 1, StateStore(tmp_path, memory_bytes)).start()
        found.append([evaluate(base, TokenCriterion(share_prefixes=False), units, range(8)).loss for _ in range(2)])
    assert found[0] == found[1] == found[2]
    assert found[0][0] == found[0][1]
    assert not list(tmp_path.iterdir())


def test_rows_that_share_a_beginning_have_the_states_of_whole_rows(
    tiny_model: BaseModelRef, units: list[Unit], tmp_path: Path
) -> None:
    base = load_frozen(tiny_model, "float32")
    plain = evaluate(base, TokenCriterion(share_prefixes=True), units, range(8)).loss
    assert keep_trunk(base, 1, tmp_path)
    for share in (True, False):
        found = evaluate(base, TokenCriterion(share_prefixes=share), units, range(8)).loss
        assert found == pytest.approx(plain, rel=1e-6)


def test_half_precision_is_kept_as_it_is(tmp_path: Path) -> None:
    store = StateStore(tmp_path, memory_bytes=0)
    wanted: list[Tensor] = [torch.randn(length, 6).bfloat16() for length in (1, 7, 3)]
    for number, states in enumerate(wanted):
        store.put(bytes([number]), states)
    for number, states in enumerate(wanted):
        found = store.get(bytes([number]))
        assert found is not None
        assert torch.equal(found, states)
    assert store.get(b"other") is None


def test_a_known_row_is_not_computed_again(tiny_model: BaseModelRef, units: list[Unit], tmp_path: Path) -> None:
    base = load_frozen(tiny_model, "float32")
    calls = []
    layers_of(base)[0].self_attn.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    assert keep_trunk(base, 1, tmp_path)
    calls.clear()
    for _ in range(3):
        evaluate(base, TokenCriterion(share_prefixes=False), units, range(8))
    assert len(calls) == len({tuple(unit.rows[0].ids) for unit in units}) == 8


def test_nothing_is_kept_where_all_layers_train_or_one_below_draws_random_numbers(
    tiny_model: BaseModelRef, tmp_path: Path
) -> None:
    base = load_frozen(tiny_model, "float32")
    assert keep_trunk(base, 2, tmp_path) is None
    layers_of(base)[0].add_module("noise", torch.nn.Dropout(0.1))
    assert keep_trunk(base, 1, tmp_path) is None
