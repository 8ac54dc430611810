"""A training run as files: `spec.json` goes in, `events.jsonl`, `checkpoints/` and `result.json` come out.

This module and `python -m tunewise.train RUN_DIR` are the whole border between the control plane and training.

    RUN_DIR/
      spec.json                 TrainSpec: complete; training reads no default
      events.jsonl              one RunEvent a line, `seq` counts from 1 without gaps, across restarts
      reference.safetensors     log-probabilities of preferences under the first weights; before the first step
      checkpoints/step-N/       whole or absent: written aside, then renamed
      adapter/                  what PEFT saves, with tokenizer, template, model card and `contracts.parity`
      model/                    instead, where every weight is trained: a base model's directory, with model card
      result.json               RunResult: written last, by rename
      .lock                     held (flock) by the trainer while it lives; its process id in PID_WIDTH characters
"""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from tunewise.contracts.fine_tuning import (
    DpoLoss,
    Dtype,
    LoraInit,
    LossOn,
    Overlong,
    ParentUse,
    Schedule,
    Sharding,
    Tracker,
    Weights,
)
from tunewise.contracts.frozen import Frozen

SPEC_FILE = "spec.json"
EVENTS_FILE = "events.jsonl"
RESULT_FILE = "result.json"
LOCK_FILE = ".lock"
PID_WIDTH = 20
REFERENCE_FILE = "reference.safetensors"
CHECKPOINTS_DIR = "checkpoints"
ADAPTER_DIR = "adapter"
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
MODEL_DIR = "model"
MODEL_CONFIG_FILE = "config.json"
MODEL_WEIGHTS_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
PROGRESS_FILE = "progress.json"
ADDED_TOKENS_FILE = "tunewise.json"
"""In a base model's directory: which tokens it was given on import."""
# Of a checkpoint's files, those that only training goes on from; the others are an adapter or a model.
TRAINING_STATE = frozenset({OPTIMIZER_FILE, PROGRESS_FILE})

# Of preferences only. A reward is beta times how much likelier an answer has become since the run began, in nats; of
# ORPO, which has no reference, beta times the mean log-probability of its tokens.
REWARD_METRICS = tuple(
    f"{rows}_reward_{name}" for rows in ("train", "full_valid") for name in ("chosen", "rejected", "margin", "accuracy")
)

# Told where they are known: rewards of preferences, bits per byte of plain text.
TEXT_METRICS = ("full_valid_bits_per_byte",)
OPTIONAL_METRICS = (*REWARD_METRICS, *TEXT_METRICS)

PositiveInt: TypeAlias = Annotated[int, Field(ge=1)]


class BaseModelRef(Frozen):
    """A base model on this machine: a directory of safetensors, tokenizer and template."""

    name: str = Field(description="As the user wrote it, or the catalogue name.")
    path: Path = Field(description="Directory that `transformers` loads with no network.")
    revision: str = Field(description="Content hash (sha256, hex) of what the directory was made from.")
    parameters: int = Field(description="Number of weights.")
    context_length: int = Field(description="Tokens that the model was built for.")
    added_tokens: tuple[int, ...] = Field(
        default=(), description="Tokens that the model was given on import: their rows are trained with each adapter."
    )


class DataFile(Frozen):
    """A file of rows, frozen by its content hash."""

    path: Path
    sha256: str
    rows: int


class ParentAdapter(Frozen):
    """A tuned model that is tuned further, frozen by the content hash of its weights."""

    path: Path = Field(description="Directory of the adapter.")
    sha256: str
    use: ParentUse = "continue"


class LoraSpec(Frozen):
    """The adapter's shape, complete. `targets` are the names of linear modules' last path components."""

    rank: PositiveInt
    alpha: float
    dropout: float
    targets: Literal["all-linear"] | tuple[str, ...]
    rank_stabilized: bool = False
    dora: bool = False
    init: LoraInit = "default"
    plus_ratio: float = 1.0


class SupervisedObjective(Frozen):
    """The next tokens of some messages."""

    type: Literal["supervised"] = "supervised"
    loss_on: LossOn = "assistant"
    label_smoothing: float = 0.0
    neftune_alpha: float | None = None


class DpoObjective(Frozen):
    """The better of two answers before the worse."""

    type: Literal["dpo"] = "dpo"
    beta: float
    loss: DpoLoss


class OrpoObjective(Frozen):
    """The better of two answers, and it before the worse, with no reference; `beta` is the paper's lambda."""

    type: Literal["orpo"] = "orpo"
    beta: float


class KtoObjective(Frozen):
    """Answers that are wanted, and others that are not, each by itself."""

    type: Literal["kto"] = "kto"
    beta: float
    desirable_weight: float
    undesirable_weight: float


class PretrainingObjective(Frozen):
    """The next token of plain text."""

    type: Literal["pretraining"] = "pretraining"


Objective: TypeAlias = Annotated[
    SupervisedObjective | DpoObjective | OrpoObjective | KtoObjective | PretrainingObjective,
    Field(discriminator="type"),
]


