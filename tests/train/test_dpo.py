"""DPO against TRL's trainer: the same ids, masks, losses and gradients over fifty steps."""

import json
from pathlib import Path
from typing import Any

import pytest
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from train.making import write_rows
from train.preferences import pair, referenced, small_model
from train.trl_oracle import BATCH, begun, in_order, ours, theirs
from tunewise.contracts.fine_tuning import DpoLoss
from tunewise.contracts.run import BaseModelRef, DpoObjective
from tunewise.data.template import Template
from tunewise.train.criterion import Unit
from tunewise.train.methods.dpo import DpoCriterion
from tunewise.train.rows import load_rows

# PEFT and TRL ask transformers for names that transformers 5 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
PAIRS, STEPS, BETA = 24, 50, 0.2


@pytest.fixture(scope="module")
def model(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> BaseModelRef:
    return small_model(tiny_model, tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def units(model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> list[Unit]:
    file = write_rows(tmp_path_factory.mktemp("rows") / "pairs.jsonl", [pair(n) for n in range(PAIRS)])
    objective = DpoObjective(beta=BETA, loss="sigmoid")
    loaded = load_rows(file, Template.load(model.path), objective, max_tokens=512, overlong="error")
    return referenced(begun(model)[0], loaded.units)


def trl_row(number: int) -> dict[str, Any]:
    row = json.loads(pair(number))
    return {
        "prompt": row["input"]["messages"],
        "chosen": row["preferred_output"],
        "rejected": row["non_preferred_output"],
    }


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_fifty_steps_equal_those_of_trl(loss: DpoLoss, model: BaseModelRef, units: list[Unit], tmp_path: Path) -> None:
    order = in_order(PAIRS, STEPS)
    rows = [trl_row(number) for number in order]
    expected = theirs(DPOTrainer, DPOConfig, model, rows, tmp_path, loss_type=[loss], beta=BETA)
    told = ours(model, units, DpoCriterion(beta=BETA, loss=loss, share_prefixes=True), order)
    assert len(expected.losses) == STEPS
    assert told.losses == pytest.approx(expected.losses, rel=1e-4)
    assert told.norms == pytest.approx(expected.norms, rel=1e-4)
    assert told.losses[-1] < 0.9 * told.losses[0]
    for step, batch in enumerate(expected.batches):
        pairs = [units[at].rows for at in order[step * BATCH : (step + 1) * BATCH]]
        for at, row in enumerate([chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs]):
            length = int(batch["attention_mask"][at].sum())
            assert batch["input_ids"][at, :length].tolist() == row.ids
            assert batch["completion_mask"][at, :length].tolist() == row.mask
