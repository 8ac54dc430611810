"""An adapter over 4-bit weights, where bitsandbytes is installed; elsewhere it is refused with what to do instead."""

from importlib.util import find_spec
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
from tunewise.contracts.run import BaseModelRef, TrainSpec
from tunewise.data.template import Template
from tunewise.modeling.loading import load_frozen
from tunewise.train.methods.supervised import TokenCriterion
from tunewise.train.rows import load_rows
from tunewise.train.step import evaluate

has_bitsandbytes = find_spec("bitsandbytes") is not None
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def spec(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    files = tmp_path_factory.mktemp("data")
    rows = write_rows(files / "train.jsonl", [row(number) for number in range(16)])
    valid = write_rows(files / "valid.jsonl", [row(number) for number in range(100, 104)])
    return make_spec(tiny_model, rows, valid, weights="qlora", n_epochs=2)


@pytest.mark.skipif(has_bitsandbytes, reason="bitsandbytes is installed")
def test_without_bitsandbytes_it_is_refused_with_what_to_do_instead(spec: TrainSpec, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", spec)
    assert train(run) == 5
    error = result_of(run).error
    assert error is not None
    assert (error.code, error.param) == ("qlora_unavailable", "weights")
    assert "pip install 'tunewise[qlora]', or choose weights 'lora'" in error.message


@pytest.mark.skipif(not has_bitsandbytes, reason="bitsandbytes is not installed: pip install 'tunewise[qlora]'")
def test_paused_and_gone_on_with_it_ends_in_the_same_bits_and_loads_with_peft(spec: TrainSpec, tmp_path: Path) -> None:
    straight, paused = (make_run(tmp_path / each, spec) for each in ("straight", "paused"))
    assert train(straight) == 0
    pause_and_go_on(paused)
    assert result_of(paused).adapter_sha256 == result_of(straight).adapter_sha256
    assert told(paused) == told(straight)
    losses = [event.data.train_loss for event in events_of(straight) if event.type == "metrics" and event.data]
    assert losses[-1] < losses[0]
    base = load_frozen(spec.base_model, "float32", four_bit=True)
    assert {weight.dtype for name, weight in base.named_parameters() if "proj" in name} == {torch.uint8}
    PeftModel.from_pretrained(base, str(straight / "adapter"))
    assert spec.valid_file is not None
    rows = load_rows(
        spec.valid_file, Template.load(spec.base_model.path), SUPERVISED, max_tokens=512, overlong="error"
    ).units
    found = evaluate(base, TokenCriterion(share_prefixes=True), rows, range(len(rows))).loss
    assert found == pytest.approx(result_of(straight).valid_loss, rel=1e-5)
