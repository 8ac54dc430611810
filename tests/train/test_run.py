"""A run's result, adapter, validation and early stopping."""

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from train.making import SUPERVISED, events_of, make_run, make_spec, result_of, row, train, write_rows
from tunewise.contracts.run import BaseModelRef, TrainSpec
from tunewise.data.template import Template
from tunewise.modeling.loading import load_frozen
from tunewise.train.methods.supervised import TokenCriterion
from tunewise.train.rows import load_rows
from tunewise.train.step import evaluate

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def spec(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    directory = tmp_path_factory.mktemp("data")
    rows = [row(number, answers=1 + number % 2) for number in range(12)] + [row(12, weight=0)]
    valid = write_rows(directory / "valid.jsonl", [row(number) for number in range(100, 108)])
    return make_spec(tiny_model, write_rows(directory / "train.jsonl", rows), valid)


@pytest.fixture(scope="module")
def run(spec: TrainSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("runs") / "run", spec)
    assert train(run) == 0
    return run


def test_the_result_counts_what_was_trained(run: Path, spec: TrainSpec) -> None:
    result = result_of(run)
    template = Template.load(spec.base_model.path)
    units = load_rows(spec.train_file, template, SUPERVISED, max_tokens=512, overlong="error").units
    rows = [row for unit in units for row in unit.rows]
    assert result.steps == 9
    assert result.epochs == 3.0
    assert result.rows.model_dump() == {
        "rows": 13,
        "trained": 12,
        "truncated": 0,
        "dropped": 0,
        "nothing_to_train_on": 1,
    }
    assert result.trained_tokens == 3 * sum(len(each.ids) for each in rows)
    assert result.supervised_tokens == 3 * sum(sum(each.mask[1:]) for each in rows)
    assert result.tokens_per_second == pytest.approx(result.trained_tokens / result.seconds)
    assert result.peak_memory_bytes > 100 * 2**20


def test_rows_without_an_answer_are_told_of(run: Path) -> None:
    first = events_of(run)[0]
    assert first.level == "warn"
    assert first.message.startswith("Of 13 training rows 12 are trained on")


def test_validation_is_sampled_between_and_full_at_the_ends_of_epochs(run: Path) -> None:
    steps = [event.data for event in events_of(run) if event.type == "metrics" and event.data]
    assert [step.step for step in steps if step.valid_loss is not None] == [2, 4, 6, 8]
    assert [step.step for step in steps if step.full_valid_loss is not None] == [3, 6, 9]
    assert result_of(run).valid_loss == steps[-1].full_valid_loss
    assert result_of(run).adapter_step == 9


def test_training_lowers_the_loss(run: Path) -> None:
    steps = [event.data for event in events_of(run) if event.type == "metrics" and event.data]
    assert steps[-1].train_loss < 0.97 * steps[0].train_loss
    assert result_of(run).valid_loss == pytest.approx(min(step.full_valid_loss or 99 for step in steps))


def test_the_adapter_loads_with_peft_and_has_the_measured_loss(run: Path, spec: TrainSpec) -> None:
    base = load_frozen(spec.base_model, "float32")
    PeftModel.from_pretrained(base, str(run / "adapter"))
    assert spec.valid_file is not None
    rows = load_rows(
        spec.valid_file, Template.load(spec.base_model.path), SUPERVISED, max_tokens=512, overlong="error"
    ).units
    tally = evaluate(base, TokenCriterion(share_prefixes=False), rows, range(len(rows)))
    assert tally.loss == pytest.approx(result_of(run).valid_loss, rel=1e-5)
    assert tally.accuracy == result_of(run).valid_mean_token_accuracy


def test_the_adapter_directory_is_complete(run: Path, spec: TrainSpec) -> None:
    adapter = run / "adapter"
    weights = adapter / "adapter_model.safetensors"
    assert result_of(run).adapter_sha256 == sha256(weights.read_bytes()).hexdigest()
    assert AutoTokenizer.from_pretrained(adapter).chat_template == (adapter / "chat_template.jinja").read_text()
    card = (adapter / "README.md").read_text()
    assert spec.train_file.sha256 in card
    assert "| learning_rate | 0.005 |" in card
    assert "| LoRA rank | 4 |" in card


def test_checkpoints_are_adapters_too(run: Path, spec: TrainSpec) -> None:
    base = AutoModelForCausalLM.from_pretrained(spec.base_model.path, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, str(run / "checkpoints" / "step-3"))
    assert loaded.peft_config["default"].to_dict()["r"] == 4


def test_early_stopping_ends_with_the_best_epoch(spec: TrainSpec, tmp_path: Path) -> None:
    # A rate at which the tiny model soon gets worse.
    run = make_run(
        tmp_path / "run", spec.model_copy(update={"n_epochs": 20, "learning_rate": 3.0, "early_stopping_patience": 2})
    )
    assert train(run) == 0
    full = [e.data.full_valid_loss for e in events_of(run) if e.type == "metrics" and e.data and e.data.full_valid_loss]
    best = full.index(min(full))
    assert len(full) == best + 3 < 20
    kept = run / "checkpoints" / f"step-{(best + 1) * 3}" / "adapter_model.safetensors"
    result = result_of(run)
    assert sha256(kept.read_bytes()).hexdigest() == result.adapter_sha256
    assert (result.adapter_step, result.steps) == ((best + 1) * 3, len(full) * 3)
    assert result.valid_loss == min(full) < full[-1]
    at_best = next(e.data for e in events_of(run) if e.data and e.data.step == result.adapter_step)
    assert result.valid_mean_token_accuracy == at_best.full_valid_mean_token_accuracy
    losses = [e.data.train_loss for e in events_of(run) if e.type == "metrics" and e.data][best * 3 : best * 3 + 3]
    assert result.train_loss is not None
    assert min(losses) < result.train_loss < max(losses)
    card = (run / "adapter" / "README.md").read_text()
    assert f"| steps | {result.adapter_step} |" in card
    assert f"| validation loss | {min(full):.4f} |" in card