class TrainSpec(Frozen):
    """A training run, complete and replayable: the manifest of a job.

    The fields with a default are younger than others; a manifest without them means what it meant when it was written.
    """

    base_model: BaseModelRef
    train_file: DataFile
    valid_file: DataFile | None
    n_epochs: PositiveInt
    objective: Objective = SupervisedObjective()
    batch_size: PositiveInt = Field(description="Rows per optimizer step; of preferences, pairs.")
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Schedule
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    weights: Weights = "lora"
    lora: LoraSpec
    top_layers: PositiveInt | None = None
    max_tokens: PositiveInt = Field(description="The longest row, in tokens.")
    overlong: Overlong
    dtype: Dtype = Field(description="Of the frozen base weights; weights that are trained are always float32.")
    seed: int
    valid_every_steps: PositiveInt = Field(description="Steps between validation losses on a small sample.")
    valid_sample_rows: PositiveInt
    checkpoint_minutes: float
    early_stopping_patience: int | None
    parent: ParentAdapter | None = Field(default=None, description="Where the adapter's first weights come from.")
    threads: PositiveInt | None = Field(
        default=None, description="At most so many compute at once; None, as in older runs: one for each core."
    )
    activation_checkpointing: Literal["auto"] | bool = Field(
        default="auto", description="Changes no bit of the result, so it may be left to the machine at hand."
    )
    processes: PositiveInt = 1
    sharding: Sharding = "ddp"
    trackers: tuple[Tracker, ...] = ()
    versions: dict[str, str] = Field(description="Of tunewise, Python, torch, transformers and peft.")


class StepMetrics(Frozen):
    """The data of a metrics event, under OpenAI's names; losses in nats per trained token, of preferences per pair."""

    step: int
    total_steps: int
    train_loss: float
    train_mean_token_accuracy: float
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None
    full_valid_bits_per_byte: float | None = Field(
        default=None, description="Of plain text only; can be compared across tokenizers."
    )
    train_reward_chosen: float | None = Field(default=None, description="Mean reward; see REWARD_METRICS.")
    train_reward_rejected: float | None = None
    train_reward_margin: float | None = Field(default=None, description="Of chosen over rejected answers.")
    train_reward_accuracy: float | None = Field(
        default=None,
        description="Share of pairs with a margin above 0; of KTO, of answers on their side of the baseline.",
    )
    full_valid_reward_chosen: float | None = None
    full_valid_reward_rejected: float | None = None
    full_valid_reward_margin: float | None = None
    full_valid_reward_accuracy: float | None = None
    tokens: int = Field(description="Useful tokens so far: of the user's rows, padding not counted.")
    seconds: float = Field(description="Training time so far, over all restarts.")

    def told(self) -> dict[str, float | int | None]:
        """What an event tells of a step; what only some methods have, where it is known."""
        data = self.model_dump(exclude={"tokens", "seconds"})
        return {name: value for name, value in data.items() if value is not None or name not in OPTIONAL_METRICS}


class RunEvent(Frozen):
    """One line of `events.jsonl`."""

    seq: PositiveInt
    created_at: float = Field(description="Unix time, seconds.")
    level: Literal["info", "warn", "error"]
    type: Literal["message", "metrics", "checkpoint"]
    message: str
    data: StepMetrics | None = None
    checkpoint: str | None = Field(default=None, description="Path of a checkpoint, relative to the run directory.")


class RunFailure(Frozen):
    """Why a run failed: a TunewiseError in JSON."""

    code: str
    message: str
    param: str | None = None


class RowCounts(Frozen):
    """What became of the training rows; nothing is cut or left out without standing here."""

    rows: int
    trained: int
    truncated: int
    dropped: int
    nothing_to_train_on: int


class RunResult(Frozen):
    """How a run ended."""

    status: Literal["succeeded", "failed"]
    error: RunFailure | None = None
    steps: int
    epochs: float
    trained_tokens: int = Field(description="Useful tokens over all epochs: what OpenAI bills.")
    supervised_tokens: int = Field(description="Those of them that carried loss.")
    rows: RowCounts
    train_loss: float | None = Field(description="Mean over the epoch that the adapter is from.")
    valid_loss: float | None = Field(description="On all validation rows, at the end of that epoch.")
    valid_mean_token_accuracy: float | None
    valid_bits_per_byte: float | None = Field(
        default=None,
        description="Of plain text: the documents' losses with that of their ends, over their UTF-8 bytes.",
    )
    seconds: float = Field(description="Wall time of training, over all restarts, without loading.")
    tokens_per_second: float
    peak_memory_bytes: int
    adapter: str | None = Field(description="Path of the adapter, relative to the run directory.")
    adapter_sha256: str | None = Field(description="Of the adapter's weights; verified before they are hosted.")
    adapter_step: int | None = Field(
        default=None, description="The step that the tuned weights are from: with early stopping the best epoch's."
    )
    model: str | None = Field(
        default=None, description="Path of the model, relative to the run directory, where every weight was trained."
    )
    model_sha256: str | None = Field(default=None, description="Of the model's weights; as `adapter_sha256`.")

    @property
    def weights_sha256(self) -> str | None:
        """Of the tuned weights, whether an adapter's or a model's."""
        return self.adapter_sha256 or self.model_sha256
