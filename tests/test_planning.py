"""Planning: published defaults, completeness, and estimates that move the right way."""

from pathlib import Path

import pytest

from tunewise import planning
from tunewise.contracts.check import FittedRows
from tunewise.contracts.fine_tuning import (
    Dtype,
    Hyperparameters,
    LoraRequest,
    Method,
    Pretraining,
    Supervised,
    TrainingRequest,
)
from tunewise.contracts.run import BaseModelRef, DataFile, TrainSpec
from tunewise.errors import TrainingError
from tunewise.machine import Machine

BASE = BaseModelRef(name="m", path=Path("m"), revision="0" * 64, parameters=134_515_008, context_length=8192)
PLAIN_CPU = Machine(name="cpu", cores=2, memory_bytes=24 << 30, bfloat16=False, gflops=100.0)
BF16_CPU = PLAIN_CPU.model_copy(update={"bfloat16": True})


def spec(request: TrainingRequest | None = None, *, rows: int = 400, machine: Machine = PLAIN_CPU) -> TrainSpec:
    return planning.resolve(
        request or TrainingRequest(),
        base_model=BASE,
        train_file=DataFile(path=Path("train.jsonl"), sha256="0" * 64, rows=rows),
        valid_file=None,
        max_tokens=2048,
        overlong="error",
        machine=machine,
        versions={},
    )


def test_more_processes_than_cores_are_refused() -> None:
    assert spec(TrainingRequest(processes=2)).processes == 2
    with pytest.raises(TrainingError, match="processes is 3, and this machine has 2 core") as refused:
        spec(TrainingRequest(processes=3))
    assert (refused.value.code, refused.value.param) == ("too_many_processes", "training.processes")


def test_processes_hold_the_weights_each_or_together() -> None:
    asked = (
        TrainingRequest(),
        TrainingRequest(processes=2, sharding="ddp"),
        TrainingRequest(processes=2, sharding="fsdp"),
    )
    one, each, shared = (planning.least_memory(spec(request)) for request in asked)
    assert each == 2 * one
    assert each - shared == BASE.parameters * 4


# The cookbook's own cases: 101 rows trained 3 epochs, 10 rows 10, 5 rows 20.
@pytest.mark.parametrize(("rows", "epochs"), [(101, 3), (10, 10), (5, 20), (1, 25), (33, 3), (25_000, 1), (8_334, 2)])
def test_default_epochs_are_the_published_ones(rows: int, epochs: int) -> None:
    assert planning.n_epochs(rows) == epochs


@pytest.mark.parametrize("rows", [1, 7, 10, 49, 101, 399, 400, 3_999, 10_000, 1_000_000])
def test_batches_are_within_the_api_limits_and_give_small_files_enough_steps(rows: int) -> None:
    batch = planning.batch_size(rows)
    assert 1 <= batch <= 256
    if 50 <= rows <= 4_000:
        assert rows // batch >= 50


def test_what_is_asked_for_is_kept() -> None:
    asked = TrainingRequest(
        method=Method(
            supervised=Supervised(
                hyperparameters=Hyperparameters(n_epochs=7, batch_size=5, learning_rate_multiplier=0.5)
            )
        ),
        lora=LoraRequest(rank=4, alpha=3.0),
        dtype="bfloat16",
    )
    made = spec(asked)
    assert (made.n_epochs, made.batch_size, made.lora.rank, made.lora.alpha) == (7, 5, 4, 3.0)
    assert made.learning_rate == planning.BASE_LEARNING_RATE * 0.5
    assert made.dtype == "bfloat16"


@pytest.mark.parametrize(("machine", "expected"), [(PLAIN_CPU, "float32"), (BF16_CPU, "bfloat16")])
def test_the_number_format_is_the_one_that_the_cpu_multiplies(machine: Machine, expected: Dtype) -> None:
    assert spec(machine=machine).dtype == expected


def test_a_measured_speed_replaces_the_modelled_one() -> None:
    fitted = FittedRows(rows=400, tokens=60_000, longest=200)
    modelled, measured = (
        planning.estimate(
            spec(), fitted=fitted, machine=PLAIN_CPU, price_per_hour=2.0, measured_tokens_per_second=speed
        )
        for speed in (None, 500.0)
    )
    assert measured.seconds == pytest.approx(180_000 / 500)
    assert measured.cost == pytest.approx(2.0 * 360 / 3600)
    assert "measured" in measured.basis
    assert "GFLOP/s" in modelled.basis


def test_steps_count_the_last_small_batch() -> None:
    asked = TrainingRequest(
        method=Method(supervised=Supervised(hyperparameters=Hyperparameters(n_epochs=2, batch_size=8)))
    )
    assert planning.total_steps(spec(asked), rows=101) == 2 * 13


def test_longer_rows_need_more_memory_and_larger_batches_do_not() -> None:
    assert planning.memory(spec(), 2000) > planning.memory(spec(), 200) > BASE.parameters * 4
    assert planning.memory(spec(rows=100_000), 200) == planning.memory(spec(rows=400), 200)


def test_the_estimate_is_near_a_measured_peak() -> None:
    # benchmarks/train_vs_trl.py on 32 recipe rows in float32: 2.73 GiB.
    assert planning.memory(spec(), 300) == pytest.approx(2.73 * 2**30, rel=0.35)


def test_trained_weights_take_their_gradients_and_two_moments_besides() -> None:
    full, lora = (planning.memory(spec(TrainingRequest(weights=weights)), 300) for weights in ("full", "lora"))
    assert full - lora == 12 * BASE.parameters
    assert planning.least_memory(spec(TrainingRequest(weights="full"))) > 16 * BASE.parameters


def test_four_bit_weights_take_less() -> None:
    least = [planning.least_memory(spec(TrainingRequest(weights=weights))) for weights in ("qlora", "lora")]
    assert least[0] < least[1] - BASE.parameters


def test_weights_that_are_trained_are_float32() -> None:
    request = TrainingRequest(weights="full")
    assert spec(request, machine=BF16_CPU).dtype == "float32"
    assert spec(TrainingRequest(), machine=BF16_CPU).dtype == "bfloat16"


def test_planning_counts_with_the_parts_that_training_computes() -> None:
    from tunewise.train.plan import PART_TOKENS

    assert planning.PART_TOKENS == PART_TOKENS


def test_plain_text_is_read_once_in_blocks_that_batches_count() -> None:
    asked = TrainingRequest(method=Method(type="pretraining"))
    numbers = planning.for_text(asked, blocks=189).method.hyperparameters
    assert (numbers.n_epochs, numbers.batch_size) == (1, planning.batch_size(189))
    chosen = TrainingRequest(
        method=Method(
            type="pretraining", pretraining=Pretraining(hyperparameters=Hyperparameters(n_epochs=4, batch_size=2))
        )
    )
    assert planning.for_text(chosen, blocks=189) == chosen
    assert planning.longest_row("pretraining", 8192) == planning.PART_TOKENS
    assert planning.longest_row("pretraining", 512) == planning.longest_row("supervised", 512) == 512
