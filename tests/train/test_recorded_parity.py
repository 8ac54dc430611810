"""What a run records for the parity gate: the live model's own answers, within bounds, and those of what it wrote."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from serve.running import peft_warnings
from train.making import make_run, make_spec, pause_and_go_on, row, train, write_rows
from tunewise.contracts.run import BaseModelRef, LoraSpec, TrainSpec
from tunewise.data.template import Rendered, Template
from tunewise.modeling.parity import read_parity, readings_of, require_parity, tolerance
from tunewise.serve.local import LocalEngine
from tunewise.train.criterion import Unit
from tunewise.train.parity import NEW_TOKENS, PROMPTS, TEXT_TOKENS, TOTAL_TOKENS, prompts_of

LORA = LoraSpec(rank=4, alpha=8.0, dropout=0.0, targets="all-linear")
RUNS: dict[str, dict[str, object]] = {
    "lora": {},
    "dora": {"lora": LORA.model_copy(update={"dora": True})},
    "pissa": {"lora": LORA.model_copy(update={"init": "pissa"})},
    "dropout": {"lora": LORA.model_copy(update={"dropout": 0.2})},
    "top layer": {"top_layers": 1},
    "early stopping": {"early_stopping_patience": 1, "learning_rate": 0.3, "n_epochs": 4},
    "recomputed": {"activation_checkpointing": True},
    "full": {"weights": "full"},
    "two processes that share": {"processes": 2, "sharding": "fsdp"},
}


@pytest.fixture(scope="module")
def spec(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    files = tmp_path_factory.mktemp("data")
    rows = write_rows(files / "train.jsonl", [row(number) for number in range(16)])
    valid = write_rows(files / "valid.jsonl", [row(number) for number in range(100, 104)])
    return make_spec(tiny_model, rows, valid, lora=LORA, n_epochs=1)


def tuned(run: Path, base: BaseModelRef) -> tuple[Path, Any]:
    """What a run has left, as transformers and PEFT load it."""
    if (run / "model").is_dir():
        return run / "model", AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    with peft_warnings():
        return run / "adapter", PeftModel.from_pretrained(plain, str(run / "adapter")).eval().get_base_model()


@pytest.mark.parametrize("name", RUNS)
def test_what_was_written_answers_as_was_recorded(name: str, spec: TrainSpec, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", spec.model_copy(update=RUNS[name]))
    assert train(run) == 0
    directory, model = tuned(run, spec.base_model)
    parity = read_parity(directory)
    assert parity is not None
    assert parity.dtype == "float32"
    assert 2 <= len(parity.prompts) <= 4
    assert all(prompt.continuation for prompt in parity.prompts)
    found = require_parity(
        parity.prompts,
        [readings_of(model, prompt) for prompt in parity.prompts],
        tolerance("float32"),
        what=name,
        decode=Template.load(spec.base_model.path).decode,
    )
    assert found.near_ties == 0
    if directory.name == "adapter":
        with LocalEngine(spec.base_model.path, torch.float32) as local:
            local.engine.load_adapter("tuned", directory)


def test_a_run_that_was_stopped_records_the_same(spec: TrainSpec, tmp_path: Path) -> None:
    longer = spec.model_copy(update={"n_epochs": 3})
    straight, paused = (make_run(tmp_path / name, longer) for name in ("straight", "paused"))
    assert train(straight) == 0
    pause_and_go_on(paused)
    assert read_parity(paused / "adapter") == read_parity(straight / "adapter")


def unit(prompt: int, answer: int, first: int = 0) -> Unit:
    ids = [first, *range(1, prompt + answer)]
    return Unit((Rendered(ids, [0] * prompt + [1] * answer),))


def test_the_shortest_prompts_are_taken_and_bounded_in_all() -> None:
    units = [unit(prompt=10 + number, answer=5, first=number) for number in range(30)]
    chosen = prompts_of(units)
    assert [len(prompt) for prompt in chosen] == list(range(10, 10 + len(chosen)))
    spent = sum(len(prompt) + NEW_TOKENS for prompt in chosen)
    assert TOTAL_TOKENS - (10 + len(chosen)) - NEW_TOKENS < spent <= TOTAL_TOKENS
    assert len(prompts_of([unit(prompt=2, answer=5, first=number) for number in range(30)])) == PROMPTS
    assert [len(prompt) for prompt in prompts_of([unit(prompt=200 + at, answer=5) for at in range(9)])] == [200]


def test_equal_prompts_are_taken_once() -> None:
    assert len(prompts_of([unit(prompt=10, answer=5)] * 9)) == 1


def test_a_prompt_beyond_all_bounds_keeps_its_first_token_and_its_end() -> None:
    (prompt,) = prompts_of([unit(prompt=3000, answer=5, first=9)])
    assert len(prompt) == TOTAL_TOKENS - NEW_TOKENS
    assert (prompt[0], prompt[-1]) == (9, 2999)


def test_a_document_has_its_beginning_for_a_prompt() -> None:
    document = Unit((Rendered(list(range(100)), [0] + [1] * 99),))
    assert prompts_of([document]) == [list(range(TEXT_TOKENS))]
