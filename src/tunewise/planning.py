"""Planning: "auto" becomes numbers, and a job's time, memory and cost are estimated before it is started.

Pure functions of what they are given: the request, the rows' counts, the base model and the machine. Knows no files,
no processes and no torch. Each rule's source stands in its docstring.
"""

from typing import assert_never

from tunewise.contracts.check import Estimate, FittedRows
from tunewise.contracts.fine_tuning import (
    PREFERENCES,
    Dpo,
    Dtype,
    Kto,
    LoraRequest,
    Method,
    MethodType,
    Orpo,
    Overlong,
    Pretraining,
    Supervised,
    TrainingRequest,
    Weights,
)
from tunewise.contracts.run import (
    BaseModelRef,
    DataFile,
    DpoObjective,
    KtoObjective,
    LoraSpec,
    Objective,
    OrpoObjective,
    PretrainingObjective,
    SupervisedObjective,
    TrainSpec,
)
from tunewise.errors import TrainingError
from tunewise.machine import Machine

# The peak learning rate at multiplier 1: gives 0.947 on the shipped example after one epoch; not swept yet
# (docs/performance.md).
BASE_LEARNING_RATE = 1e-3
DEFAULT_RANK = 16
# TRL's default for DPO, ORPO and KTO, and what their papers mostly use.
DEFAULT_BETA = 0.1
# A preference moves a model that can speak already, and a full update moves every weight: both need smaller steps.
PREFERENCE_RATE_SHARE = 0.1
FULL_RATE_SHARE = 0.05
FULL_BATCH = 8
LEAST_STEPS_PER_EPOCH = 50
# Tokens of a block of plain text: as many as are computed at once.
BLOCK_TOKENS = 1024
LEGACY_BATCH_SHARE = 0.002
# Tokens that training computes at once; tests/test_planning.py holds it to the trainer's own number.
PART_TOKENS = 1024

# Beside its float32 weight, a trained one has a gradient and AdamW's two moments.
_TRAINED_BYTES = 16
# Of 4-bit weights with their blocks' scales, doubly quantised (Dettmers et al. 2023, arXiv:2305.14314); the embeddings,
# which stay as they are, are a quarter of a small model.
_QUANTISED_BYTES = 0.52
_EMBEDDINGS_SHARE = 0.25

# Share of the machine's GEMM speed that a training step reaches, and the gain of bf16 over fp32 where the CPU has it.
_STEP_EFFICIENCY = 0.7
_BF16_SPEEDUP = 4.0
_RUNTIME_BYTES = 450_000_000
_ACTIVATION_FLOATS_PER_TOKEN_AND_SQRT_PARAMETER = 30


def longest_row(method: MethodType, context_length: int) -> int:
    """The most tokens of a row, where nobody said: the model's context; of plain text, which is cut, less."""
    return min(BLOCK_TOKENS, context_length) if method == "pretraining" else context_length


