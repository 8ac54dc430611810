"""The reason of every number: the rule where it was left open, the wish where it was not."""

from pathlib import Path

from tunewise import planning
from tunewise.contracts.check import FittedRows
from tunewise.contracts.fine_tuning import Hyperparameters, Method, Supervised, TrainingRequest
from tunewise.contracts.run import BaseModelRef, DataFile, TrainSpec
from tunewise.jobs.explanation import Reason, explain
from tunewise.machine import Machine

BASE = BaseModelRef(name="m", path=Path("m"), revision="0" * 64, parameters=134_515_008, context_length=8192)
PLAIN_CPU = Machine(name="cpu", cores=2, memory_bytes=24 << 30, bfloat16=False, gflops=100.0)
BF16_CPU = PLAIN_CPU.model_copy(update={"bfloat16": True})
FITTED = FittedRows(rows=400, tokens=60_000, longest=200)
FREE: frozenset[str] = frozenset({"n_epochs", "batch_size", "learning_rate", "lora_rank", "lora_alpha", "dtype"})


def spec(request: TrainingRequest, machine: Machine = PLAIN_CPU) -> TrainSpec:
    return planning.resolve(
        request,
        base_model=BASE,
        train_file=DataFile(path=Path("train.jsonl"), sha256="0" * 64, rows=FITTED.rows),
        valid_file=None,
        max_tokens=2048,
        overlong="error",
        machine=machine,
        versions={},
    )


def reasons(request: TrainingRequest, machine: Machine = PLAIN_CPU) -> dict[str, Reason]:
    told = explain(request, spec(request, machine), machine, FITTED)
    return {reason.name: reason for reason in told}


def test_every_number_that_was_left_open_is_explained_by_its_rule() -> None:
    told = reasons(TrainingRequest())
    assert told.keys() >= FREE
    assert all("as asked for" not in told[name].why for name in FREE)
    assert (told["n_epochs"].value, told["lora_rank"].value, told["dtype"].value) == ("3", "16", "float32")
    assert "no bfloat16 instructions" in told["dtype"].why
    assert "has bfloat16 instructions" in reasons(TrainingRequest(), BF16_CPU)["dtype"].why


def test_what_was_asked_for_is_said_to_be() -> None:
    asked = Hyperparameters(n_epochs=7, batch_size=5)
    told = reasons(TrainingRequest(method=Method(supervised=Supervised(hyperparameters=asked)), dtype="float32"))
    assert {told[name].why for name in ("n_epochs", "batch_size", "dtype")} == {"as asked for"}


def test_of_preferences_with_every_weight_both_smaller_steps_are_explained() -> None:
    request = TrainingRequest(method=Method(type="dpo"), weights="full")
    told = reasons(request)
    assert (told["beta"].value, told["learning_rate"].value) == ("0.1", "5e-06")
    assert "preferences" in told["learning_rate"].why
    assert "every weight moves" in told["learning_rate"].why
    assert "lora_rank" not in told
    assert "round most of a step away" in told["dtype"].why


def test_what_was_measured_is_told_at_the_end() -> None:
    speed = Reason("tokens_per_second", "800", "measured in two steps")
    told = explain(TrainingRequest(), spec(TrainingRequest()), PLAIN_CPU, FITTED, measured=[speed])
    assert told[-1] == speed


def test_plain_text_is_counted_in_blocks_and_read_once() -> None:
    told = reasons(TrainingRequest(method=Method(type="pretraining")))
    assert told["n_epochs"].why.startswith("400 blocks: text is read once")
    assert told["batch_size"].why.startswith("400 blocks: ")
