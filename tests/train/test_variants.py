"""Every way of training an adapter: stopped and gone on with it ends in the same bits, and is saved as trained."""

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from train.making import (
    SUPERVISED,
    events_of,
    make_run,
    make_spec,
    pause_and_go_on,
    result_of,
    row,
    told,
    train,
    write_rows,
)
from tunewise.contracts.run import ADAPTER_WEIGHTS_FILE, BaseModelRef, LoraSpec, ParentAdapter, TrainSpec
from tunewise.data.template import Template
from tunewise.errors import TrainingError
from tunewise.modeling.frozen_pairs import add_frozen
from tunewise.modeling.loading import load_frozen
from tunewise.modeling.lora import Pair, add_adapter, lora_layers, trained_pair
from tunewise.train.methods.supervised import TokenCriterion
from tunewise.train.optimizer import make_optimizer, set_learning_rate
from tunewise.train.parent import load_parent
from tunewise.train.rows import load_rows
from tunewise.train.step import evaluate

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
LORA = LoraSpec(rank=4, alpha=8.0, dropout=0.0, targets="all-linear")
CHANGES: dict[str, dict[str, object]] = {
    "rslora": {"lora": LORA.model_copy(update={"rank_stabilized": True})},
    "dora": {"lora": LORA.model_copy(update={"dora": True})},
    "lora+": {"lora": LORA.model_copy(update={"plus_ratio": 8.0})},
    "pissa": {"lora": LORA.model_copy(update={"init": "pissa"})},
    "olora": {"lora": LORA.model_copy(update={"init": "olora", "dropout": 0.1})},
    "top layer": {"top_layers": 1},
    "stack": {"lora": LORA.model_copy(update={"rank": 2, "alpha": 2.0})},
}


@pytest.fixture(scope="module")
def spec(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    files = tmp_path_factory.mktemp("data")
    rows = write_rows(files / "train.jsonl", [row(number) for number in range(16)])
    valid = write_rows(files / "valid.jsonl", [row(number) for number in range(100, 104)])
    return make_spec(tiny_model, rows, valid, lora=LORA, n_epochs=2)


@pytest.fixture(scope="module")
def parent(spec: TrainSpec, tmp_path_factory: pytest.TempPathFactory) -> ParentAdapter:
    run = make_run(tmp_path_factory.mktemp("parent") / "run", spec)
    assert train(run) == 0
    return adapter_of(run).model_copy(update={"use": "stack"})


def adapter_of(run: Path) -> ParentAdapter:
    digest = sha256((run / "adapter" / ADAPTER_WEIGHTS_FILE).read_bytes()).hexdigest()
    return ParentAdapter(path=run / "adapter", sha256=digest)


@pytest.mark.parametrize("name", CHANGES)
def test_paused_and_gone_on_with_it_ends_in_the_same_bits_and_loads_with_peft(
    name: str, spec: TrainSpec, parent: ParentAdapter, tmp_path: Path
) -> None:
    changed = spec.model_copy(update=CHANGES[name] | ({"parent": parent} if name == "stack" else {}))
    straight, paused = (make_run(tmp_path / each, changed) for each in ("straight", "paused"))
    assert train(straight) == 0
    pause_and_go_on(paused)
    assert result_of(paused).adapter_sha256 == result_of(straight).adapter_sha256
    assert told(paused) == told(straight)
    losses = [event.data.train_loss for event in events_of(straight) if event.type == "metrics" and event.data]
    assert losses[-1] < losses[0]
    base = load_frozen(spec.base_model, "float32")
    PeftModel.from_pretrained(base, str(straight / "adapter"))
    assert spec.valid_file is not None
    rows = load_rows(
        spec.valid_file, Template.load(spec.base_model.path), SUPERVISED, max_tokens=512, overlong="error"
    ).units
    found = evaluate(base, TokenCriterion(share_prefixes=True), rows, range(len(rows))).loss
    assert found == pytest.approx(result_of(straight).valid_loss, rel=1e-5)


def test_a_stack_begins_with_the_parents_loss(spec: TrainSpec, parent: ParentAdapter) -> None:
    losses = []
    rows = load_rows(
        spec.train_file, Template.load(spec.base_model.path), SUPERVISED, max_tokens=512, overlong="error"
    ).units
    for use in ("stack", "continue"):
        base = load_frozen(spec.base_model, "float32")
        load_parent(parent.model_copy(update={"use": use}), add_adapter(base, LORA))
        losses.append(evaluate(base, TokenCriterion(share_prefixes=True), rows, range(len(rows))).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_stack_that_would_leave_out_a_layer_of_the_parent_is_refused(spec: TrainSpec, parent: ParentAdapter) -> None:
    narrow = add_adapter(load_frozen(spec.base_model, "float32"), LORA, top_layers=1)
    with pytest.raises(TrainingError, match=r"it changes model.layers.0.*choose targets") as refused:
        load_parent(parent, narrow)
    assert refused.value.code == "parent_does_not_fit"


def test_a_stack_of_magnitudes_is_refused(spec: TrainSpec, parent: ParentAdapter) -> None:
    dora = add_adapter(load_frozen(spec.base_model, "float32"), LORA.model_copy(update={"dora": True}))
    with pytest.raises(TrainingError, match=r"choose parent\.use continue"):
        load_parent(parent, dora)


def test_the_rate_of_b_is_the_ratio_times_that_of_a(spec: TrainSpec) -> None:
    plus = spec.model_copy(update=CHANGES["lora+"])
    optimizer = make_optimizer(add_adapter(load_frozen(spec.base_model, "float32"), plus.lora), plus)
    for rate in (1e-3, 5e-4):
        set_learning_rate(optimizer, rate)
        assert [group["lr"] for group in optimizer.param_groups] == [rate, 8 * rate]
    slow, fast = (group["params"] for group in optimizer.param_groups)
    assert {weight.shape[0] for weight in slow} == {4}
    assert {weight.shape[1] for weight in fast} == {4}


def test_what_is_frozen_has_no_gradient(spec: TrainSpec) -> None:
    adapted = add_adapter(load_frozen(spec.base_model, "float32"), LORA)
    path, layer = next(iter(lora_layers(adapted).items()))
    down, up = trained_pair(layer)
    add_frozen(adapted, {path: Pair(torch.randn(3, down.shape[1]), torch.randn(up.shape[0], 3))})
    layer(torch.randn(5, down.shape[1])).sum().backward()
    assert {name for name, weight in layer.named_parameters() if weight.grad is not None} == {
        "lora_A.default.weight",
        "lora_B.default.weight",
    }