def n_epochs(rows: int) -> int:
    """The published default: OpenAI cookbook "Data preparation and analysis for chat model fine-tuning".

    Three epochs, but at least 100 and at most 25,000 rows seen, within 1 to 25 epochs.
    """
    if rows * 3 < 100:
        return min(25, max(1, 100 // max(rows, 1)))
    if rows * 3 > 25_000:
        return max(1, 25_000 // rows)
    return 3


def batch_size(rows: int) -> int:
    """Rows per optimizer step: eight fill a CPU's matrix units; fewer for small files, more for large ones.

    Small files get at least 50 steps an epoch, as OpenAI's jobs of about 100 rows ran with batch 1. The 0.2 % rule,
    capped at 256, is the one that OpenAI's legacy guide gave.
    """
    small = max(1, rows // LEAST_STEPS_PER_EPOCH)
    return min(256, max(min(FULL_BATCH, small), round(rows * LEGACY_BATCH_SHARE)))


def for_text(request: TrainingRequest, blocks: int) -> TrainingRequest:
    """A request for plain text, of which a batch counts blocks and no rows, and which is read once by default."""
    asked = request.method.hyperparameters
    numbers: dict[str, int | float] = {}
    if asked.n_epochs == "auto":
        numbers["n_epochs"] = 1
    if asked.batch_size == "auto":
        numbers["batch_size"] = batch_size(blocks)
    return request.model_copy(update={"method": request.method.with_hyperparameters(numbers)})


def resolve(
    request: TrainingRequest,
    *,
    base_model: BaseModelRef,
    train_file: DataFile,
    valid_file: DataFile | None,
    max_tokens: int,
    overlong: Overlong,
    machine: Machine,
    versions: dict[str, str],
) -> TrainSpec:
    """Fill in every "auto"; what comes out is complete, and nothing below reads a default.

    Raises:
        TrainingError: too_many_processes.
    """
    _refuse_too_many(request.processes, machine)
    asked = request.method.hyperparameters
    batch = batch_size(train_file.rows) if asked.batch_size == "auto" else asked.batch_size
    multiplier = 1.0 if asked.learning_rate_multiplier == "auto" else asked.learning_rate_multiplier
    return TrainSpec(
        base_model=base_model,
        train_file=train_file,
        valid_file=valid_file,
        n_epochs=n_epochs(train_file.rows) if asked.n_epochs == "auto" else asked.n_epochs,
        objective=objective(request.method),
        batch_size=batch,
        learning_rate=base_learning_rate(request) * multiplier,
        schedule=request.schedule,
        warmup_ratio=request.warmup_ratio,
        weight_decay=request.weight_decay,
        max_grad_norm=request.max_grad_norm,
        weights=request.weights,
        lora=lora_spec(request.lora),
        top_layers=request.top_layers,
        max_tokens=max_tokens,
        overlong=overlong,
        dtype=dtype(request, machine),
        seed=request.seed,
        valid_every_steps=10,
        valid_sample_rows=batch,
        checkpoint_minutes=request.checkpoint_minutes,
        early_stopping_patience=request.early_stopping_patience,
        threads=machine.cores,
        activation_checkpointing=request.activation_checkpointing,
        processes=request.processes,
        sharding=request.sharding,
        trackers=request.trackers,
        versions=versions,
    )


def _refuse_too_many(processes: int, machine: Machine) -> None:
    """Two processes on one core wait for each other most of the time."""
    if processes > machine.cores:
        raise TrainingError(
            "too_many_processes",
            f"training.processes is {processes}, and this machine has {machine.cores} core(s) to train on; choose at "
            f"most {machine.cores}. One process uses all cores by itself",
            param="training.processes",
        )


def objective(method: Method) -> Objective:
    """What is minimised, complete."""
    beta = method.beta if isinstance(method.beta, float) else DEFAULT_BETA
    match method.settings:
        case Supervised() as asked:
            return SupervisedObjective(
                loss_on=asked.loss_on, label_smoothing=asked.label_smoothing, neftune_alpha=asked.neftune_alpha
            )
        case Dpo() as asked:
            return DpoObjective(beta=beta, loss=asked.loss)
        case Orpo():
            return OrpoObjective(beta=beta)
        case Kto() as asked:
            return KtoObjective(
                beta=beta, desirable_weight=asked.desirable_weight, undesirable_weight=asked.undesirable_weight
            )
        case Pretraining():
            return PretrainingObjective()
        case unknown:
            assert_never(unknown)


def beta_of(objective: Objective) -> float | None:
    """None where the method has none."""
    return None if isinstance(objective, SupervisedObjective | PretrainingObjective) else objective.beta


def base_learning_rate(request: TrainingRequest) -> float:
    """The peak learning rate at multiplier 1."""
    rate = BASE_LEARNING_RATE
    if request.method.type in PREFERENCES:
        rate *= PREFERENCE_RATE_SHARE
    return rate * FULL_RATE_SHARE if request.weights == "full" else rate


def lora_spec(asked: LoraRequest) -> LoraSpec:
    """The adapter's shape, complete; alpha is twice the rank by default, so that the scale does not depend on it."""
    rank = DEFAULT_RANK if asked.rank == "auto" else asked.rank
    alpha = 2.0 * rank if asked.alpha == "auto" else asked.alpha
    return LoraSpec(rank=rank, alpha=alpha, **asked.model_dump(exclude={"rank", "alpha"}))


def dtype(request: TrainingRequest, machine: Machine) -> Dtype:
    """bfloat16 where the CPU multiplies it; emulated bfloat16 is 5 to 10 times slower than float32.

    Weights that are trained are float32: bfloat16 rounds most of a step away.
    """
    if request.weights == "full":
        return "float32"
    if request.dtype != "auto":
        return request.dtype
    return "bfloat16" if machine.bfloat16 else "float32"


def total_steps(spec: TrainSpec, rows: int) -> int:
    """Optimizer steps of the whole run over `rows`; the last batch of an epoch may be small."""
    return spec.n_epochs * -(-rows // spec.batch_size)


def estimate(
    spec: TrainSpec,
    *,
    fitted: FittedRows,
    machine: Machine,
    price_per_hour: float | None,
    measured_tokens_per_second: float | None,
) -> Estimate:
    """Time, memory and cost of a run over the rows as training takes them.

    Frozen weights take part in two products per token (forward, and the gradient of the input): 4 FLOPs for each
    parameter and token; trained ones have a gradient of their own: 6. Memory: see `memory`.
    """
    billed = fitted.tokens * spec.n_epochs
    speed = measured_tokens_per_second or _modelled_speed(spec, machine)
    seconds = billed / speed
    return Estimate(
        steps=total_steps(spec, fitted.rows),
        billed_tokens=billed,
        seconds=seconds,
        memory_bytes=memory(spec, fitted.longest),
        least_memory_bytes=least_memory(spec),
        cost=None if price_per_hour is None else price_per_hour * seconds / 3600,
        basis="measured on this machine in an earlier run"
        if measured_tokens_per_second
        else f"a {machine.gflops:.0f} GFLOP/s matrix probe; may be off by a factor of two",
    )


def memory(spec: TrainSpec, longest_row: int) -> int:
    """Peak bytes of all training processes, to about a third, while activations are kept.

    A step is computed in parts of about 1,024 tokens, or of one longer row; where a part's activations do not fit in
    memory, the trainer computes them twice instead.
    """
    part_tokens = max(PART_TOKENS, min(longest_row, spec.max_tokens))
    activations = part_tokens * _activation_bytes(spec.base_model.parameters, spec.dtype)
    return least_memory(spec) + spec.processes * activations


def peak_memory(parameters: int, dtype: Dtype, part_tokens: int = PART_TOKENS, weights: Weights = "lora") -> int:
    """Peak bytes of tuning a model of so many parameters, where `part_tokens` are computed at once."""
    return (
        _weight_bytes(parameters, dtype, weights) + _RUNTIME_BYTES + part_tokens * _activation_bytes(parameters, dtype)
    )


def least_memory(spec: TrainSpec) -> int:
    """Bytes without which no training of this model begins: activations are not counted.

    The weights and the runtime; where weights are trained, their gradients and AdamW's moments too. With `top_layers`
    these are fewer than is told: how many weights a layer has is not known here. Of several processes each has a
    runtime; they hold the weights each (ddp), or together once (fsdp).
    """
    copies = spec.processes if spec.sharding == "ddp" else 1
    weights = _weight_bytes(spec.base_model.parameters, spec.dtype, spec.weights)
    return copies * weights + spec.processes * _RUNTIME_BYTES


def _weight_bytes(parameters: int, dtype: Dtype, weights: Weights) -> int:
    """Of the weights, and of what training keeps of each."""
    match weights:
        case "lora":
            return parameters * _width(dtype)
        case "full":
            return parameters * _TRAINED_BYTES
        case "qlora":
            return int(parameters * (_QUANTISED_BYTES * (1 - _EMBEDDINGS_SHARE) + _width(dtype) * _EMBEDDINGS_SHARE))
        case _:
            assert_never(weights)


def _activation_bytes(parameters: int, dtype: Dtype) -> int:
    """Of one token."""
    return _ACTIVATION_FLOATS_PER_TOKEN_AND_SQRT_PARAMETER * _width(dtype) * int(parameters**0.5)


def _width(dtype: Dtype) -> int:
    """Bytes of a number in the frozen weights and the activations."""
    return 2 if dtype == "bfloat16" else 4


def _modelled_speed(spec: TrainSpec, machine: Machine) -> float:
    """Tokens per second from the matrix probe."""
    gain = _BF16_SPEEDUP if spec.dtype == "bfloat16" else 1.0
    products = 6 if spec.weights == "full" else 4
    return machine.gflops * 1e9 * gain * _STEP_EFFICIENCY / (products * spec.base_model.parameters)
